"""Activation patching: a value of one run is put into another, place by place, to see what carries the difference.

Two prompts of equal length differ in what matters ("When Mary and John ..., John gave" and "..., Mary gave"). Denoising
puts values of the clean run into the corrupted one: what restores the answer is enough for it. Noising puts corrupted
values into the clean run: what breaks the answer is needed. The two need not agree.
Sources: Vig et al., "Causal mediation analysis" (2020); Meng et al. (2022); Heimersheim and Nanda, "How to use and
interpret activation patching" (2024).
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BadPrompt, BadShape, NumbersBroke, OutOfRange, UnknownName, check_choice
from probe.gpt import GPT
from probe.methods._reruns import CleanRun, Part, Row, Table
from probe.methods._schedule import MEMORY, Schedule, run_schedule
from probe.metrics import AnyMetric, as_metric, check_measured
from probe.prompts import PromptBatch, Prompts, read_prompts
from probe.provenance import provenance
from probe.results import Result
from probe.selection import Indices, as_list, check_heads, select
from probe.sites import check_layers, describe_site, find_sites, site_list
from probe.statistics import GridEvidence, Groups, grid_evidence

if TYPE_CHECKING:
    import pandas

PatchSite = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]
PATCHED: tuple[PatchSite, ...] = get_args(PatchSite)
Direction = Literal["denoise", "noise"]
By = Literal["layer", "position", "head", "head and position"]
LEAST_SHARE = 0.02
"""A share of the difference between the runs that is worth naming."""


class Cell(NamedTuple):
    """One place that is patched."""

    site: str
    layer: int
    head: int | None
    """None: all of the site."""
    position: int | None
    """None: all that were chosen."""


@dataclass(frozen=True, eq=False)
class PatchingMap(Result):
    """What putting one run's value into the other does to a metric, place by place, on every pair of prompts."""

    cells: tuple[Cell, ...]
    direction: Direction
    metric: str
    unit: str
    clean: Float[Tensor, " prompt"]
    """The metric of the clean prompts."""
    corrupted: Float[Tensor, " prompt"]
    patched: Float[Tensor, "cell prompt"]
    """With each place patched."""
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

    @property
    def effects(self) -> Float[Tensor, "cell prompt"]:
        """What patching did: patched minus the run that was patched, in the metric's unit."""
        return self.patched - (self.corrupted if self.direction == "denoise" else self.clean)

    @functools.cached_property
    def evidence(self) -> GridEvidence:
        """Of the effects, as shares of clean - corrupted: intervals, p, what survives the whole grid.

        Raises:
            OutOfRange: one pair of prompts has no interval.
        """
        return grid_evidence(
            self.effects, self.groups, signed=True, smallest_effect=LEAST_SHARE, seed=self.seed,
            over=self.clean - self.corrupted,
        )  # fmt: skip

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

    def top(self, n: int = 5) -> list[tuple[Cell, float]]:
        """The n places that matter most: (cell, recovered)."""
        order = self.effects.mean(1).abs().argsort(descending=True, stable=True)[:n].tolist()
        return [(self.cells[place], float(self.recovered[place])) for place in order]

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per place; with several pairs of prompts the evidence beside it."""
        import pandas  # half a second that only tables need

        table = pandas.DataFrame([cell._asdict() for cell in self.cells]).astype({"head": "Int64", "position": "Int64"})
        table["recovered"] = self.recovered.tolist()
        table["effect"] = self.effects.mean(1).tolist()
        if any(len(set(members)) > 1 for members in self.groups.values()):
            found = self.evidence
            for name in ("low", "high", "p", "p_grid", "q", "marked"):
                values = getattr(found, name)
                table[f"share_{name}" if name in ("low", "high") else name] = values.tolist()
        return table


def activation_patching(
    model: GPT,
    clean: Prompts,
    corrupted: Prompts,
    sites: PatchSite | Sequence[PatchSite] = "resid_pre",
    *,
    metric: AnyMetric,
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
        clean, corrupted: as many prompts each, partners of equal length in tokens.
        direction: "denoise" puts clean values into the corrupted runs, "noise" corrupted values into the clean ones.
        by: what a place is. None: by position for the residual stream and what is added to it, by head for z, q, k, v
            and pattern. Keys and values have their own heads; of a pattern, a position is a query.
        layers, heads, positions: only these. By position, all prompts must have one length.
        groups, memory, seed, folder: as of `ablation_sweep`.

    Raises:
        BadPrompt: partners of unequal length or of the same tokens; a target that is not one token; no prompts; by
            position with prompts of different lengths.
        BadShape: not as many corrupted prompts as clean ones.
        UnknownName, OutOfRange: a site, layer, head or position that does not exist; a metric that compares with the
            run that is patched; a memory budget too small.
        NumbersBroke: the metric is NaN, or the same on clean and corrupted prompts: nothing to recover.
        NotSaved: the folder holds the batches of another call.
    """
    chosen = as_metric(metric)
    check_choice("direction", direction, get_args(Direction))
    batches = [
        read_prompts(model.config, model.tokenizer, prompts, document_start=document_start)
        for prompts in (clean, corrupted)
    ]
    check_partners(*batches)
    if chosen.compares and direction == "denoise":
        raise UnknownName(
            f"metric {chosen.name!r} compares with the run that is patched, which in denoising is the corrupted one: "
            "use direction='noise', or logit_difference"
        )
    cells = _cells(model.config, batches[0], sites, by, layers, heads, positions)
    base, source = batches if direction == "noise" else batches[::-1]
    of_call = {kind: list(members) for kind, members in (groups or {"prompt": range(len(base.ids))}).items()}
    for name, members in of_call.items():
        if len(members) != len(base.ids):
            raise OutOfRange(f"groups[{name!r}]: {len(members)} numbers for {len(base.ids)} prompts")
    measure, of_source = (chosen.bind(model, batch) for batch in (base, source))
    chosen_positions = select(base.lengths, positions=positions).chosen_positions
    lengths = base.lengths

    def rows(block: Sequence[int]) -> list[Row]:
        return [
            Row(prompt, prompt, (_part(model.config, cell),), _where(cell, chosen_positions[row], lengths[row]), number)
            for number, cell in enumerate(cells)
            for prompt, row in enumerate(block)
        ]

    def begin(run: CleanRun, block: Sequence[int]) -> tuple[Table, dict[str, Tensor]]:
        partners = PromptBatch(tuple(source.ids[row] for row in block))
        other = CleanRun(model, partners, of_source, block, replaced)
        for one in (run, other):
            check_measured(chosen, one.clean, block)
        if float((run.clean - other.clean).abs().max()) < 1e-6:
            raise NumbersBroke(
                f"{chosen.name} is the same on clean and corrupted prompts ({float(run.clean[0]):.4f} on the first): "
                "there is no difference to recover"
            )
        return (lambda layer, site: other(site, layer)), {"source": other.clean}

    replaced = tuple(dict.fromkeys(_part(model.config, cell).site for cell in cells))
    schedule = Schedule(model, base, measure, replaced, rows, memory, whole_copies=True)
    schedule.check()
    manifest = {
        **provenance(model), "method": "activation patching", "prompts": [list(ids) for ids in batches[0].ids],
        "corrupted": [list(ids) for ids in batches[1].ids],
        "method_arguments": {
            "metric": chosen.name, "unit": chosen.unit,
            "tokens": None if measure.tokens is None else measure.tokens.tolist(),
            "cells": [list(cell) for cell in cells], "direction": direction,
            "positions": [list(row) for row in chosen_positions], "groups": of_call, "memory": memory, "seed": seed,
        },
    }  # fmt: skip
    with torch.no_grad():
        found = run_schedule(
            schedule, begin, _measured, folder=folder, arguments=manifest, progress=progress, description="patching"
        )
    of_base, of_other = found.prompts["clean"], found.prompts["source"]
    patched = torch.full((len(cells), len(of_base)), torch.nan)
    for (prompt, row), value in zip(found.rows, found.values["total"].tolist(), strict=True):
        patched[row.unit, prompt] = value
    done = ~of_base.isnan()
    values = {"base": of_base[done], "other": of_other[done]}
    of_clean, of_corrupted = (
        values[name] for name in (("base", "other") if direction == "noise" else ("other", "base"))
    )
    texts = [f"[{token}]" for token in batches[0].ids[0]]
    if model.tokenizer is not None:
        texts = model.tokenizer.str_tokens(batches[0].ids[0])
    return PatchingMap(
        cells=cells, direction=direction, metric=chosen.name, unit=chosen.unit, clean=of_clean,
        corrupted=of_corrupted, patched=patched[:, done],
        groups={
            kind: [one for one, is_done in zip(members, done.tolist(), strict=True) if is_done]
            for kind, members in of_call.items()
        },
        tokens=tuple(texts), complete=found.complete, seed=seed, manifest=manifest,
    )  # fmt: skip


