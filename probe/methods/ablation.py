"""Which heads (MLPs, layers, neurons, sets of these) does the model need? Each is taken out, on many prompts, exactly.

total is what taking a unit out does to the metric while the rest of the model runs live; direct is the unit's own path
to the logits, through the recorded final norm, everything else as it was. Their difference is indirect: later parts
that used what the unit wrote, or that made up for it. Only where it opposes the direct effect is it self-repair.
Sources: Michel et al., "Are sixteen heads really better than one?" (2019); Chan et al., "Causal scrubbing" (2022), for
resampling; McGrath et al., "The Hydra effect" (2023), for self-repair.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.errors import OutOfRange, check_count, unknown_name
from probe.gpt import GPT
from probe.methods._asked import has_several
from probe.methods._joining import check_joined, join_tensors
from probe.methods._replacement import Value
from probe.methods._schedule import MEMORY, SweepPlan
from probe.methods._sweep import AFTER_THE_FIRST, Positions, prepare_sweep, read_setting
from probe.methods._units import Unit, Units, list_units
from probe.metrics import AnyMetric
from probe.prompts import Prompts
from probe.results import Result
from probe.selection import Indices
from probe.shown import Summary, count
from probe.statistics import GridEvidence, Groups, grid_evidence
from probe.tasks import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class AblationSweep(Result):
    """What taking out each unit does to a metric, on every prompt: edited minus clean, in the metric's unit."""

    kind: str
    """'heads', 'MLPs', 'layers', 'neurons', 'sets of heads' or 'listed units'."""
    units: tuple[Unit, ...]
    value: Value
    replaced_by: str
    """What stands in a unit's place, in words."""
    positions: str
    """Where units are replaced: 'after the first', 'all', or the positions."""
    metric: str
    """Name of the metric: "' Mary' - ' John'"."""
    unit: str
    """Unit of the metric, and so of every effect."""
    signed: bool
    """Whether effects can go either way."""
    clean: Float[Tensor, " prompt"]
    """The metric with nothing taken out."""
    effects: Float[Tensor, "unit prompt"]
    """Total effect: edited minus clean; a mean over draws where there are several."""
    direct: Float[Tensor, "unit prompt"]
    """Direct effect: edited minus clean through the unit's own path to the logits alone."""
    spread: Float[Tensor, "unit prompt"]
    """Standard deviation of the total effect over draws; zero where there is one."""
    groups: Groups
    """Which prompts hang together, by kind."""
    smallest_effect: float
    """A mean effect below this is not worth naming."""
    twin: "AblationSweep | None"
    """This sweep on the untrained twin, where asked for."""
    complete: bool
    """False: interrupted; the prompts that were not reached are left out."""
    seed: int
    manifest: Mapping[str, Any]

    @property
    def indirect(self) -> Float[Tensor, "unit prompt"]:
        """Indirect effect: total minus direct."""
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

    @checked
    def top(self, n: int = 5) -> list[tuple[str, float]]:
        """The n units with the largest mean effect, either way: (name, effect)."""
        check_count("n", n)
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

    def summary(self) -> Summary:
        """The units that matter most."""
        return Summary(
            f"{len(self.units):,} {self.kind} taken out one at a time, {count(len(self.clean), 'prompt')}: change of "
            f"{self.metric} ({self.unit})",
            {
                "clean": float(self.clean.mean()), "instead": self.replaced_by,
                "largest": ", ".join(f"{name} {effect:+.3g}" for name, effect in self.top(4)),
            },
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per unit: means, and with several prompts their evidence."""
        import pandas  # half a second that only tables need

        columns: dict[str, Any] = {
            "unit": [unit.name for unit in self.units], "layer": [unit.layer for unit in self.units],
            "index": [unit.index for unit in self.units], "effect": self.effects.mean(1).tolist(),
            "direct": self.direct.mean(1).tolist(), "indirect": self.indirect.mean(1).tolist(),
        }  # fmt: skip
        if has_several(self.groups):
            found = self.evidence
            columns |= {"low": found.low.tolist(), "high": found.high.tolist(), "marked": found.marked.tolist()}
            for name in ("p", "p_grid", "q"):
                values = getattr(found, name)
                columns |= {} if values is None else {name: values.tolist()}
        if self.twin is not None:
            columns["twin_effect"] = self.twin.effects.mean(1).tolist()
        return pandas.DataFrame(columns)


@checked
def ablation_sweep(
    model: GPT,
    prompts: Prompts | Task,
    *,
    metric: AnyMetric | None = None,
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
        prompts: or a task (`probe.load_task`), which brings its metric and groups.
        metric: `probe.logit_difference(...)` and the like, or a function of logits (row, 1, d_vocab_out) after the last
            token. None: the task's.
        units: "heads", "MLPs", "layers", "neurons" (of the one layer in `layers`), or a list: heads as (layer, head),
            anything else by its name ("MLP 3", "layer 3", "neuron 3.120"), and lists of these, taken out together.
        value: what stands in their place; see `Replacement`. The means and the resampled values are of the other
            prompts of the call, or of `reference`.
        positions: where. "after the first": everywhere but at position 0, an attention sink that hardly any question is
            about. None: everywhere. Or positions of each prompt (-1: its last).
        layers: only these; None: all.
        reference: prompts to take means and resampled values from.
        n_draws: of resampling.
        groups: which prompts are not independent: {"template": one number for each prompt, ...}. None: the task's, or
            each prompt is.
        twin: an untrained model to do the same with (``probe.load_model(random=True)``).
        smallest_effect: in the metric's unit. None: what the metric says (2 % of the clean value, 0.02 nats).
        memory: bytes for recordings and batches; what that comes to is printed first. It sets speed, not numbers.
        folder: keep finished batches there, so that the same call goes on after an interruption. Without one, Ctrl-C
            returns the prompts that are done.

    Raises:
        UnknownName, OutOfRange: units, layers, heads, positions that do not exist; a budget too small (it says how much
            is needed).
        BadPrompt: no prompts; a target that is not one token; a reference that is empty or the prompt itself.
        DifferentModel: a task in tokens of another model.
        BadShape, NumbersBroke: the metric gives another shape, or NaN, on the clean pass: before the sweep starts.
        NotSaved: the folder holds the batches of another call.
    """
    setting = read_setting(
        model, prompts, metric=metric, value=value, positions=positions, reference=reference, n_draws=n_draws,
        groups=groups, document_start=document_start, memory=memory, seed=seed,
    )  # fmt: skip
    kind, found = list_units(model.config, units, layers)
    sweep = prepare_sweep(setting, found, named=kind if isinstance(units, str) else None)
    of_twin = None
    swept = sweep.run(folder, progress, f"ablating {kind}")
    of = setting.asked.metric
    least = of.smallest_effect(float(swept.clean.mean())) if smallest_effect is None else smallest_effect
    if twin is not None:
        of_twin = ablation_sweep(
            twin, [list(ids) for ids in setting.asked.batch.ids], metric=of, units=units, value=value,
            positions=positions, layers=layers, n_draws=n_draws, groups=setting.asked.groups,
            reference=None if setting.reference is None else [list(ids) for ids in setting.reference.ids],
            smallest_effect=least, memory=memory, seed=seed,
            folder=None if folder is None else os.path.join(folder, "twin"), progress=progress,
        )  # fmt: skip
    return AblationSweep(
        kind=kind, units=found, value=value, replaced_by=sweep.replacement.described, positions=setting.positions,
        metric=of.name, unit=of.unit, signed=of.signed, clean=swept.clean, effects=swept.effects,
        direct=swept.direct.mean(-1), spread=swept.spread, groups=swept.groups, smallest_effect=least, twin=of_twin,
        complete=swept.complete and (of_twin is None or of_twin.complete), seed=seed, manifest=sweep.manifest,
    )  # fmt: skip


@checked
def join_sweeps(sweeps: Sequence[AblationSweep]) -> AblationSweep:
    """Several sweeps as one: over the layers of all of them, or over all their listed units.

    What one call over all of these would give: units of a kind from the first layer up, listed ones as they come.

    Raises:
        OutOfRange: no sweeps; a unit that stands in two of them; sweeps that differ in more than layers and listed
            units, or of which an interruption left out different prompts.
        WrongType: other results.
        DifferentModel: sweeps of models with other weights.
    """
    check_joined("sweeps", sweeps, AblationSweep, _shared)
    first, units = sweeps[0], [unit for sweep in sweeps for unit in sweep.units]
    parts = [unit.parts for unit in units]
    if len(set(parts)) < len(parts):
        twice = next(unit.name for place, unit in enumerate(units) if unit.parts in parts[:place])
        raise OutOfRange(f"sweeps: unit {twice} stands in two of them")
    called = [sweep.manifest["method_arguments"] for sweep in sweeps]
    changed = {"layers": sorted({layer for one in called for layer in one["layers"]})}
    order = list(range(len(units)))
    if isinstance(called[0]["units"], str):
        order.sort(key=lambda place: parts[place][0].layer)
    else:
        changed["units"] = [unit for one in called for unit in one["units"]]
    return dataclasses.replace(
        first, **join_tensors(sweeps, "unit", order), units=tuple(units[place] for place in order),
        twin=None if first.twin is None else join_sweeps([sweep.twin for sweep in sweeps if sweep.twin]),
        complete=all(sweep.complete for sweep in sweeps),
        manifest={**first.manifest, "method_arguments": {**called[0], **changed}},
    )  # fmt: skip


def _shared(sweep: AblationSweep) -> dict[str, Any]:
    """What sweeps that can be joined have in common: all that was asked but layers and listed units."""
    called = sweep.manifest["method_arguments"]
    return {
        "prompts": sweep.manifest["prompts"], **called, "layers": None,
        "units": called["units"] if isinstance(called["units"], str) else f"listed {sweep.kind}",
        "smallest_effect": f"{sweep.smallest_effect:.3g}",  # by default a share of the clean metric: alike to rounding
        "twin": sweep.twin is None, "prompts that were reached": sweep.groups,
    }  # fmt: skip


@checked
def plan_ablation(
    model: GPT, prompts: Prompts | Task, *, units: Units = "heads", layers: Indices = None, **arguments: Any
) -> SweepPlan:
    """What `ablation_sweep` with these arguments would run: passes, bytes, time. Arguments and errors are the same."""
    call = inspect.signature(ablation_sweep).bind(model, prompts, **arguments)
    call.apply_defaults()
    setting = read_setting(**{name: call.arguments[name] for name in inspect.signature(read_setting).parameters})
    return prepare_sweep(setting, list_units(model.config, units, layers)[1]).plan()
