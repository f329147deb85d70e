"""What the kinds of patching share: places, pairs of prompts, and the runs in which places are replaced."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BadPrompt, BadShape, OutOfRange, UnknownName, check_choice
from probe.gpt import GPT
from probe.methods._asked import groups_of, has_several, read_asked
from probe.methods._reruns import Part, RecordedRun, Row, Table
from probe.methods._schedule import Schedule, run_schedule
from probe.metrics import LEAST_SHARE, AnyMetric, Measure, Metric, check_measured
from probe.prompts import PromptBatch, Prompts, str_tokens
from probe.provenance import provenance
from probe.selection import Indices, as_list, check_heads, select
from probe.sites import check_layers, describe_site, find_sites, site_list
from probe.statistics import GridEvidence, Groups, grid_evidence
from probe.tasks import Task

PatchSite = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"]
PATCHED: tuple[PatchSite, ...] = get_args(PatchSite)
Direction = Literal["denoise", "noise"]
By = Literal["layer", "position", "head", "head and position"]


class Cell(NamedTuple):
    """One place that is patched."""

    site: str
    layer: int
    head: int | None
    """The head that is patched. None: all of the site."""
    position: int | None
    """The position that is patched. None: all that were chosen."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean and corrupted prompts, checked, and which of the two is patched with values of the other."""

    model: GPT
    clean: PromptBatch
    corrupted: PromptBatch
    direction: Direction
    metric: Metric
    measures: tuple[Measure, Measure]
    """The metric on the prompts that are patched, and on those that the values come from."""
    groups: Groups
    memory: int

    @property
    def base(self) -> PromptBatch:
        """The prompts that are patched."""
        return self.clean if self.direction == "noise" else self.corrupted

    @property
    def source(self) -> PromptBatch:
        """Where new values come from."""
        return self.corrupted if self.direction == "noise" else self.clean

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the first clean prompt, as text."""
        return tuple(str_tokens(self.model.tokenizer, self.clean.ids[0]))

    def manifest(self, method: str, **arguments: Any) -> dict[str, Any]:
        """What was measured on what, by which method, and its own arguments."""
        tokens = self.measures[0].tokens
        return {
            **provenance(self.model), "method": method, "prompts": [list(ids) for ids in self.clean.ids],
            "corrupted": [list(ids) for ids in self.corrupted.ids],
            "method_arguments": {
                "metric": self.metric.name, "metric_arguments": dict(self.metric.arguments), "unit": self.metric.unit,
                "tokens": None if tokens is None else tokens.tolist(),
                "direction": self.direction, "groups": dict(self.groups), "memory": self.memory, **arguments,
            },
        }  # fmt: skip


class PatchEffects:
    """What both kinds of exact patching say of their numbers: a part of their results."""

    direction: Direction
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    patched: Float[Tensor, "cell prompt"]
    groups: Groups
    seed: int

    @property
    def effects(self) -> Float[Tensor, "cell prompt"]:
        """What patching did: patched minus the run that was patched, in the metric's unit."""
        return self.patched - (self.corrupted if self.direction == "denoise" else self.clean)

    @functools.cached_property
    def evidence(self) -> GridEvidence:
        """Evidence of the effects as shares of clean - corrupted: intervals, p, what survives the whole grid.

        Raises:
            OutOfRange: one pair of prompts has no interval.
        """
        return grid_evidence(
            self.effects, self.groups, signed=True, smallest_effect=LEAST_SHARE, seed=self.seed,
            over=self.clean - self.corrupted,
        )  # fmt: skip

    def _evidence_columns(self) -> dict[str, list[Any]]:
        """For tables; none where there is one pair of prompts, or one group of them."""
        if not has_several(self.groups):
            return {}
        names = {"share_low": "low", "share_high": "high", **{name: name for name in ("p", "p_grid", "q", "marked")}}
        return {column: getattr(self.evidence, name).tolist() for column, name in names.items()}


def read_pairs(
    model: GPT, clean: Prompts | Task, corrupted: Prompts | None, *, metric: AnyMetric | None, direction: Direction,
    groups: Groups | None, document_start: bool, memory: int,
) -> Pairs:  # fmt: skip
    """Check what every kind of patching is given; errors as of `activation_patching`."""
    check_choice("direction", direction, get_args(Direction))
    asked = read_asked(model, clean, corrupted, metric=metric, groups=groups, document_start=document_start)
    if asked.corrupted is None:
        raise BadPrompt("no corrupted prompts: give the partner of each clean one, or a task, which brings them")
    first, second, chosen = asked.batch, asked.corrupted, asked.metric
    check_partners(first, second)
    if chosen.compares and direction == "denoise":
        raise UnknownName(
            f"metric {chosen.name!r} compares with the run that is patched, which in denoising is the corrupted one: "
            "use direction='noise', or logit_difference"
        )
    base, source = (first, second) if direction == "noise" else (second, first)
    measures = chosen.bind(model, base), chosen.bind(model, source)
    return Pairs(model, first, second, direction, chosen, measures, asked.groups, memory)


