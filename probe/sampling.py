"""From logits to a choice: temperature, top k, top p, and one random number on the cumulative distribution.

Tokens stand in the order of probability, so that the number drawn and the chosen token can be seen on one bar.
Source: Fan et al. (2018) for top k; Holtzman et al. (2020) for top p (nucleus).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import OutOfRange, as_integer
from probe.shown import Shown, Summary, count

if TYPE_CHECKING:
    import pandas

LARGEST_TEMPERATURE = 5.0
LISTED = 64
"""Tokens of which a distribution keeps the logit by default."""
BINS = 128
"""Bins of the histogram in which the other tokens are counted."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature first, then top k, then top p, as Hugging Face has it."""

    temperature: float = 1.0
    """Logits are divided by it. 0: the likeliest token, always."""
    top_k: int | None = None
    """Only so many of the likeliest tokens. None: all."""
    top_p: float | None = None
    """Only the fewest of the likeliest tokens that together have at least this probability. None: all."""

    def __post_init__(self) -> None:
        """Raise OutOfRange for what cannot be sampled with."""
        if not _is_number(self.temperature) or not 0.0 <= self.temperature <= LARGEST_TEMPERATURE:
            raise OutOfRange(
                f"temperature={self.temperature!r}: expected 0 (always the likeliest token) to {LARGEST_TEMPERATURE:g}"
            )
        if self.top_k is not None and not 1 <= (as_integer(self.top_k) or 0) < 2**63:
            raise OutOfRange(f"top_k={self.top_k!r}: expected 1 or more tokens, or None for all")
        if self.top_p is not None and (not _is_number(self.top_p) or not 0.0 < self.top_p <= 1.0):
            raise OutOfRange(f"top_p={self.top_p!r}: expected above 0, at most 1; None means all tokens")

    def probabilities(
        self, logits: Float[Tensor, " entry"], counts: Float[Tensor, " entry"] | None = None
    ) -> Float[Tensor, " entry"]:
        """Probability of each entry, in float64; they sum to 1.

        `logits` stand in descending order. An entry may stand for several tokens of (nearly) one logit: `counts`.
        """
        precise = logits.double()
        if self.temperature == 0:
            return torch.zeros_like(precise).index_fill(0, torch.tensor(0, device=logits.device), 1.0)
        each = ((precise - precise[0]) / self.temperature).exp()
        counts = torch.ones_like(each) if counts is None else counts.double()
        if self.top_k is not None:
            counts = counts.minimum((self.top_k - _before(counts)).clamp(min=0.0))
        weights = counts * each
        weights = weights / weights.sum()
        if self.top_p is not None:
            per_token = weights / counts.clamp(min=1.0)
            lacking = (self.top_p - _before(weights)) / per_token.clamp(min=torch.finfo(torch.float64).tiny)
            # 1e-12: 0.1 + 0.2 is not quite 0.3, and a token more would be kept for that.
            kept = (lacking - 1e-12).ceil().clamp(min=0.0).minimum(counts)
            kept[0] = kept[0].clamp(min=1.0)  # the likeliest token always stays
            weights = kept * per_token
            weights = weights / weights.sum()
        return weights

    def choose(self, logits: Float[Tensor, " entry"], drawn: float) -> int:
        """The entry on which a number in [0, 1) falls, the likeliest standing first."""
        probabilities = self.probabilities(logits)
        place = int(torch.searchsorted(probabilities.cumsum(0), drawn, right=True))
        return min(place, int(probabilities.count_nonzero()) - 1)  # rounding may leave the sum below the number


