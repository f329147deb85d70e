"""Which heads (MLPs, layers, neurons, sets of heads) does the model need? Each is taken out, on many prompts, exactly.

total is what taking a unit out does to the metric while the rest of the model runs live; direct is the unit's own path
to the logits, through the recorded final norm, everything else as it was. Their difference is indirect: later parts
that used what the unit wrote, or that made up for it. Only where it opposes the direct effect is it self-repair.
Sources: Michel et al., "Are sixteen heads really better than one?" (2019); Chan et al., "Causal scrubbing" (2022), for
resampling; McGrath et al., "The Hydra effect" (2023), for self-repair.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import BadPrompt, OutOfRange, unknown_name
from probe.gpt import GPT
from probe.methods._replacement import Replacement, Value
from probe.methods._reruns import CleanRun, Row, Table
from probe.methods._schedule import MEMORY, Finished, Schedule, SweepPlan, run_schedule
from probe.methods._units import Unit, Units, list_units
from probe.metrics import AnyMetric, Metric, as_metric, check_measured
from probe.prompts import PromptBatch, Prompts, read_prompts
from probe.provenance import provenance
from probe.results import Result
from probe.selection import Indices, select
from probe.statistics import GridEvidence, Groups, grid_evidence

if TYPE_CHECKING:
    import pandas

AFTER_THE_FIRST = "after the first"
Positions = Indices | Literal["after the first"]


@dataclass(frozen=True, eq=False)
class AblationSweep(Result):
    """What taking out each unit does to a metric, on every prompt: edited minus clean, in the metric's unit."""

    kind: str
    """'heads', 'MLPs', 'layers', 'neurons' or 'sets of heads'."""
    units: tuple[Unit, ...]
    value: Value
    replaced_by: str
    """What stands in a unit's place, in words."""
    positions: str
    """Where: 'after the first', 'all', or the positions."""
    metric: str
    """Its name: "' Mary' - ' John'"."""
    unit: str
    """Of the metric, and so of every effect."""
    signed: bool
    """Whether effects can go either way."""
    clean: Float[Tensor, " prompt"]
    """The metric with nothing taken out."""
    effects: Float[Tensor, "unit prompt"]
    """Total: edited minus clean; a mean over draws where there are several."""
    direct: Float[Tensor, "unit prompt"]
    """The same through the unit's own path to the logits alone."""
    spread: Float[Tensor, "unit prompt"]
    """Standard deviation over draws; zero where there is one."""
    groups: Groups
    """Which prompts hang together, by kind."""
    smallest_effect: float
    """A mean effect below this is not worth naming."""
    twin: "AblationSweep | None"
    """The same on an untrained model, where asked for."""
    complete: bool
    """False: interrupted; the prompts that were not reached are left out."""
    seed: int
    manifest: Mapping[str, Any]

    @property
    def indirect(self) -> Float[Tensor, "unit prompt"]:
        """Total minus direct."""
        return self.effects - self.direct

    @functools.cached_property
    def evidence(self) -> GridEvidence:
        """Mean effect of every unit, with interval, p, and what survives the whole grid.

        Raises:
            OutOfRange: one prompt has no interval.
        """
        return grid_evidence(
            self.effects, self.groups, signed=self.signed, smallest_effect=self.smallest_effect, seed=self.seed
        )

    def top(self, n: int = 5) -> list[tuple[str, float]]:
        """The n units with the largest mean effect, either way: (name, effect)."""
        means = self.effects.mean(1)
        order = means.abs().argsort(descending=True, stable=True)[:n].tolist()
        return [(self.units[place].name, float(means[place])) for place in order]

    def effect(self, unit: str) -> float:
        """The mean effect of a unit by name: '9.6'.

        Raises:
            UnknownName: it was not swept.
        """
        names = [one.name for one in self.units]
        if unit not in names:
            raise unknown_name("unit", unit, names)
        return float(self.effects[names.index(unit)].mean())

    def self_repair(self) -> Float[Tensor, " unit"]:
        """The share of the direct effect that the rest of the model makes up for; zero where it adds to it.

        1 means that nothing is left of it. NaN where the direct effect is smaller than the smallest worth naming.
        """
        total, direct = self.effects.mean(1), self.direct.mean(1)
        repaired = ((direct - total) / direct).clamp(min=0.0)
        return repaired.masked_fill(direct.abs() < max(self.smallest_effect, 1e-12), torch.nan)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per unit: means, and with several prompts their evidence."""
        import pandas  # half a second that only tables need

        columns: dict[str, Any] = {
            "unit": [unit.name for unit in self.units], "layer": [unit.layer for unit in self.units],
            "index": [unit.index for unit in self.units], "effect": self.effects.mean(1).tolist(),
            "direct": self.direct.mean(1).tolist(), "indirect": self.indirect.mean(1).tolist(),
        }  # fmt: skip
        if _has_several(self.groups):
            found = self.evidence
            columns |= {"low": found.low.tolist(), "high": found.high.tolist(), "marked": found.marked.tolist()}
            for name in ("p", "p_grid", "q"):
                values = getattr(found, name)
                columns |= {} if values is None else {name: values.tolist()}
        if self.twin is not None:
            columns["twin_effect"] = self.twin.effects.mean(1).tolist()
        return pandas.DataFrame(columns)


def ablation_sweep(
    model: GPT,
    prompts: Prompts,
    *,
    metric: AnyMetric,
    units: Units = "heads",
    value: Value = "mean",
    positions: Positions = AFTER_THE_FIRST,
    layers: Indices = None,
    reference: Prompts | None = None,
    n_draws: int = 5,
    groups: Groups | None = None,
    twin: GPT | None = None,
    smallest_effect: float | None = None,
    document_start: bool = False,
    memory: int = MEMORY,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> AblationSweep:
    """Take out one unit at a time and measure what that does, on every prompt.

    Exact: the same numbers as one edited pass for each, at a fraction of the cost. A unit of layer l costs only the
    layers from l on, many units and prompts share a pass, and only the logits that the metric reads are computed.

    Args:
        metric: `probe.logit_difference(...)` and the like, or a function of logits (row, 1, d_vocab) after the last
            token.
        units: "heads", "MLPs", "layers", "neurons" (of the one layer in `layers`), or a list of heads (layer, head)
            and of sets of heads that are taken out together.
        value: what stands in their place; see `Replacement`. The means and the resampled values are of the other
            prompts of the call, or of `reference`.
        positions: where. "after the first": everywhere but at position 0, an attention sink that hardly any question is
            about. None: everywhere. Or positions of each prompt (-1: its last).
        layers: only these; None: all.
        reference: prompts to take means and resampled values from.
        n_draws: of resampling.
        groups: which prompts are not independent: {"template": one number for each prompt, ...}. None: all are.
        twin: an untrained model to do the same with (``probe.load_model(random=True)``).
        smallest_effect: in the metric's unit. None: what the metric says (2 % of the clean value, 0.02 nats).
        memory: bytes for recordings and batches; what that comes to is printed first. It sets speed, not numbers.
        folder: keep finished batches there, so that the same call goes on after an interruption. Without one, Ctrl-C
            returns the prompts that are done.

    Raises:
        UnknownName, OutOfRange: units, layers, heads, positions that do not exist; a budget too small (it says how much
            is needed).
        BadPrompt: no prompts; a target that is not one token; a reference that is empty or the prompt itself.
        BadShape, NumbersBroke: the metric gives another shape, or NaN, on the clean pass: before the sweep starts.
        NotSaved: the folder holds the batches of another call.
    """
    prepared = _prepare(
        model, prompts, metric=metric, units=units, value=value, positions=positions, layers=layers,
        reference=reference, n_draws=n_draws, groups=groups, document_start=document_start, memory=memory, seed=seed,
    )  # fmt: skip
    with torch.no_grad():
        found = prepared.run(folder, progress)
    sweep = prepared.result(found, smallest_effect)
    if twin is None:
        return sweep
    of_twin = ablation_sweep(
        twin, [list(ids) for ids in prepared.schedule.batch.ids], metric=metric, units=units, value=value,
        positions=positions, layers=layers, reference=reference, n_draws=n_draws, groups=groups,
        smallest_effect=sweep.smallest_effect, memory=memory, seed=seed,
        folder=None if folder is None else os.path.join(folder, "twin"), progress=progress,
    )  # fmt: skip
    return dataclasses.replace(sweep, twin=of_twin, complete=sweep.complete and of_twin.complete)


def plan_ablation(model: GPT, prompts: Prompts, **arguments: Any) -> SweepPlan:
    """What `ablation_sweep` with these arguments would run: passes, bytes, time. Arguments and errors are the same."""
    for name in ("twin", "smallest_effect", "folder", "progress"):
        arguments.pop(name, None)
    return _prepare(model, prompts, **{**_DEFAULTS, **arguments}).schedule.plan()


_DEFAULTS: dict[str, Any] = {
    "units": "heads", "value": "mean", "positions": AFTER_THE_FIRST, "layers": None, "reference": None, "n_draws": 5,
    "groups": None, "document_start": False, "memory": MEMORY, "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A call, checked; nothing has run yet."""

    model: GPT
    metric: Metric
    kind: str
    units: tuple[Unit, ...]
    replacement: Replacement
    positions: str
    groups: Groups
    schedule: Schedule
    seed: int
    manifest: Mapping[str, Any]

    def run(self, folder: str | os.PathLike[str] | None, progress: bool) -> Finished:
        return run_schedule(
            self.schedule, self._begin, _measured, folder=folder, arguments=self.manifest, progress=progress,
            description=f"ablating {self.kind}", prepare=self.replacement.prepare,
        )  # fmt: skip

    def result(self, found: Finished, smallest_effect: float | None) -> AblationSweep:
        """The rows of all batches, put where they belong."""
        every = found.prompts["clean"]
        n_units, n_prompts, draws = len(self.units), len(every), self.replacement.n_draws
        at = torch.tensor([[row.unit, prompt, row.source % draws] for prompt, row in found.rows], dtype=torch.long)
        filled = {}
        for name, values in found.values.items():
            table = torch.full((n_units, n_prompts, draws), torch.nan)
            table[at[:, 0], at[:, 1], at[:, 2]] = values
            filled[name] = table - every[:, None]
        done = ~every.isnan()
        effects, direct = filled["total"][:, done], filled["direct"][:, done]
        clean = every[done]
        groups = {
            kind: [one for one, is_done in zip(members, done.tolist(), strict=True) if is_done]
            for kind, members in self.groups.items()
        }
        least = self.metric.smallest_effect(float(clean.mean())) if smallest_effect is None else smallest_effect
        return AblationSweep(
            kind=self.kind, units=self.units, value=self.replacement.value, replaced_by=self.replacement.described,
            positions=self.positions, metric=self.metric.name, unit=self.metric.unit, signed=self.metric.signed,
            clean=clean, effects=effects.mean(-1), direct=direct.mean(-1),
            spread=effects.std(-1) if draws > 1 else torch.zeros(effects.shape[:2]), groups=groups,
            smallest_effect=least, twin=None, complete=found.complete, seed=self.seed, manifest=self.manifest,
        )  # fmt: skip

    def _begin(self, clean: CleanRun, block: Sequence[int]) -> tuple[Table, dict[str, Tensor]]:
        check_measured(self.metric, clean.clean, block)
        return self.replacement.table(clean, block), {}