@dataclass(frozen=True, eq=False)
class Patched:
    """What a schedule of patches gave, of the pairs that were reached."""

    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    values: Float[Tensor, "cell prompt"]
    groups: Groups
    complete: bool


def run_patches(
    pairs: Pairs,
    n_cells: int,
    rows: Callable[[Sequence[int]], list[Row]],
    table: Callable[[RecordedRun, RecordedRun], Table],
    *,
    sites: Sequence[str],
    more_numbers: int = 0,
    folder: str | os.PathLike[str] | None,
    manifest: Mapping[str, Any],
    progress: bool,
) -> Patched:
    """Run rows whose `unit` counts cells. `table` gets the run that is patched and the one that values come from.

    `more_numbers`: what the table holds for each token of a prompt, beside recordings.
    """
    base, source = pairs.base, pairs.source

    def begin(run: RecordedRun, block: Sequence[int]) -> tuple[Table, dict[str, Tensor]]:
        partners = PromptBatch(tuple(source.ids[row] for row in block))
        other = RecordedRun(pairs.model, partners, pairs.measures[1], block, sites)
        for one in (run, other):
            check_measured(pairs.metric, one.metric, block)
        if float((run.metric - other.metric).abs().max()) < 1e-6:
            raise BadPrompt(
                f"{pairs.metric.name} is the same on clean and corrupted prompts ({float(run.metric[0]):.4f} on the "
                "first): there is no difference to recover"
            )
        return table(run, other), {"source": other.metric}

    schedule = Schedule(
        pairs.model, base, pairs.measures[0], tuple(sites), rows, pairs.memory, whole_copies=True,
        more_numbers=more_numbers,
    )  # fmt: skip
    schedule.check()
    with torch.no_grad():
        found = run_schedule(
            schedule, begin, _measured, folder=folder, arguments=manifest, progress=progress, description="patching"
        )
    values = torch.full((n_cells, len(base.ids)), torch.nan)
    for (prompt, row), value in zip(found.rows, found.values["total"].tolist(), strict=True):
        values[row.unit, prompt] = value
    of_base, of_source = found.prompts["base"], found.prompts["source"]
    done = ~of_base.isnan()
    of_clean, of_corrupted = (of_base, of_source) if pairs.direction == "noise" else (of_source, of_base)
    groups = groups_of(pairs.groups, done.tolist())
    return Patched(of_clean[done], of_corrupted[done], values[:, done], groups, found.complete)


def run_cells(
    pairs: Pairs, cells: Sequence[Cell], positions: Sequence[Sequence[int]], *,
    folder: str | os.PathLike[str] | None, manifest: Mapping[str, Any], progress: bool,
) -> Patched:  # fmt: skip
    """Put one run's values at these places into the other. `positions`: those chosen, of each prompt."""
    parts, lengths = [part_of(pairs.model.config, cell) for cell in cells], pairs.clean.lengths

    def rows(block: Sequence[int]) -> list[Row]:
        return [
            Row(prompt, prompt, (part,), positions_of(cell, positions[row], lengths[row]), number)
            for number, (cell, part) in enumerate(zip(cells, parts, strict=True))
            for prompt, row in enumerate(block)
        ]

    return run_patches(
        pairs, len(cells), rows, lambda base, source: lambda layer, site: source(site, layer),
        sites=list(dict.fromkeys(part.site for part in parts)), folder=folder, manifest=manifest, progress=progress,
    )  # fmt: skip


def _measured(run: RecordedRun, rows: Sequence[Row], table: Table) -> dict[str, Tensor]:
    prompts = torch.tensor([row.prompt for row in rows], device=run.prompts.device)
    return {"total": run.measured(run.logits(rows, table), prompts)}


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


def list_cells(
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


def part_of(config: GPTConfig, cell: Cell) -> Part:
    """resid_post is the next layer's resid_pre, where there is one: that saves running a layer."""
    if cell.site == "resid_post" and cell.layer + 1 < config.n_layers:
        return Part(cell.layer + 1, "resid_pre", None)
    return Part(cell.layer, cell.site, cell.head)


def positions_of(cell: Cell, chosen: Sequence[int], length: int) -> tuple[int, ...]:
    if cell.position is not None:
        return (cell.position,)
    return tuple(sorted({position for position in chosen if position < length}))
