"""Units taken out one at a time, on prompts that were read once: what every kind of ablation runs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import BadPrompt, unknown_name
from probe.gpt import GPT
from probe.methods._asked import Asked, groups_of, read_asked
from probe.methods._replacement import Replacement, Value
from probe.methods._reruns import RecordedRun, Row, Table
from probe.methods._schedule import Schedule, SweepPlan, run_schedule
from probe.methods._units import Unit
from probe.metrics import AnyMetric, check_measured
from probe.prompts import PromptBatch, Prompts, read_prompts
from probe.provenance import provenance
from probe.selection import Indices, select
from probe.statistics import Groups
from probe.tasks import Task

AFTER_THE_FIRST = "after the first"
Positions = Indices | Literal["after the first"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What is measured on what, and what stands in the place of what is taken out; checked, nothing has run yet."""

    model: GPT
    asked: Asked
    value: Value
    positions: str
    """Where values are replaced, in words."""
    edited: Sequence[tuple[int, ...]]
    """The positions of each prompt at which values are replaced."""
    reference: PromptBatch | None
    n_draws: int
    memory: int
    seed: int

    def arguments(self) -> dict[str, Any]:
        """The arguments as JSON values, for manifests."""
        return {
            "metric": self.asked.metric.name, "metric_arguments": dict(self.asked.metric.arguments),
            "unit": self.asked.metric.unit, "value": self.value,
            "positions": [list(one) for one in self.edited],
            "reference": None if self.reference is None else [list(ids) for ids in self.reference.ids],
            "n_draws": self.n_draws, "groups": self.asked.groups, "memory": self.memory, "seed": self.seed,
        }  # fmt: skip


def read_setting(
    model: GPT, prompts: Prompts | Task, *, metric: AnyMetric | None, value: Value, positions: Positions,
    reference: Prompts | None, n_draws: int, groups: Groups | None, document_start: bool, memory: int, seed: int,
) -> Setting:  # fmt: skip
    """Read what every kind of ablation is given; errors as of `ablation_sweep`."""
    asked = read_asked(model, prompts, metric=metric, groups=groups, document_start=document_start)
    others = None
    if reference is not None:
        if isinstance(reference, Sequence) and not reference:
            raise BadPrompt(
                "reference: no prompts, the list is empty; leave it out to use the other prompts of the call"
            )
        start = prompts.document_start if isinstance(prompts, Task) else document_start
        others = read_prompts(model.config, model.tokenizer, reference, document_start=start)
    edited = _edited_positions(asked.batch, positions)
    where = positions if isinstance(positions, str) else "all" if positions is None else str(list(edited[0]))
    return Setting(model, asked, value, where, edited, others, n_draws, memory, seed)


@dataclass(frozen=True, eq=False)
class Swept:
    """What taking out each unit does to the metric, on the prompts that were reached."""

    clean: Float[Tensor, " prompt"]
    total: Float[Tensor, "unit prompt draw"]
    """Effect on the metric: edited minus clean."""
    direct: Float[Tensor, "unit prompt draw"]
    """Effect through the unit's own path to the logits alone: edited minus clean."""
    groups: Groups
    complete: bool

    @property
    def effects(self) -> Float[Tensor, "unit prompt"]:
        """Total effect, mean over draws."""
        return self.total.mean(-1)

    @property
    def spread(self) -> Float[Tensor, "unit prompt"]:
        """Standard deviation of the total effect over draws; zero where there is one."""
        return self.total.std(-1) if self.total.shape[-1] > 1 else torch.zeros(self.total.shape[:2])


@dataclass(frozen=True, eq=False)
class Sweep:
    """Units to take out in one setting."""

    setting: Setting
    units: Sequence[Unit]
    replacement: Replacement
    schedule: Schedule
    manifest: Mapping[str, Any]

    def plan(self) -> SweepPlan:
        return self.schedule.plan()

    def run(self, folder: str | os.PathLike[str] | None, progress: bool, description: str) -> Swept:
        """The rows of all batches, put where they belong."""
        with torch.no_grad():
            found = run_schedule(
                self.schedule, self._begin, _measured, folder=folder, arguments=self.manifest, progress=progress,
                description=description, prepare=self.replacement.prepare,
            )  # fmt: skip
        every, draws = found.prompts["base"], self.replacement.n_draws
        at = torch.tensor([[row.unit, prompt, row.source % draws] for prompt, row in found.rows], dtype=torch.long)
        filled = {}
        for name, values in found.values.items():
            table = torch.full((len(self.units), len(every), draws), torch.nan)
            table[at[:, 0], at[:, 1], at[:, 2]] = values
            filled[name] = table - every[:, None]
        reached = ~every.isnan()
        groups = groups_of(self.setting.asked.groups, reached.tolist())
        return Swept(every[reached], filled["total"][:, reached], filled["direct"][:, reached], groups, found.complete)

    def _begin(self, clean: RecordedRun, block: Sequence[int]) -> tuple[Table, dict[str, Tensor]]:
        check_measured(self.setting.asked.metric, clean.metric, block)
        return self.replacement.table(clean, block), {}


def prepare_sweep(
    setting: Setting, units: Sequence[Unit], *, named: str | None = None, only: Sequence[int] | None = None
) -> Sweep:
    """Check that these units can be taken out here, within the memory.

    `named`: how the manifest calls them all ("heads"); None: it lists their parts. `only`: these prompts of the call;
    means and draws are still of all of them.
    """
    model, batch = setting.model, setting.asked.batch
    parts = [part for unit in units for part in unit.parts]
    sites = tuple(dict.fromkeys(part.site for part in parts))
    layers = sorted({part.layer for part in parts})
    replacement = Replacement(
        model, setting.value, batch, sites=sites, layers=layers, edited=setting.edited, reference=setting.reference,
        n_draws=setting.n_draws, seed=setting.seed,
    )  # fmt: skip
    draws, has_sources = replacement.n_draws, setting.value != "zero"

    def rows(block: Sequence[int]) -> list[Row]:
        return [
            Row(prompt, prompt * draws + draw if has_sources else 0, unit.parts, setting.edited[row], number)
            for number, unit in enumerate(units)
            for prompt, row in enumerate(block)
            for draw in range(draws)
        ]

    measure = setting.asked.metric.bind(model, batch)
    schedule = Schedule(model, batch, measure, sites, rows, setting.memory, copies=draws, only=only)
    schedule.check()
    listed = [[[part.layer, part.index] if part.site == "z" else list(part) for part in unit.parts] for unit in units]
    manifest = {
        **provenance(model), "method": "ablation sweep", "prompts": [list(ids) for ids in batch.ids],
        "method_arguments": {
            **setting.arguments(), "tokens": None if measure.tokens is None else measure.tokens.tolist(),
            "units": listed if named is None else named, "layers": layers, "replaced_by": replacement.described,
            "n_draws": draws, "only_prompts": None if only is None else list(only),
        },
    }  # fmt: skip
    return Sweep(setting, units, replacement, schedule, manifest)


def _measured(clean: RecordedRun, rows: Sequence[Row], table: Table) -> dict[str, Tensor]:
    prompts = torch.tensor([row.prompt for row in rows], device=clean.prompts.device)
    return {
        "total": clean.measured(clean.logits(rows, table), prompts),
        "direct": clean.measured(clean.direct_logits(rows, table), prompts),
    }


def _edited_positions(batch: PromptBatch, positions: Positions) -> list[tuple[int, ...]]:
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
