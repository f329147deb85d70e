"""Do two ways of measuring effects agree? Zero against mean ablation, say, or one model against another.

Most units do nothing, and what is left of their effects is noise. Ranks over all of them compare mostly that noise, so
the rank correlation stands beside what matters: the linear correlation over the units that have an effect, and how many
of the largest are the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.arguments import checked
from probe.errors import BadShape, OutOfRange
from probe.methods._units import Unit
from probe.results import Result
from probe.shown import Summary

if TYPE_CHECKING:
    import pandas


@runtime_checkable
class Effects(Protocol):
    """An `AblationSweep`, or whatever has the same fields."""

    units: Sequence[Unit]
    effects: Float[Tensor, "unit prompt"]
    metric: str
    unit: str
    replaced_by: str
    smallest_effect: float
    manifest: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Agreement(Result):
    """The mean effects of the same units, measured in two ways."""

    units: tuple[Unit, ...]
    names: tuple[str, str]
    """What stood in a unit's place, in either."""
    effects: Float[Tensor, "way unit"]
    metric: str
    unit: str
    smallest_effect: float
    """The larger of the two sweeps' smallest effects worth naming."""
    above: Bool[Tensor, " unit"]
    """Units whose effect is at least that size, up or down, in either sweep."""
    k: int
    shared: tuple[str, ...]
    """Units among the k largest, by size, of both."""
    pearson: float
    """Pearson correlation over the units `above`; NaN where fewer than three are."""
    spearman: float
    """Spearman correlation over all units; mostly noise where most do nothing."""
    manifest: Mapping[str, Any]

    def verdict(self) -> str:
        """What the correlations and the shared units say, in a sentence."""
        n = int(self.above.sum())
        linear = (
            f"correlation {self.pearson:.2f} over the {n}"
            if n >= 3
            else f"no correlation, since only {n} of {len(self.units)} are"
        )
        ranks = "none, since one does not vary" if math.isnan(self.spearman) else f"{self.spearman:.2f}"
        return (
            f"{self.names[0]} against {self.names[1]}: {len(self.shared)} of the {self.k} largest are the same; "
            f"{linear} above {self.smallest_effect:.3g} {self.unit}; rank correlation over all {len(self.units)}, "
            f"most of which do little: {ranks}."
        )

    def summary(self) -> Summary:
        """Both correlations and the shared units; `verdict()` says them in a sentence."""
        return Summary(
            f"{len(self.units)} units, by {self.metric}: {self.names[0]} against {self.names[1]}",
            {
                f"shared among the {self.k} largest": len(self.shared),
                "correlation of those above the smallest effect": self.pearson,
                "rank correlation of all": self.spearman,
            },
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per unit."""
        import pandas  # half a second that only tables need

        return pandas.DataFrame(
            {
                "unit": [unit.name for unit in self.units], "first": self.effects[0].tolist(),
                "second": self.effects[1].tolist(), "above": self.above.tolist(),
                "shared": [unit.name in self.shared for unit in self.units],
            }
        )  # fmt: skip


@checked
def agreement(first: Effects, second: Effects, k: int = 10) -> Agreement:
    """How far two sweeps of the same units, by the same metric, agree on which matter and how much.

    Raises:
        BadShape: other units, or effects in another unit.
        OutOfRange: k is not a number from 1 to the number of units.
    """
    names = [unit.name for unit in first.units]
    if [unit.parts for unit in first.units] != [unit.parts for unit in second.units]:
        raise BadShape(f"{_some(first)} in one and {_some(second)} in the other: agreement is about the same units")
    if (first.metric, first.unit) != (second.metric, second.unit):
        raise BadShape(f"effects in {first.unit} ({first.metric}) and in {second.unit} ({second.metric}): expected one "
                       "metric for both")  # fmt: skip
    if not 1 <= k <= len(names):
        raise OutOfRange(f"k={k}: expected 1 to {len(names)}, the number of units")
    from scipy.stats import rankdata  # half a second that only this needs

    effects = torch.stack([one.effects.mean(1) for one in (first, second)]).double()
    least = max(first.smallest_effect, second.smallest_effect)
    above = (effects.abs() >= least).any(0)
    largest = [set(one.abs().argsort(descending=True, stable=True)[:k].tolist()) for one in effects]
    return Agreement(
        units=tuple(first.units), names=(first.replaced_by, second.replaced_by), effects=effects, metric=first.metric,
        unit=first.unit, smallest_effect=least, above=above, k=k,
        shared=tuple(names[place] for place in sorted(largest[0] & largest[1])),
        pearson=_correlation(effects[:, above]) if int(above.sum()) >= 3 else float("nan"),
        spearman=_correlation(torch.from_numpy(rankdata(effects.numpy(), axis=1))),
        manifest={"method": "agreement", "k": k, "first": dict(first.manifest), "second": dict(second.manifest)},
    )  # fmt: skip


def _correlation(two: Float[Tensor, "way unit"]) -> float:
    """Pearson's; NaN where one of the two does not vary."""
    return float(torch.corrcoef(two)[0, 1]) if two.shape[1] > 1 else float("nan")


def _some(sweep: Effects) -> str:
    names = [unit.name for unit in sweep.units]
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")