def check_partners(clean: PromptBatch, corrupted: PromptBatch) -> None:
    """Raise unless each clean prompt has a corrupted partner of equal length that differs from it."""
    if len(clean.ids) != len(corrupted.ids):
        raise BadShape(f"{len(clean.ids)} clean and {len(corrupted.ids)} corrupted prompts: expected partners")
    for row, (one, other) in enumerate(zip(clean.ids, corrupted.ids, strict=True)):
        if len(one) != len(other):
            raise BadPrompt(
                f"pair {row}: the clean prompt has {len(one)} tokens and the corrupted one {len(other)}; patching puts "
                "position onto position, so they must have as many"
            )
        if one == other:
            raise BadPrompt(f"pair {row}: the corrupted prompt has the same tokens as the clean one")


def _cells(
    config: GPTConfig, batch: PromptBatch, sites: PatchSite | Sequence[PatchSite], by: By | None, layers: Indices,
    heads: Indices, positions: Indices,
) -> tuple[Cell, ...]:  # fmt: skip
    named = site_list(sites)
    if not named:
        raise UnknownName(f"sites: the list is empty; known: {', '.join(PATCHED)}")
    for site in named:
        check_choice("site to patch", site, PATCHED)
        find_sites(config, [site])
    if by is not None:
        check_choice("by", by, get_args(By))
    of_layers = sorted(
        set(range(config.n_layers) if layers is None else check_layers(config, as_list("layers", layers)))
    )
    return tuple(
        cell
        for site in dict.fromkeys(named)
        for cell in _cells_of(config, batch, site, by or _usual(site), of_layers, heads, positions)
    )


