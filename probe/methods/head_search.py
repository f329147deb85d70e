"""Which heads, taken out together, change the answer most? Chosen one by one on some prompts, measured on the others.

Effects of single heads do not add up: of two heads that can stand in for one another, each alone does nothing. So each
step takes the head that adds most to those already taken out, and where no single one adds anything, the best pair. A
set chosen for its effect looks better on the prompts that it was chosen on than it is; what is reported is its effect
on prompts that had no say, beside random sets of as many heads.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.errors import BadPrompt, OutOfRange, as_integer, check_count
from probe.gpt import GPT
from probe.methods._asked import groups_of, has_several
from probe.methods._replacement import Value
from probe.methods._schedule import MEMORY
from probe.methods._sweep import AFTER_THE_FIRST, Positions, Setting, Swept, prepare_sweep, read_setting
from probe.methods._units import Head, Unit, all_heads, heads_of, random_sets, read_heads, unit_of_heads
from probe.metrics import AnyMetric
from probe.prompts import Prompts
from probe.results import Result
from probe.shown import Summary, count
from probe.statistics import Groups, grid_evidence, p_value
from probe.tasks import Task

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the search, with its set of heads measured on prompts that had no say in it."""

    added: tuple[Head, ...]
    """One head, or two where no single one added enough."""
    heads: tuple[Head, ...]
    """All heads that are taken out by now."""
    chosen_for: float
    """The set's mean effect on the prompts that it was chosen on: too good to be true."""
    effect: float
    """The set's mean effect on the other prompts."""
    low: float
    high: float
    """Ends of the 95 % interval of `effect`."""
    sum_of_each: float
    """What the set's heads do one at a time, added up, on the other prompts."""
    random: Float[Tensor, " draw"]
    """Mean effects of random sets of as many heads, on the other prompts."""

    @property
    def p(self) -> float:
        """How often a random set changes as much, either way; at least 1 / (1 + draws)."""
        return p_value(abs(self.effect), self.random.abs())


@dataclass(frozen=True, eq=False)
class HeadSearch(Result):
    """The sets of heads that a search found, from one head up."""

    steps: tuple[Step, ...]
    stopped: str
    """Why there are no more steps."""
    replaced_by: str
    metric: str
    unit: str
    clean: float
    """The metric with nothing taken out, on the prompts that had no say."""
    candidates: tuple[Head, ...]
    chosen_on: tuple[int, ...]
    """The prompts of the call that the sets were chosen on; they are measured on the others."""
    complete: bool
    """False: interrupted before the search was over."""
    manifest: Mapping[str, Any]

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads of the last step."""
        return self.steps[-1].heads if self.steps else ()

    def summary(self) -> Summary:
        """The last set; `print` shows every step."""
        last = self.steps[-1] if self.steps else None
        found = {} if last is None else {
            "last set": " + ".join(f"{layer}.{head}" for layer, head in last.heads),
            "effect": f"{last.effect:+.3g} ({last.low:+.3g} to {last.high:+.3g})", "p": last.p,
        }  # fmt: skip
        return Summary(
            f"{count(len(self.steps), 'step')}, {len(self.candidates)} candidates: change of {self.metric} "
            f"({self.unit})",
            {**found, "end": self.stopped}, self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per step."""
        import pandas  # half a second that only tables need

        return pandas.DataFrame(
            [
                {
                    "added": " + ".join(f"{layer}.{head}" for layer, head in step.added), "n_heads": len(step.heads),
                    "effect": step.effect, "low": step.low, "high": step.high, "sum_of_each": step.sum_of_each,
                    "chosen_for": step.chosen_for, "random_mean": float(step.random.mean()), "p": step.p,
                }
                for step in self.steps
            ]
        )  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.metric}, clean {self.clean:.3f} {self.unit}; {self.replaced_by} instead of:"]
        for step in self.steps:
            names = " + ".join(f"{layer}.{head}" for layer, head in step.heads)
            lines.append(
                f"  {names}: {step.effect:+.3f} ({step.low:+.3f} to {step.high:+.3f}); each alone, added up "
                f"{step.sum_of_each:+.3f}; random sets {float(step.random.mean()):+.3f}, p = {step.p:.3f}"
            )
        return "\n".join([*lines, f"  {self.stopped}"])


