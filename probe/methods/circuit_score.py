"""What is a circuit worth? A set of heads is claimed to do a task: kept alone, and taken out, beside random sets.

Four runs of every prompt, with `replaced_by` in the place of heads and everything else (MLPs, norms) live:

    full        nothing is replaced
    alone       every head outside the circuit is replaced: the complement
    without     every head of the circuit is replaced
    none        every head of the model is replaced

    faithfulness = (alone - none) / (full - none)      1: the circuit does what the model does
    completeness = (full - without) / (full - none)    1: nothing of it is left without the circuit

Both are ratios of means over the prompts. A circuit can be faithful and not complete, where others do the same; and
above 1, where what was left out worked against it. Without random circuits of as many heads neither number says much.
Sources: Wang et al., "Interpretability in the wild" (2022), for both ideas; Miller, Chughtai and Saunders,
"Transformer circuit faithfulness metrics are not robust" (2024), for writing out what replaces the complement.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.errors import NumbersBroke, OutOfRange, check_count
from probe.gpt import GPT
from probe.methods._asked import has_several
from probe.methods._replacement import Value
from probe.methods._schedule import MEMORY
from probe.methods._sweep import AFTER_THE_FIRST, Positions, prepare_sweep, read_setting
from probe.methods._units import Head, all_heads, heads_of, random_sets, read_heads, unit_of_heads
from probe.metrics import AnyMetric
from probe.prompts import Prompts
from probe.results import Result
from probe.shown import Summary, count
from probe.statistics import Estimate, Groups, grid_evidence, p_value
from probe.tasks import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class CircuitScore(Result):
    """The metric on every prompt with the circuit, without it, and the same for random circuits of as many heads."""

    circuit: tuple[Head, ...]
    n_heads: int
    """Heads of the model."""
    replaced_by: str
    """What stands in the place of heads that are left out, in words."""
    positions: str
    metric: str
    unit: str
    full: Float[Tensor, " prompt"]
    """The metric with all heads."""
    none: Float[Tensor, " prompt"]
    """The metric with every head replaced."""
    alone: Float[Tensor, " prompt"]
    """The metric with the circuit alone."""
    without: Float[Tensor, " prompt"]
    """The metric without the circuit."""
    random_alone: Float[Tensor, "draw prompt"]
    random_without: Float[Tensor, "draw prompt"]
    groups: Groups
    complete: bool
    """False: interrupted; the prompts that were not reached are left out."""
    seed: int
    manifest: Mapping[str, Any]

    @functools.cached_property
    def faithfulness(self) -> Estimate:
        """(alone - none) / (full - none), a ratio of means; interval over groups of prompts, NaN for one prompt."""
        return self._share(self.alone - self.none)

    @functools.cached_property
    def completeness(self) -> Estimate:
        """(full - without) / (full - none), a ratio of means; interval over groups of prompts, NaN for one prompt."""
        return self._share(self.full - self.without)

    @property
    def random_faithfulness(self) -> Float[Tensor, " draw"]:
        """Faithfulness of each random circuit."""
        return (self.random_alone - self.none).mean(1) / (self.full - self.none).mean()

    @property
    def random_completeness(self) -> Float[Tensor, " draw"]:
        """Completeness of each random circuit."""
        return (self.full - self.random_without).mean(1) / (self.full - self.none).mean()

    @property
    def p_faithfulness(self) -> float:
        """How often a random circuit is as faithful; at least 1 / (1 + draws)."""
        return p_value(self.faithfulness.value, self.random_faithfulness)

    @property
    def p_completeness(self) -> float:
        """How often a random circuit is as complete."""
        return p_value(self.completeness.value, self.random_completeness)

    def summary(self) -> Summary:
        """How much the circuit does alone, and how much goes with it; `print` says more."""
        return Summary(
            f"{len(self.circuit)} of {self.n_heads} heads, {count(len(self.full), 'prompt')}: {self.metric} "
            f"({self.unit})",
            {"faithfulness": self.faithfulness, "p": self.p_faithfulness, "completeness": self.completeness,
             "p of that": self.p_completeness},
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per circuit: the one asked about, then the random ones."""
        import pandas  # half a second that only tables need

        faithful = [self.faithfulness.value, *self.random_faithfulness.tolist()]
        complete = [self.completeness.value, *self.random_completeness.tolist()]
        names = ["circuit", *(f"random {draw}" for draw in range(len(self.random_alone)))]
        alone, without = ([float(own.mean()), *drawn.mean(1).tolist()] for own, drawn in (
            (self.alone, self.random_alone), (self.without, self.random_without)))  # fmt: skip
        return pandas.DataFrame(
            {"circuit": names, "faithfulness": faithful, "completeness": complete, "alone": alone, "without": without}
        )

    def __str__(self) -> str:
        full, none = float(self.full.mean()), float(self.none.mean())
        draws = len(self.random_alone)
        lines = [
            f"{len(self.circuit)} of {self.n_heads} heads; {self.metric} in {self.unit}: {full:.3f} with all heads, "
            f"{none:.3f} with none ({self.replaced_by}; positions: {self.positions})",
            f"  alone {float(self.alone.mean()):.3f}: faithfulness {self.faithfulness}; {draws} random circuits "
            f"{float(self.random_faithfulness.mean()):.3f}, p = {self.p_faithfulness:.3f}",
            f"  without it {float(self.without.mean()):.3f}: completeness {self.completeness}; random "
            f"{float(self.random_completeness.mean()):.3f}, p = {self.p_completeness:.3f}",
        ]
        return "\n".join(lines)

    def _share(self, values: Float[Tensor, " prompt"]) -> Estimate:
        whole = self.full - self.none
        if not has_several(self.groups):
            return Estimate(float(values.mean() / whole.mean()), float("nan"), float("nan"))
        found = grid_evidence(
            values[None], self.groups, signed=False, smallest_effect=0.0, seed=self.seed, over=whole
        )  # fmt: skip
        return Estimate(float(found.mean), float(found.low), float(found.high))


