"""What keeping values costs: everything, residual streams, one layer's patterns; and what is left alive afterwards."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from _measure import LOGITS, Measured, Setting, compare, largest_difference, left_alive, number

import probe

RESIDUALS = ["resid_pre", "resid_mid", "resid_post"]
RELATIVE = 5e-4
"""How far values may be apart, over the largest of them: the default model's residual streams reach 20,000, patterns 1.
At 1,024 tokens its patterns are 1.8e-4 from those of Hugging Face and of TransformerLens alike."""


def measure(setting: Setting) -> Iterator[Measured]:
    """All of it."""
    for n_pos in setting.lengths(16, 256, 1024):
        yield from everything(setting, n_pos)
        yield from residuals(setting, n_pos)
        yield from one_pattern(setting, n_pos)
    if setting.device == "cpu":
        yield from thin(setting)
    yield from alive(setting)


def everything(setting: Setting, n_pos: int) -> Iterator[Measured]:
    """Every value of the pass; against Hugging Face, what it can return: residual streams and patterns."""
    model, rivals, tokens = setting.model, setting.rivals, setting.tokens(n_pos)
    bridge, eager = rivals.transformer_lens, rivals.huggingface_eager

    def ours():
        return probe.record(model, tokens)

    @torch.no_grad()
    def transformer_lens():
        return bridge.run_with_cache(tokens)[1]

    yield compare(
        f"record everything, {n_pos} tokens", "TransformerLens", ours, transformer_lens, setting,
        same=against_cache("resid_post", "pattern"), tolerance=RELATIVE, bar=1.0,
    )  # fmt: skip

    def same_outputs():
        return probe.record(model, tokens, sites=["resid_pre", "pattern"])

    @torch.no_grad()
    def huggingface():
        return eager(tokens, use_cache=False, output_hidden_states=True, output_attentions=True)

    yield compare(
        f"record residuals and patterns, {n_pos} tokens", "Hugging Face eager", same_outputs, huggingface, setting,
        same=against_outputs, tolerance=RELATIVE, bar=1.1,
    )  # fmt: skip
    if rivals.nnsight is not None and hasattr(eager.model, "layers"):
        yield compare(
            f"record everything, {n_pos} tokens", "nnsight", ours, trace_everything(setting, tokens), setting,
            same=against_trace, tolerance=RELATIVE, bar=1.0, note="nnsight: 13 values of a layer, ours: all 22",
        )  # fmt: skip


def residuals(setting: Setting, n_pos: int) -> Iterator[Measured]:
    """The residual stream at three places of every layer, beside a pass that keeps nothing, and others' ways."""
    model, rivals, tokens = setting.model, setting.rivals, setting.tokens(n_pos)

    def ours():
        return probe.record(model, tokens, sites=RESIDUALS)

    def outputs_only():
        return probe.record(model, tokens, sites=["resid_post"])

    @torch.no_grad()
    def nothing():
        return model(tokens)

    @torch.no_grad()
    def huggingface():
        return rivals.huggingface(tokens, use_cache=False, output_hidden_states=True)

    @torch.no_grad()
    def transformer_lens():
        return rivals.transformer_lens.run_with_cache(tokens, names_filter=lambda name: "resid" in name)[1]

    case = f"record residuals, {n_pos} tokens"
    yield compare(
        case, "our plain pass", ours, nothing, setting, bar=1.03,
        same=lambda mine, logits: largest_difference(mine.logits, logits),
        tolerance=0.0 if setting.device == "cpu" else LOGITS,
    )  # fmt: skip
    yield compare(
        f"record resid_post, {n_pos} tokens", "Hugging Face sdpa", outputs_only, huggingface, setting, bar=1.03,
        same=lambda mine, outputs: largest_difference(mine.logits, outputs.logits), tolerance=LOGITS,
    )  # fmt: skip
    yield compare(
        case, "TransformerLens", ours, transformer_lens, setting, same=against_cache("resid_post"), tolerance=RELATIVE,
        bar=1.0,
    )  # fmt: skip


def one_pattern(setting: Setting, n_pos: int) -> Iterator[Measured]:
    """The attention of one layer in the middle."""
    model, bridge, tokens = setting.model, setting.rivals.transformer_lens, setting.tokens(n_pos)
    layer = model.config.n_layers // 2

    def ours():
        return probe.record(model, tokens, sites="pattern", layers=layer)

    @torch.no_grad()
    def theirs():
        name = f"blocks.{layer}.attn.hook_pattern"
        return bridge.run_with_cache(tokens, names_filter=name)[1]

    yield compare(
        f"record one layer's patterns, {n_pos} tokens", "TransformerLens", ours, theirs, setting,
        same=against_cache("pattern", layers=[layer]), tolerance=RELATIVE, bar=1.0,
    )  # fmt: skip