def _usual(site: str) -> By:
    dims = describe_site(site).dims
    return "head" if "head" in dims or "kv_head" in dims else "position"


def _cells_of(
    config: GPTConfig, batch: PromptBatch, site: str, by: By, layers: Sequence[int], heads: Indices, positions: Indices
) -> Iterator[Cell]:
    of_heads: Sequence[int | None] = [None]
    if "head" in by:
        has = describe_site(site).dims
        n_heads = config.n_heads if "head" in has else config.kv_heads
        of_heads = check_heads(config, site, list(range(n_heads)) if heads is None else heads) or [None]
    elif heads is not None:
        raise OutOfRange(f"heads={heads!r}, but {site!r} is patched by {by}: use by='head'")
    of_positions: Sequence[int | None] = [None]
    if "position" in by:
        if min(batch.lengths) != max(batch.lengths):
            raise BadPrompt(
                f"by position, prompts of {min(batch.lengths)} to {max(batch.lengths)} tokens share no positions: "
                "give prompts of one length, or by='head' or 'layer'"
            )
        of_positions = sorted(set(select(batch.lengths, positions=positions).chosen_positions[0]))
    for layer in layers:
        for head in of_heads:
            for position in of_positions:
                yield Cell(site, layer, head, position)


def _part(config: GPTConfig, cell: Cell) -> Part:
    """resid_post is the next layer's resid_pre, where there is one: that saves running a layer."""
    if cell.site == "resid_post" and cell.layer + 1 < config.n_layers:
        return Part(cell.layer + 1, "resid_pre", None)
    return Part(cell.layer, cell.site, cell.head)


def _where(cell: Cell, chosen: Sequence[int], length: int) -> tuple[int, ...]:
    if cell.position is not None:
        return (cell.position,)
    return tuple(sorted({position for position in chosen if position < length}))


def _measured(run: CleanRun, rows: Sequence[Row], table: Table) -> dict[str, Tensor]:
    prompts = torch.tensor([row.prompt for row in rows], device=run.prompts.device)
    return {"total": run.measured(run.logits(rows, table), prompts)}