@checked
def score_circuit(
    model: GPT,
    prompts: Prompts | Task,
    circuit: Sequence[Head],
    *,
    metric: AnyMetric | None = None,
    value: Value = "mean",
    positions: Positions = AFTER_THE_FIRST,
    reference: Prompts | None = None,
    n_draws: int = 5,
    n_random: int = 20,
    groups: Groups | None = None,
    document_start: bool = False,
    memory: int = MEMORY,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> CircuitScore:
    """How much of a task a set of heads does by itself, and how much is left without it.

    Args:
        circuit: heads as (layer, head). MLPs are in every circuit.
        n_random: random circuits of as many heads to compare with; fewer where there are not so many.
        Others as of `ablation_sweep`.

    Raises:
        OutOfRange: a circuit of no head or of all; a head that does not exist, or twice; fewer than one random circuit.
        NumbersBroke: the metric is the same with and without all heads, so that no share of it can be told.
        Others as `ablation_sweep`.
    """
    config = model.config
    everyone, unit = all_heads(config), read_heads(config, list(circuit))
    heads = heads_of(unit)
    if len(heads) == len(everyone):
        raise OutOfRange(f"circuit: all {len(heads)} heads of the model; there is nothing left to replace")
    check_count("n_random", n_random)
    setting = read_setting(
        model, prompts, metric=metric, value=value, positions=positions, reference=reference, n_draws=n_draws,
        groups=groups, document_start=document_start, memory=memory, seed=seed,
    )  # fmt: skip
    circuits = [heads, *random_sets(config, len(heads), n_random, seed=seed, but=heads)]
    complements = [unit_of_heads([head for head in everyone if head not in one]) for one in circuits]
    units = [unit_of_heads(everyone), *complements, *map(unit_of_heads, circuits)]
    sweep = prepare_sweep(setting, units)
    found = sweep.run(folder, progress, "scoring the circuit")
    none, *others = found.clean + found.effects
    if abs(float((found.clean - none).mean())) < 1e-6:
        raise NumbersBroke(
            f"{setting.asked.metric.name} is {float(found.clean.mean()):.4f} with all heads and with none: there is "
            "nothing of which a circuit could have a share"
        )
    alone, without = others[: len(circuits)], others[len(circuits) :]
    return CircuitScore(
        circuit=heads, n_heads=len(everyone), replaced_by=sweep.replacement.described, positions=setting.positions,
        metric=setting.asked.metric.name, unit=setting.asked.metric.unit, full=found.clean, none=none, alone=alone[0],
        without=without[0], random_alone=torch.stack(alone[1:]), random_without=torch.stack(without[1:]),
        groups=found.groups, complete=found.complete, seed=seed,
        manifest={**sweep.manifest, "method": "circuit score", "circuit": [list(head) for head in heads]},
    )  # fmt: skip