def thin(setting: Setting) -> Iterator[Measured]:
    """As many layers, so narrow that their arithmetic takes no time: what is left is the calls, which is what a GPU
    waits for when it is given one short prompt."""
    (n_pos,) = setting.lengths(16)
    narrow = Narrow(setting.source, setting.device, setting.quick, setting.budget)
    model, bridge, tokens = narrow.model, narrow.rivals.transformer_lens, narrow.tokens(n_pos)

    def ours():
        return probe.record(model, tokens)

    @torch.no_grad()
    def nothing():
        return model(tokens)

    @torch.no_grad()
    def transformer_lens():
        return bridge.run_with_cache(tokens)[1]

    case = f"record everything, {n_pos} tokens, layers of no width"
    yield compare(
        case, "our plain pass", ours, nothing, narrow,
        same=lambda mine, logits: largest_difference(mine.logits, logits), tolerance=LOGITS,
    )  # fmt: skip
    yield compare(
        case, "TransformerLens", ours, transformer_lens, narrow, same=against_cache("resid_post", "pattern"),
        tolerance=RELATIVE, bar=1 / 3,
    )  # fmt: skip


class Narrow(Setting):
    """The model's layers and heads, of eight dimensions each, drawn at random."""

    @cached_property
    def model(self) -> probe.GPT:
        """Ours."""
        whole = super().model
        d_head = 8
        config = dataclasses.replace(
            whole.config, d_model=whole.config.n_heads * d_head, d_head=d_head, d_mlp=8 * d_head, rotary_dim=None
        )
        torch.manual_seed(0)
        return probe.GPT(config, tokenizer=whole.tokenizer, name=f"{whole.name}, narrow")


def alive(setting: Setting) -> Iterator[Measured]:
    """Tensors that stay after the result of a call is dropped."""
    (n_pos,) = setting.lengths(64)
    model, bridge, tokens = setting.model, setting.rivals.transformer_lens, setting.tokens(n_pos)

    @torch.no_grad()
    def theirs():
        return bridge.run_with_cache(tokens)

    case = f"left alive after recording everything, {n_pos} tokens"
    yield number(case, [left_alive(lambda: probe.record(model, tokens))], "MB", bar=0.0)
    yield number(f"{case}: TransformerLens", [left_alive(theirs)], "MB")


def against_cache(*sites: str, layers: list[int] | None = None) -> Callable[[probe.Recording, Any], float]:
    """Compares a recording with TransformerLens's cache, at every layer of these sites."""

    def difference(mine: probe.Recording, cache: Any) -> float:
        names = [(site, layer) for site in sites for layer in layers or range(mine.config.n_layers)]
        full = {"resid_post": "hook_resid_post", "pattern": "attn.hook_pattern"}
        return max(relative(mine[site, layer], cache[f"blocks.{layer}.{full[site]}"]) for site, layer in names)

    return difference


def against_outputs(mine: probe.Recording, outputs: Any) -> float:
    """Compares a recording with Hugging Face's patterns and hidden states (the last is normed)."""
    layers = range(mine.config.n_layers)
    return max(
        *(relative(mine["resid_pre", layer], outputs.hidden_states[layer]) for layer in layers),
        *(relative(mine["pattern", layer], outputs.attentions[layer]) for layer in layers),
        relative(mine.logits, outputs.logits),
    )


def against_trace(mine: probe.Recording, kept: list[dict[str, Any]]) -> float:
    """Compares a recording with what nnsight saved."""
    return max(
        max(relative(mine["resid_post", layer], values["out"]), relative(mine["pattern", layer], values["pattern"]))
        for layer, values in enumerate(kept)
    )


def relative(mine: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, over the largest value."""
    return largest_difference(mine, other) / float(other.abs().max())


def trace_everything(setting: Setting, tokens: torch.Tensor) -> Callable[[], list[dict[str, torch.Tensor]]]:
    """What nnsight's user writes to keep what a layer computes."""
    wrapped = setting.rivals.nnsight

    @torch.no_grad()
    def theirs():
        kept = []
        with wrapped.trace(tokens, use_cache=False):
            for layer in wrapped.model.layers:
                values = {"pre": layer.input.save(), "ln1": layer.input_layernorm.output.save()}
                values |= {
                    "q": layer.self_attn.q_proj.output.save(),
                    "k": layer.self_attn.k_proj.output.save(),
                    "v": layer.self_attn.v_proj.output.save(),
                    "z": layer.self_attn.o_proj.input.save(),
                    "attn_out": layer.self_attn.output[0].save(),
                    "pattern": layer.self_attn.output[1].save(),
                    "ln2": layer.post_attention_layernorm.output.save(),
                    "gate": layer.mlp.gate_proj.output.save(),
                    "up": layer.mlp.up_proj.output.save(),
                    "post": layer.mlp.down_proj.input.save(),
                    "out": layer.output.save(),
                }
                kept.append(values)
            kept.save()
        return kept

    return theirs