@checked
def search_heads(
    model: GPT,
    prompts: Prompts | Task,
    *,
    metric: AnyMetric | None = None,
    n_heads: int = 5,
    candidates: int | Sequence[Head] = 24,
    value: Value = "mean",
    positions: Positions = AFTER_THE_FIRST,
    reference: Prompts | None = None,
    n_draws: int = 5,
    n_random: int = 20,
    groups: Groups | None = None,
    smallest_effect: float | None = None,
    document_start: bool = False,
    memory: int = MEMORY,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> HeadSearch:
    """Take out, step by step, the head that makes the effect of all that are out the largest, either way.

    Half of the groups of the first kind (templates, say) choose, the other half measures. After Ctrl-C what was chosen
    by then is still measured.

    Args:
        n_heads: stop at so many.
        candidates: the heads to choose among: so many with the largest total or direct effect, or a list. Direct counts
            too, since a head that others stand in for has hardly any total effect.
        n_random: sets of random heads to compare with, at each step; fewer where there are not so many sets.
        smallest_effect: a head or pair that adds less is not taken. None: what the metric says.
        Others as of `ablation_sweep`.

    Raises:
        BadPrompt: too few prompts, or groups, to choose on some and measure on others.
        OutOfRange: fewer than one head, candidate or random set; a head that does not exist.
        Others as `ablation_sweep`.
    """
    n_all = model.config.n_layers * model.config.n_heads
    if not 1 <= n_heads < n_all:
        raise OutOfRange(f"n_heads={n_heads}: expected 1 to {n_all - 1}; this model has {n_all} heads")
    check_count("n_random", n_random)
    n_candidates = None if isinstance(candidates, Sequence) else as_integer(candidates) or 0
    if n_candidates is not None and n_candidates < 1:
        raise OutOfRange(f"candidates={candidates!r}: expected at least 1")
    setting = read_setting(
        model, prompts, metric=metric, value=value, positions=positions, reference=reference, n_draws=n_draws,
        groups=groups, document_start=document_start, memory=memory, seed=seed,
    )  # fmt: skip
    choosing, measuring = _split(setting.asked.groups, seed)
    heads = all_heads(model.config)
    if isinstance(candidates, Sequence):
        heads = list(heads_of(read_heads(model.config, list(candidates))))

    def sweep(units: Sequence[Unit], of: Sequence[int], name: str) -> Swept:
        kept = None if folder is None else os.path.join(folder, name.replace(" ", "-"))
        return prepare_sweep(setting, units, only=of).run(kept, progress, name)

    singles = sweep([unit_of_heads([head]) for head in heads], choosing, "each head")
    if not singles.complete:
        raise KeyboardInterrupt  # half of the heads' prompts choose nothing
    of_metric = setting.asked.metric
    least = of_metric.smallest_effect(float(singles.clean.mean())) if smallest_effect is None else smallest_effect
    if n_candidates is not None:
        size = torch.maximum(singles.effects.mean(1).abs(), singles.direct.mean((1, 2)).abs())
        heads = [heads[place] for place in sorted(size.argsort(descending=True, stable=True)[:n_candidates].tolist())]
    found = _search(sweep, heads, choosing, n_heads, least, of_metric.unit)
    steps, clean = _measure(sweep, setting, found.chosen, measuring, n_random)
    whole = prepare_sweep(setting, [unit_of_heads(heads)])
    arguments = {
        **whole.manifest["method_arguments"], "units": "sets of heads", "n_heads": n_heads, "n_random": n_random,
        "candidates": [list(head) for head in heads], "smallest_effect": least, "chosen_on": choosing,
    }  # fmt: skip
    return HeadSearch(
        steps=steps, stopped=found.stopped, replaced_by=whole.replacement.described, metric=of_metric.name,
        unit=of_metric.unit, clean=float(singles.clean.mean()) if clean is None else clean, candidates=tuple(heads),
        chosen_on=tuple(choosing), complete=found.complete,
        manifest={**whole.manifest, "method": "head search", "method_arguments": arguments},
    )  # fmt: skip


def _split(groups: Groups, seed: int) -> tuple[list[int], list[int]]:
    """The prompts to choose on and those to measure on: halves of the groups of the first kind that has several."""
    kinds = [members for members in groups.values() if len(set(members)) > 1]
    if kinds:
        names = sorted(set(kinds[0]))
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
        chooses = {names[place] for place in order[: len(names) // 2]}
        choosing = [row for row, name in enumerate(kinds[0]) if name in chooses]
        measuring = [row for row, name in enumerate(kinds[0]) if name not in chooses]
        if has_several(groups_of(groups, [row in measuring for row in range(len(kinds[0]))])):
            return choosing, measuring
    n = len(next(iter(groups.values())))
    raise BadPrompt(
        f"{n} prompts in {len(kinds and set(kinds[0])) or 1} groups: a search chooses on half of them and measures on "
        "the others; give 4 prompts or more, or 3 groups"
    )


class _Found(NamedTuple):
    chosen: list[tuple[tuple[Head, ...], tuple[Head, ...], float]]
    """For each step: what is added, the whole set, its effect on the prompts that choose."""
    stopped: str
    complete: bool


def _search(
    sweep: Callable[[Sequence[Unit], Sequence[int], str], Swept], among: Sequence[Head], choosing: Sequence[int],
    n_heads: int, least: float, unit: str,
) -> _Found:  # fmt: skip
    chosen: list[tuple[tuple[Head, ...], tuple[Head, ...], float]] = []
    out, effect = (), 0.0
    while len(out) < n_heads:
        for size in range(1, 1 + min(2, n_heads - len(out))):
            options = list(itertools.combinations([head for head in among if head not in out], size))
            if not options:
                continue
            name = f"{len(out) + size} heads" + (" by pairs" if size == 2 else "")
            swept = sweep([unit_of_heads([*out, *more]) for more in options], choosing, name)
            if not swept.complete:
                return _Found(chosen, "interrupted", False)
            means = swept.effects.mean(1)
            best = int(means.abs().argmax())
            if abs(float(means[best])) - abs(effect) >= least:
                out, effect = tuple(sorted([*out, *options[best]])), float(means[best])
                chosen.append((options[best], out, effect))
                break
        else:
            return _Found(chosen, f"no further head or pair adds {least:.3g} {unit}", True)
    return _Found(chosen, f"stopped at {n_heads} heads, as asked", True)


def _measure(
    sweep: Callable[[Sequence[Unit], Sequence[int], str], Swept], setting: Setting,
    chosen: Sequence[tuple[tuple[Head, ...], tuple[Head, ...], float]], measuring: Sequence[int], n_random: int,
) -> tuple[tuple[Step, ...], float | None]:  # fmt: skip
    """The sets, their single heads and random sets of as many, on prompts that had no say; and the clean metric."""
    if not chosen:
        return (), None
    config, seed = setting.model.config, setting.seed
    singles = chosen[-1][1]
    random = [random_sets(config, len(heads), n_random, seed=seed, but=heads) for _, heads, _ in chosen]
    sets = [*(heads for _, heads, _ in chosen), *((head,) for head in singles), *itertools.chain(*random)]
    swept = sweep([unit_of_heads(heads) for heads in sets], measuring, "other prompts")
    found = grid_evidence(swept.effects, swept.groups, signed=False, smallest_effect=0.0, seed=seed)
    of_single = dict(zip(singles, found.mean[len(chosen) :].tolist(), strict=False))
    of_random = found.mean[len(chosen) + len(singles) :].split([len(draws) for draws in random])
    steps = tuple(
        Step(added, heads, effect, float(found.mean[number]), float(found.low[number]), float(found.high[number]),
             sum(of_single[head] for head in heads), of_random[number])
        for number, (added, heads, effect) in enumerate(chosen)
    )  # fmt: skip
    return steps, float(swept.clean.mean())
