"""Text to fit on, in windows of a few tokens: the user's own, or sampled from the model itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from probe.arguments import one_or_several, several
from probe.attention import KeyValueCache
from probe.errors import BadPrompt
from probe.gpt import GPT
from probe.norms import at_least_float32
from probe.prompts import read_prompts

Texts = str | Sequence[str] | Sequence[Sequence[int]]
"""One text, several, or several as token ids."""
ROWS_AT_ONCE = 64
"""Windows sampled side by side: one product of the weights serves all of them."""


def windows_of(model: GPT, texts: Texts, length: int) -> list[list[int]]:
    """Token ids of the texts, cut into windows of at most `length` tokens; shorter than 2 are dropped.

    Raises:
        BadPrompt: no window is left.
    """
    rows = one_or_several("texts", texts)
    ids = [_ids_of(model, row) for row in rows]
    windows = [row[start : start + length] for row in ids for start in range(0, len(row), length)]
    windows = [window for window in windows if len(window) > 1]
    if len(windows) < 2:
        raise BadPrompt(f"{len(windows)} windows of text, expected at least 2: one to fit on, one to test on")
    return windows


@torch.no_grad()
def sample_batch(model: GPT, rows: int, length: int, *, seed: int) -> Int[Tensor, "row length"]:
    """`rows` texts of `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    start = None if model.tokenizer is None else model.tokenizer.document_start_id
    if start is None:
        token = torch.randint(model.config.d_vocab, (rows, 1), generator=generator)
    else:
        token = torch.full((rows, 1), start)
    cache, tokens = KeyValueCache(length), [token]
    for _ in range(length - 1):
        logits = model(token.to(model.device), cache=cache)[:, -1]
        probs = at_least_float32(logits).softmax(-1).cpu()  # drawn on the CPU: the same choice on every device
        token = torch.multinomial(probs, 1, generator=generator)
        tokens.append(token)
    return torch.cat(tokens, dim=1)


def _ids_of(model: GPT, text: str | Sequence[int]) -> list[int]:
    """Token ids of one text, however long: windows are cut from it, so the context is no limit."""
    if not isinstance(text, str):
        ids = list(several("token ids", text))
        for start in range(0, len(ids), model.config.n_ctx):
            read_prompts(model.config, model.tokenizer, ids[start : start + model.config.n_ctx])
        return ids
    if model.tokenizer is None:
        raise BadPrompt(f"text {text[:40]!r}: this model has no tokenizer; pass token ids")
    ids = model.tokenizer.encode(text)
    start = model.tokenizer.document_start_id
    return ids if start is None or ids[:1] == [start] else [start, *ids]