def _prepare(
    model: GPT, prompts: Prompts, *, metric: AnyMetric, units: Units, value: Value, positions: Positions,
    layers: Indices, reference: Prompts | None, n_draws: int, groups: Groups | None, document_start: bool,
    memory: int, seed: int,
) -> _Prepared:  # fmt: skip
    chosen = as_metric(metric)
    batch = read_prompts(model.config, model.tokenizer, prompts, document_start=document_start)
    kind, found = list_units(model.config, units, layers)
    edited = edited_positions(batch, positions)
    others = None
    if reference is not None:
        others = read_prompts(model.config, model.tokenizer, reference, document_start=document_start)
    parts = [part for unit in found for part in unit.parts]
    sites = tuple(dict.fromkeys(part.site for part in parts))
    replacement = Replacement(
        model, value, batch, sites=sites, layers=sorted({part.layer for part in parts}), edited=edited,
        reference=others, n_draws=n_draws, seed=seed,
    )  # fmt: skip
    draws = 1 if value == "zero" else replacement.n_draws

    def rows(block: Sequence[int]) -> list[Row]:
        return [
            Row(prompt, 0 if value == "zero" else prompt * draws + draw, unit.parts, edited[row], number)
            for number, unit in enumerate(found)
            for prompt, row in enumerate(block)
            for draw in range(draws)
        ]

    measure = chosen.bind(model, batch)
    schedule = Schedule(model, batch, measure, sites, rows, memory, copies=draws)
    schedule.check()
    where = positions if isinstance(positions, str) else "all" if positions is None else str(list(edited[0]))
    of_call = {kind: list(members) for kind, members in (groups or {"prompt": range(len(batch.ids))}).items()}
    for name, members in of_call.items():
        if len(members) != len(batch.ids):
            raise OutOfRange(f"groups[{name!r}]: {len(members)} numbers for {len(batch.ids)} prompts")
    manifest = {
        **provenance(model), "method": "ablation sweep", "prompts": [list(ids) for ids in batch.ids],
        "method_arguments": {
            "metric": chosen.name, "unit": chosen.unit,
            "tokens": None if measure.tokens is None else measure.tokens.tolist(),
            "units": kind if isinstance(units, str) else [unit.name for unit in found],
            "layers": sorted({part.layer for part in parts}), "value": value,
            "replaced_by": replacement.described, "positions": [list(one) for one in edited],
            "reference": None if others is None else [list(ids) for ids in others.ids],
            "n_draws": draws, "groups": of_call, "memory": memory, "seed": seed,
        },
    }  # fmt: skip
    return _Prepared(model, chosen, kind, found, replacement, where, of_call, schedule, seed, manifest)


