"""Evidence in numbers: areas under curves, effect sizes, intervals by resampling, permutation tests.

Random numbers come from a seed given by the caller, in float64 and on the CPU: the same seed gives the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

CONFIDENCE = 0.95
"""Of every interval."""
SIGNIFICANT = 0.05
"""The largest p that counts."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval."""

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def auroc(positive: Float[Tensor, "... n"], negative: Float[Tensor, "... m"]) -> Float[Tensor, "..."]:
    """The chance that a random positive score is above a random negative one, ties counting half: 0.5 knows nothing.

    Source: Mann and Whitney (1947); Hanley and McNeil (1982).
    """
    ordered = negative.sort(dim=-1).values.contiguous()
    scores = positive.contiguous()
    below = torch.searchsorted(ordered, scores, right=False)
    not_above = torch.searchsorted(ordered, scores, right=True)
    return ((below + not_above).double() / (2 * negative.shape[-1])).mean(-1)


def paired_accuracy(positive: Float[Tensor, "... n"], negative: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """The share of pairs whose positive member scores higher, ties counting half."""
    return ((positive > negative).double() + 0.5 * (positive == negative).double()).mean(-1)


def cohens_d(positive: Float[Tensor, "... n"], negative: Float[Tensor, "... m"]) -> Float[Tensor, "..."]:
    """The difference of two means in units of the pooled standard deviation.

    Source: Cohen, "Statistical power analysis" (1988).
    """
    n, m = positive.shape[-1], negative.shape[-1]
    within = (n - 1) * positive.var(-1) + (m - 1) * negative.var(-1)
    return (positive.mean(-1) - negative.mean(-1)) / (within / (n + m - 2)).sqrt()


def bootstrap(statistic: Callable[[Tensor], Tensor], n: int, *, seed: int, n_resamples: int = 2000) -> Estimate:
    """A statistic of n things with its percentile interval, from resampling the things with replacement.

    `statistic` gets indices (resample, n) and gives a number for each row. Source: Efron and Tibshirani (1993).
    """
    draws = torch.randint(n, (n_resamples, n), generator=torch.Generator().manual_seed(seed))
    value = statistic(torch.arange(n)[None])[0]
    outside = (1 - CONFIDENCE) / 2
    low, high = statistic(draws).double().quantile(torch.tensor([outside, 1 - outside], dtype=torch.float64)).tolist()
    return Estimate(float(value), low, high)


def bootstrap_share(statistic: Callable[[Tensor], Tensor], n: int, *, seed: int, n_resamples: int = 2000) -> Estimate:
    """As `bootstrap`, of a share between 0 and 1, whose interval never says more than n things can.

    Where all n agree, resampling says nothing of what a further thing would do. So the low end is never above the exact
    binomial one for n of n, 0.025 ** (1 / n), nor the high end below its mirror image. Source: Clopper and Pearson
    (1934).
    """
    found = bootstrap(statistic, n, seed=seed, n_resamples=n_resamples)
    end = ((1 - CONFIDENCE) / 2) ** (1 / n)
    return Estimate(found.value, min(found.low, end), max(found.high, 1 - end))


@dataclass(frozen=True, eq=False)
class Flips:
    """Ways of swapping the two members of n pairs, for a permutation test of paired data."""

    signs: Float[Tensor, "flip pair"]
    """1 as it is, -1 swapped; float64. Without the arrangement that was observed."""
    exact: bool
    """Whether these are all ways there are (swapping all pairs at once changes nothing)."""


def sign_flips(n: int, n_permutations: int, *, seed: int) -> Flips:
    """All 2^(n-1) - 1 other ways where they are not more than asked for, else that many random ones."""
    if n - 1 < 62 and 2 ** (n - 1) - 1 <= n_permutations:
        numbers = torch.arange(1, 2 ** (n - 1))
        bits = (numbers[:, None] >> torch.arange(n - 1)) & 1
        signs = torch.cat([torch.ones(len(numbers), 1), 1.0 - 2.0 * bits], dim=1)
        return Flips(signs.double(), exact=True)
    generator = torch.Generator().manual_seed(seed)
    return Flips(2.0 * torch.randint(2, (n_permutations, n), generator=generator).double() - 1.0, exact=False)


def smallest_p(n: int, n_permutations: int) -> float:
    """The smallest p that flipping the signs of n pairs can give."""
    return max(2.0 ** (1 - n), 1 / (1 + n_permutations))


def p_value(observed: float | Tensor, null: Float[Tensor, " draw"]) -> float:
    """(1 + k) / (1 + B): k of B draws reach what was observed, which is a draw itself; what equals it but for rounding
    reaches it. Exact where the draws are all other arrangements.

    Source: Phipson and Smyth, "Permutation p-values should never be zero" (2010).
    """
    return (1 + int((null >= float(observed) - 1e-12).sum())) / (1 + len(null))