@dataclass(frozen=True, eq=False)
class StepDistribution(Shown):
    """A whole distribution over the vocabulary in about a kilobyte: its top, and a histogram of the logits below."""

    tokens: Int[Tensor, " listed"]
    """Ids of the listed tokens, the likeliest first."""
    texts: list[str]
    logits: Float[Tensor, " listed"]
    """Raw logit of each; only differences mean something."""
    tail_counts: Int[Tensor, " bin"]
    """How many of the other tokens have a logit in each bin, the highest bin first. Empty: every token is listed."""
    tail_range: tuple[float, float]
    """Lowest and highest logit of these others."""

    def summary(self) -> Summary:
        """The likeliest few."""
        listed = zip(self.texts[:4], self.probabilities()[:4].tolist(), strict=True)
        return Summary(
            f"{count(len(self.texts), 'token')} listed, {int(self.tail_counts.sum()):,} others counted",
            {"at temperature 1": ", ".join(f"{text!r} {p:.3f}" for text, p in listed), "all others": self.rest()},
        )

    def to_dataframe(self, temperature: float = 1.0) -> "pandas.DataFrame":
        """One row per listed token: rank, raw logit, probability at this temperature.

        Raises:
            OutOfRange: as `probabilities`.
        """
        import pandas  # half a second that only tables need

        return pandas.DataFrame(
            {
                "rank": range(1, len(self.texts) + 1), "token": self.texts, "token_id": self.tokens.tolist(),
                "logit": self.logits.tolist(), "probability": self.probabilities(temperature).tolist(),
            }
        )  # fmt: skip

    def probabilities(
        self, temperature: float = 1.0, *, top_k: int | None = None, top_p: float | None = None
    ) -> Float[Tensor, " listed"]:
        """Probabilities of the listed tokens at any temperature (0 to 5), without the model; the rest is the tail's.

        Exact where every token is listed. Otherwise each tail token counts with the middle of its bin. Measured on the
        default model, the tail's weight is then wrong by 3 % of itself at temperature 0.3, where it hardly matters,
        by 0.4 % at 1, by 0.01 % at 2.

        Raises:
            OutOfRange: a temperature, top k or top p that cannot be sampled with.
        """
        counts = torch.cat([torch.ones(len(self.logits)), self.tail_counts.float()])
        all_logits = torch.cat([self.logits, self._middles()])
        shaped = Sampling(temperature, top_k, top_p).probabilities(all_logits, counts)
        return shaped[: len(self.logits)].float()

    def rest(self, temperature: float = 1.0, *, top_k: int | None = None, top_p: float | None = None) -> float:
        """The probability of all tokens that are not listed."""
        return max(0.0, 1.0 - float(self.probabilities(temperature, top_k=top_k, top_p=top_p).double().sum()))

    def _middles(self) -> Float[Tensor, " bin"]:
        """The logit that stands for each bin."""
        n = len(self.tail_counts)
        low, high = self.tail_range
        return high - (high - low) * (torch.arange(n) + 0.5) / max(n, 1)


def describe_distribution(
    logits: Float[Tensor, " d_vocab_out"], texts_of: Callable[[list[int]], list[str]], *, listed: int | None = LISTED
) -> StepDistribution:
    """One row of logits, on the CPU, as a distribution: the top `listed` (None: all) as they are, the others counted.

    `texts_of` names the listed tokens, given their ids.
    """
    n = len(logits) if listed is None else min(listed, len(logits))
    top = logits.topk(n)
    tokens = top.indices
    if n == len(logits):
        tail, span = torch.empty(0, dtype=torch.long), (0.0, 0.0)
    else:
        span = (float(logits.min()), float(top.values[-1]))
        # histc counts the listed tokens too where they lie on the edge, so they are put below the range first.
        others = logits.float().index_fill(0, tokens, span[0] - 1.0)
        tail = _histogram(others, span)
    return StepDistribution(tokens, texts_of(tokens.tolist()), top.values.float(), tail, span)


def _histogram(values: Float[Tensor, " value"], span: tuple[float, float]) -> Int[Tensor, " bin"]:
    """Counts of what lies in the range, the highest bin first."""
    low, high = span
    if low == high:  # histc would choose a range of its own
        return torch.tensor([0] * (BINS - 1) + [int((values == low).sum())]).flip(0)
    return values.histc(BINS, low, high).long().flip(0)


def _before(values: Float[Tensor, " entry"]) -> Float[Tensor, " entry"]:
    """Sum of all earlier entries."""
    return values.cumsum(0) - values


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)
