"""Attribution patching: the effect of every patch estimated from one gradient, and checked by exact patches.

The estimate is the first term of a series: how far a value would move, times how steeply the metric depends on it
where the run is now. Where softmax saturates or a norm compensates it is wrong, sometimes by its sign; so the places
that look largest, and a random sample of the others, are patched exactly, and both are always shown side by side.
Source: Nanda, "Attribution patching" (2023); Kramar et al., "AtP*" (2024).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import checked
from probe.errors import OutOfRange, UnknownName
from probe.gpt import GPT
from probe.methods._patches import (
    By,
    Cell,
    Direction,
    Pairs,
    PatchSite,
    list_cells,
    positions_of,
    read_pairs,
    run_cells,
)
from probe.methods._schedule import MEMORY
from probe.metrics import AnyMetric, check_measured
from probe.prompts import Prompts
from probe.recording import record
from probe.results import Result
from probe.selection import Indices, select
from probe.shown import Summary, count
from probe.sites import full_name, site_dims
from probe.statistics import Groups
from probe.tasks import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class AttributionPatching(Result):
    """Estimated effects of all patches, and exact ones of those that were checked, in the metric's unit."""

    cells: tuple[Cell, ...]
    direction: Direction
    metric: str
    unit: str
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    estimated: Float[Tensor, "cell prompt"]
    """What patching each place would do, by the gradient."""
    largest: Int[Tensor, " checked"]
    """The places with the largest estimates."""
    sampled: Int[Tensor, " drawn"]
    """A random sample of the others."""
    exact: Float[Tensor, "verified prompt"]
    """What patching the checked places does: first the largest, then the sampled."""
    tokens: tuple[str, ...]
    seed: int
    manifest: Mapping[str, Any]

    @property
    def verified(self) -> Int[Tensor, " verified"]:
        """All places that were patched exactly."""
        return torch.cat([self.largest, self.sampled])

    @checked
    def correlation(self, which: str = "all") -> float:
        """Pearson's, of estimated and exact mean effects: of "all" verified places, the "largest", or the "sampled".

        NaN with fewer than three places.

        Raises:
            UnknownName: none of these.
        """
        n = len(self.largest)
        parts = {"all": slice(None), "largest": slice(0, n), "sampled": slice(n, None)}
        if which not in parts:
            raise UnknownName(f"correlation of {which!r}: known are {', '.join(parts)}")
        both = torch.stack([self.estimated[self.verified].mean(1), self.exact.mean(1)])[:, parts[which]].double()
        return float(torch.corrcoef(both)[0, 1]) if both.shape[1] >= 3 else float("nan")

    def verdict(self) -> str:
        """How far the estimates can be trusted here, in one sentence."""
        n, m = len(self.largest), len(self.sampled)
        estimated, exact = self.estimated[self.verified].mean(1), self.exact.mean(1)
        signs = int(((estimated > 0) == (exact > 0))[:n].sum())
        return (
            f"Estimated against exact: correlation {self.correlation('largest'):.2f} over the {n} largest estimates "
            f"({signs} with the right sign), {self.correlation('sampled'):.2f} over {m} random others; the largest "
            f"error is {float((estimated - exact).abs().max()):.3f} {self.unit}."
        )

    def summary(self) -> Summary:
        """How far the estimates can be trusted; `verdict()` says it in a sentence."""
        return Summary(
            f"{count(len(self.cells), 'patch', 'patches')} estimated by gradients, {len(self.verified)} checked: "
            f"{self.metric} ({self.unit})",
            {
                "correlation with exact patches, the largest": self.correlation("largest"),
                "random others": self.correlation("sampled"),
            },
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per place; exact is empty where it was not checked."""
        import pandas  # half a second that only tables need

        table = pandas.DataFrame([cell._asdict() for cell in self.cells]).astype({"head": "Int64", "position": "Int64"})
        table["estimated"] = self.estimated.mean(1).tolist()
        exact = torch.full((len(self.cells),), torch.nan)
        exact[self.verified] = self.exact.mean(1)
        table["exact"] = exact.tolist()
        table["checked"] = "no"
        table.loc[self.largest.tolist(), "checked"] = "largest"
        table.loc[self.sampled.tolist(), "checked"] = "random"
        return table


@checked
def attribution_patching(
    model: GPT,
    clean: Prompts | Task,
    corrupted: Prompts | None = None,
    sites: PatchSite | Sequence[PatchSite] = "z",
    *,
    metric: AnyMetric | None = None,
    direction: Direction = "denoise",
    by: By | None = None,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    verify_largest: int = 10,
    verify_random: int = 20,
    groups: Groups | None = None,
    document_start: bool = False,
    memory: int = MEMORY,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> AttributionPatching:
    """Estimate all patches with one gradient for each pair of prompts, and check some of them exactly.

    Args:
        verify_largest: how many of the largest estimates are patched exactly, at least 1.
        verify_random: how many of the others, drawn at random; without them nothing is known of what was missed.
        folder: keeps the exact patches.
        Others as of `activation_patching`.

    Raises:
        OutOfRange: nothing to verify.
        UnknownName: a metric that compares with the run that is patched: its gradient there is zero.
        Others as `activation_patching`.
    """
    if verify_largest < 1 or verify_random < 0:
        raise OutOfRange(
            f"verify_largest={verify_largest}, verify_random={verify_random}: estimates are always checked; expected "
            "at least 1 and 0"
        )
    pairs = read_pairs(
        model, clean, corrupted, metric=metric, direction=direction, groups=groups, document_start=document_start,
        memory=memory,
    )  # fmt: skip
    if pairs.metric.compares:
        raise UnknownName(f"metric {pairs.metric.name!r} is flat where nothing is changed: its gradient says nothing")
    cells = list_cells(model.config, pairs.clean, sites, by, layers, heads, positions)
    chosen, lengths = select(pairs.clean.lengths, positions=positions).chosen_positions, pairs.clean.lengths
    where = [[positions_of(cell, chosen[row], lengths[row]) for row in range(len(lengths))] for cell in cells]
    estimated = torch.stack([_estimates(pairs, row, cells, where) for row in range(len(lengths))], dim=1)
    order = estimated.mean(1).abs().argsort(descending=True, stable=True)
    largest, others = order[:verify_largest], order[verify_largest:]
    drawn = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:verify_random]
    sampled = others[drawn]
    verified = [cells[place] for place in torch.cat([largest, sampled]).tolist()]
    manifest = pairs.manifest(
        "attribution patching", cells=[list(cell) for cell in cells], positions=[list(row) for row in chosen],
        verify_largest=verify_largest, verify_random=verify_random, seed=seed,
    )  # fmt: skip
    found = run_cells(pairs, verified, chosen, folder=folder, manifest=manifest, progress=progress)
    if not found.complete:
        raise KeyboardInterrupt
    base = found.clean if direction == "noise" else found.corrupted
    return AttributionPatching(
        cells=cells, direction=direction, metric=pairs.metric.name, unit=pairs.metric.unit, clean=found.clean,
        corrupted=found.corrupted, estimated=estimated, largest=largest, sampled=sampled, exact=found.values - base,
        tokens=pairs.tokens, seed=seed, manifest=manifest,
    )  # fmt: skip


def _estimates(
    pairs: Pairs, row: int, cells: Sequence[Cell], where: Sequence[Sequence[tuple[int, ...]]]
) -> Float[Tensor, " cell"]:
    """Effects on one pair by the gradient: of the metric in the run that is patched, times how far each place moves."""
    model, measure = pairs.model, pairs.measures[0]
    names = list(dict.fromkeys(full_name(model.config, cell.site, cell.layer) for cell in cells))
    base = record(model, [list(pairs.base.ids[row])], sites=names, grad=True)
    source = record(model, [list(pairs.source.ids[row])], sites=names, logits=False)
    logits = base.logits[:, measure.positions[row]]
    if measure.tokens is not None:
        logits = logits[..., measure.tokens[row]]
    prompt = torch.tensor([row], device=logits.device)
    value = check_measured(pairs.metric, measure(logits, logits.detach(), prompt), [row])
    gradients = torch.autograd.grad(value.sum(), [base[name] for name in names], allow_unused=True)
    moved = {
        name: (None if gradient is None else gradient * (source[name] - base[name].detach()))
        for name, gradient in zip(names, gradients, strict=True)
    }
    found = []
    for cell, positions in zip(cells, where, strict=True):
        part = moved[full_name(model.config, cell.site, cell.layer)]
        found.append(torch.zeros(()) if part is None else _taken(part, cell, positions[row]).sum().float().cpu())
    return torch.stack(found).detach()


def _taken(part: Tensor, cell: Cell, positions: Sequence[int]) -> Tensor:
    """The entries of one place."""
    dims = site_dims(cell.site)
    along = dims.index("query_pos" if "query_pos" in dims else "pos")
    part = part.index_select(along, torch.tensor(positions, device=part.device))
    if cell.head is None:
        return part
    return part.select(dims.index("head" if "head" in dims else "kv_head"), cell.head)
