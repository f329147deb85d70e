"""A pass of which nothing is recorded, and passes over some of the layers."""

from collections.abc import Iterator

import torch
from _measure import LOGITS, Measured, Setting, compare, largest_difference

import probe


def measure(setting: Setting) -> Iterator[Measured]:
    """All of it."""
    for batch in (1, 8):
        for n_pos in setting.lengths(16, 64, 256, 1024):
            yield plain(setting, n_pos, batch)
    (n_pos,) = setting.lengths(256)
    yield from part(setting, n_pos)


def plain(setting: Setting, n_pos: int, batch: int) -> Measured:
    """Logits at every position."""
    model, theirs, tokens = setting.model, setting.rivals.huggingface, setting.tokens(n_pos, batch)

    @torch.no_grad()
    def ours():
        return model(tokens)

    @torch.no_grad()
    def huggingface():
        return theirs(tokens, use_cache=False).logits

    return compare(
        f"plain pass, {batch} x {n_pos} tokens", "Hugging Face sdpa", ours, huggingface, setting,
        same=largest_difference, tolerance=LOGITS, bar=1.02,
    )  # fmt: skip


def part(setting: Setting, n_pos: int) -> Iterator[Measured]:
    """A pass costs the layers that it runs: the last alone, and the first two."""
    model, tokens, last = setting.model, setting.tokens(n_pos), setting.model.config.n_layers - 1
    bridge = setting.rivals.transformer_lens
    resid = probe.record(model, tokens, sites="resid_pre", layers=last, logits=False)["resid_pre", last]

    def only_last():
        return probe.record(model, resid, sites=[], start_at_layer=last).logits

    @torch.no_grad()
    def their_last():
        return bridge(resid, start_at_layer=last)

    def first_two():
        return probe.record(model, tokens, sites="resid_post", layers=1, stop_after_layer=1)["resid_post", 1]

    @torch.no_grad()
    def their_first_two():
        return bridge(tokens, stop_at_layer=2)

    for case, ours, theirs in (
        (f"start at layer {last}, {n_pos} tokens", only_last, their_last),
        (f"stop after layer 1, {n_pos} tokens", first_two, their_first_two),
    ):
        yield compare(
            case, "TransformerLens", ours, theirs, setting, same=largest_difference, tolerance=LOGITS, bar=1.0
        )