def _measured(clean: CleanRun, rows: Sequence[Row], table: Table) -> dict[str, Tensor]:
    prompts = torch.tensor([row.prompt for row in rows], device=clean.prompts.device)
    return {
        "total": clean.measured(clean.logits(rows, table), prompts),
        "direct": clean.measured(clean.direct_logits(rows, table), prompts),
    }


def edited_positions(batch: PromptBatch, positions: Positions) -> list[tuple[int, ...]]:
    """The positions of each prompt where something is replaced.

    Raises:
        BadPrompt: a prompt of one token, which has none after the first.
        OutOfRange: a position that a prompt does not have.
    """
    if isinstance(positions, str):
        if positions != AFTER_THE_FIRST:
            raise unknown_name("choice of positions", positions, [AFTER_THE_FIRST])
        if min(batch.lengths) < 2:
            row = batch.lengths.index(1)
            raise BadPrompt(f"prompt {row} has one token, and positions='after the first' leaves none of it")
        return [tuple(range(1, length)) for length in batch.lengths]
    if positions is None:
        return [tuple(range(length)) for length in batch.lengths]
    chosen = select(batch.lengths, positions=positions).chosen_positions
    return [tuple(sorted(set(row))) for row in chosen]


def _has_several(groups: Groups) -> bool:
    return any(len(set(members)) > 1 for members in groups.values())
