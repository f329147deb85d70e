"""Activation patching: a value of one run is put into another, place by place, to see what carries the difference.

Two prompts of equal length differ in what matters ("When Mary and John ..., John gave" and "..., Mary gave"). Denoising
puts values of the clean run into the corrupted one: what restores the answer is enough for it. Noising puts corrupted
values into the clean run: what breaks the answer is needed. The two need not agree.
Sources: Vig et al., "Causal mediation analysis" (2020); Meng et al. (2022); Heimersheim and Nanda, "How to use and
interpret activation patching" (2024).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.errors import OutOfRange, UnknownName, check_choice, check_count
from probe.gpt import GPT
from probe.methods._patches import By, Cell, Direction, PatchEffects, PatchSite, list_cells, read_pairs, run_cells
from probe.methods._schedule import MEMORY
from probe.metrics import AnyMetric
from probe.prompts import Prompts
from probe.results import Result
from probe.selection import Indices, select
from probe.shown import Summary, count
from probe.statistics import Groups
from probe.tasks import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class PatchingMap(PatchEffects, Result):
    """What putting one run's value into the other does to a metric, place by place, on every pair of prompts."""

    cells: tuple[Cell, ...]
    direction: Direction
    metric: str
    unit: str
    clean: Float[Tensor, " prompt"]
    """The metric of the clean prompts."""
    corrupted: Float[Tensor, " prompt"]
    patched: Float[Tensor, "cell prompt"]
    """The metric with each place patched."""
    groups: Groups
    """Which pairs hang together, by kind."""
    tokens: tuple[str, ...]
    """The tokens of the first clean prompt, for labels."""
    complete: bool
    """False: interrupted; the prompts that were not reached are left out."""
    seed: int
    manifest: Mapping[str, Any]

    @property
    def recovered(self) -> Float[Tensor, " cell"]:
        """(patched - corrupted) / (clean - corrupted), a ratio of means: 1 is as clean, 0 as corrupted."""
        return (self.patched - self.corrupted).mean(1) / (self.clean - self.corrupted).mean()

    def grid(self, site: PatchSite | None = None) -> Float[Tensor, "layer column"]:
        """`recovered` of one site as a table: by layer, and by position or head; NaN where nothing was patched.

        Raises:
            UnknownName: a site that was not patched, or none named where there are several.
            OutOfRange: cells by head and position have three dims; read `to_dataframe()`.
        """
        sites = list(dict.fromkeys(cell.site for cell in self.cells))
        if site is None and len(sites) > 1:
            raise UnknownName(f"several sites were patched: name one of {', '.join(sites)}")
        check_choice("patched site", sites[0] if site is None else site, sites)
        chosen = [(n, cell) for n, cell in enumerate(self.cells) if cell.site == (site or sites[0])]
        if any(cell.head is not None and cell.position is not None for _, cell in chosen):
            raise OutOfRange("cells by head and position do not fit a table of two dims: read to_dataframe()")
        columns = [(cell.head if cell.head is not None else cell.position) or 0 for _, cell in chosen]
        table = torch.full((max(cell.layer for _, cell in chosen) + 1, max(columns) + 1), torch.nan)
        for column, (number, cell) in zip(columns, chosen, strict=True):
            table[cell.layer, column] = self.recovered[number]
        return table

    @checked
    def top(self, n: int = 5) -> list[tuple[Cell, float]]:
        """The n places that matter most: (cell, recovered)."""
        check_count("n", n)
        order = self.effects.mean(1).abs().argsort(descending=True, stable=True)[:n].tolist()
        return [(self.cells[place], float(self.recovered[place])) for place in order]

    def summary(self) -> Summary:
        """The places that matter most."""
        what = "clean values into corrupted runs" if self.direction == "denoise" else "corrupted values into clean runs"
        return Summary(
            f"{what} at {count(len(self.cells), 'place')}, {count(len(self.clean), 'pair')} of prompts: {self.metric} "
            f"({self.unit})",
            {
                "clean": float(self.clean.mean()), "corrupted": float(self.corrupted.mean()),
                "largest (share recovered)": ", ".join(f"{_name(cell)} {share:.2f}" for cell, share in self.top(4)),
            },
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per place; with several pairs of prompts the evidence beside it."""
        import pandas  # half a second that only tables need

        table = pandas.DataFrame([cell._asdict() for cell in self.cells]).astype({"head": "Int64", "position": "Int64"})
        table["recovered"] = self.recovered.tolist()
        table["effect"] = self.effects.mean(1).tolist()
        return table.assign(**self._evidence_columns())


def _name(cell: Cell) -> str:
    """'z 9.6', 'resid_pre 4 at 7'."""
    head = "" if cell.head is None else f".{cell.head}"
    return f"{cell.site} {cell.layer}{head}" + ("" if cell.position is None else f" at {cell.position}")


@checked
def activation_patching(
    model: GPT,
    clean: Prompts | Task,
    corrupted: Prompts | None = None,
    sites: PatchSite | Sequence[PatchSite] = "resid_pre",
    *,
    metric: AnyMetric | None = None,
    direction: Direction = "denoise",
    by: By | None = None,
    layers: Indices = None,
    heads: Indices = None,
    positions: Indices = None,
    groups: Groups | None = None,
    document_start: bool = False,
    memory: int = MEMORY,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PatchingMap:
    """Put values of one run into the other, one place at a time, and see how much of the answer comes back (or goes).

    Exact and batched like `ablation_sweep`: only what a patch can reach is computed.

    Args:
        clean, corrupted: as many prompts each, partners of equal length in tokens; or a task (`probe.load_task`)
            alone, which brings both, metric and groups.
        direction: "denoise" puts clean values into the corrupted runs, "noise" corrupted values into the clean ones.
        by: what a place is. None: by position for the residual stream and what is added to it, by head for z, q, k, v
            and pattern. Keys and values have their own heads; of a pattern, a position is a query.
        layers, heads, positions: only these. By position, all prompts must have one length.
        groups, memory, seed, folder: as of `ablation_sweep`.

    Raises:
        BadPrompt: partners of unequal length or of the same tokens, or between which the metric does not differ, so
            that there is nothing to recover; a target that is not one token; no prompts; by position with prompts of
            different lengths.
        BadShape: not as many corrupted prompts as clean ones.
        UnknownName, OutOfRange: a site, layer, head or position that does not exist; a metric that compares with the
            run that is patched; a memory budget too small.
        NumbersBroke: the metric is NaN.
        NotSaved: the folder holds the batches of another call.
    """
    pairs = read_pairs(
        model, clean, corrupted, metric=metric, direction=direction, groups=groups, document_start=document_start,
        memory=memory,
    )  # fmt: skip
    cells = list_cells(model.config, pairs.clean, sites, by, layers, heads, positions)
    chosen = select(pairs.clean.lengths, positions=positions).chosen_positions
    manifest = pairs.manifest(
        "activation patching", cells=[list(cell) for cell in cells], positions=[list(row) for row in chosen], seed=seed
    )
    found = run_cells(pairs, cells, chosen, folder=folder, manifest=manifest, progress=progress)
    return PatchingMap(
        cells=cells, direction=direction, metric=pairs.metric.name, unit=pairs.metric.unit, clean=found.clean,
        corrupted=found.corrupted, patched=found.values, groups=found.groups, tokens=pairs.tokens,
        complete=found.complete, seed=seed, manifest=manifest,
    )  # fmt: skip
