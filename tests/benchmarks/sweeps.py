"""Every head taken out, and every layer and position patched, against a loop of TransformerLens passes with hooks.

The loop runs a part of its passes, spread over all layers; its time for all of them is extrapolated, and says so.
"""

from collections.abc import Iterator

import torch
from _measure import Measured, Setting, compare, largest_difference, number, peak

import probe

TARGET, AGAINST = 5, 7
"""The metric is the difference of these two tokens' logits: which they are makes no difference to the cost."""
LOGITS = 1e-3
BUDGET = 200_000_000


def measure(setting: Setting) -> Iterator[Measured]:
    """All of it."""
    for n_pos, bar in zip(setting.lengths(14, 256), (1 / 12, 1 / 2.5), strict=False):
        yield ablation(setting, n_pos, bar)
    yield memory(setting, setting.lengths(64)[0])
    yield patching(setting, setting.lengths(14)[0])


def ablation(setting: Setting, n_pos: int, bar: float) -> Measured:
    """Zero in place of each head's z, after the first position."""
    model, bridge, tokens = setting.model, setting.rivals.transformer_lens, setting.tokens(n_pos)
    heads = [(layer, head) for layer in range(model.config.n_layers) for head in range(model.config.n_heads)]
    some = spread_out(heads, 4 if setting.quick else 30 if n_pos < 64 else 10)

    def ours():
        sweep = probe.ablation_sweep(
            model, tokens.cpu(), metric=probe.logit_difference(TARGET, AGAINST), value="zero", progress=False
        )
        return sweep.effects[[heads.index(head) for head in some], 0]

    @torch.inference_mode()
    def loop():
        def without(layer, head):
            def zero(z, hook):
                z[:, 1:, head] = 0.0
                return z

            return bridge.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])

        return torch.stack([contrast(without(*head)) for head in some]) - contrast(bridge(tokens))

    return compare(
        f"ablation of all {len(heads)} heads, {n_pos} tokens", "a loop of TransformerLens", ours, loop, setting,
        same=largest_difference, tolerance=LOGITS, bar=bar, scale=(len(heads) + 1) / (len(some) + 1),
        note=f"loop: {len(some)} heads timed, extrapolated",
    )  # fmt: skip


def memory(setting: Setting, n_pos: int) -> Measured:
    """Of a sweep that was told what it may use."""
    metric = probe.logit_difference(TARGET, AGAINST)
    tokens = setting.tokens(n_pos).cpu()
    plan = probe.plan_ablation(setting.model, tokens, metric=metric, value="zero", memory=BUDGET)
    _, grown, _ = peak(
        lambda: probe.ablation_sweep(setting.model, tokens, metric=metric, value="zero", memory=BUDGET, progress=False),
        setting.device,
    )
    case = f"memory of an ablation sweep, {n_pos} tokens"
    return number(
        case, [float("nan") if grown is None else grown], "MB", bar=BUDGET / 1e6, note=f"planned {plan.bytes / 1e6:.0f}"
    )


def patching(setting: Setting, n_pos: int) -> Measured:
    """The clean residual stream put into the corrupted run, at each layer and position."""
    model, bridge, clean = setting.model, setting.rivals.transformer_lens, setting.tokens(n_pos)
    corrupted = clean.clone()
    corrupted[0, 1] = (corrupted[0, 1] + 1) % model.config.d_vocab
    cells = [(layer, pos) for layer in range(model.config.n_layers) for pos in range(n_pos)]
    some = spread_out(cells, 4 if setting.quick else 32)  # every 13th of 30 x 14: all positions come

    def ours():
        found = probe.activation_patching(
            model, clean.cpu(), corrupted.cpu(), "resid_pre", metric=probe.logit_difference(TARGET, AGAINST),
            progress=False,
        )  # fmt: skip
        return found.patched[[cells.index(cell) for cell in some], 0]

    @torch.inference_mode()
    def loop():
        cache = bridge.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_resid_pre"))[1]

        def with_clean(layer, pos):
            def put(resid, hook):
                resid[:, pos] = cache[f"blocks.{layer}.hook_resid_pre"][:, pos]
                return resid

            return bridge.run_with_hooks(corrupted, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)])

        return torch.stack([contrast(with_clean(*cell)) for cell in some])

    return compare(
        f"patching resid_pre in {len(cells)} places, {n_pos} tokens", "a loop of TransformerLens", ours, loop, setting,
        same=largest_difference, tolerance=LOGITS, bar=1 / 3, scale=(len(cells) + 1) / (len(some) + 1),
        note=f"loop: {len(some)} places timed, extrapolated",
    )  # fmt: skip


def spread_out(cells: list[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """About so many of them, from all layers."""
    return cells[:: max(1, len(cells) // n)]


def contrast(logits: torch.Tensor) -> torch.Tensor:
    """The metric, on the CPU."""
    return (logits[0, -1, TARGET] - logits[0, -1, AGAINST]).cpu()
