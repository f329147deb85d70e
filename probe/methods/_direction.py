"""Directions: where their words come from, how they are fitted, and how words project onto them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked, one_or_several, several
from probe.errors import BadShape, DifferentModel, OutOfRange, UnknownName, check_choice
from probe.geometry import chance_cosine, cosine, principal_direction, unit
from probe.results import Result
from probe.shown import Summary, count, source_of

if TYPE_CHECKING:
    import pandas

Estimator = Literal["mean difference", "pca", "logistic", "lda"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
OnMissing = Literal["error", "drop"]


@runtime_checkable
class Source(Protocol):
    """Where words get their vectors: `WordVectors` or `WordsInContext`."""

    @property
    def name(self) -> str:
        """What the source is called in results."""
        ...

    @property
    def space(self) -> str:
        """What tells its vectors from those of other sources."""
        ...

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What is needed to read the same vectors again."""
        ...

    def missing(self, words: Iterable[str]) -> dict[str, str]:
        """Words without a vector, with the reason."""
        ...

    def vectors_of(self, words: Sequence[str]) -> Float[Tensor, "word d"]:
        """One vector for each word."""
        ...

    def unrelated(self, n: int, *, without: Iterable[str], seed: int) -> Float[Tensor, "word d"]:
        """Vectors of other words, for their covariance."""
        ...

    def confounds(self, words: Sequence[str]) -> dict[str, Float[Tensor, " word"]]:
        """What a direction may follow instead of meaning."""
        ...

    def twin(self, seed: int = 0) -> "Source":
        """This source before any learning: what evaluations compare it with."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Checked word pairs that the source has vectors for."""

    words: tuple[tuple[str, str], ...]
    """(positive, negative)."""
    dropped: Mapping[str, str]
    """Missing words, with the reason; their pairs were left out."""
    positive: Float[Tensor, "pair d"]
    negative: Float[Tensor, "pair d"]
    """Vectors of either side; float64."""

    @property
    def difference(self) -> Float[Tensor, "pair d"]:
        """Each pair's positive vector minus its negative one."""
        return self.positive - self.negative

    @property
    def middle(self) -> Float[Tensor, "pair d"]:
        """The point half way between the two words of each pair."""
        return (self.positive + self.negative) / 2

    def __len__(self) -> int:
        return len(self.words)


def read_pairs(source: Source, pairs: Iterable[Sequence[str]], on_missing: OnMissing, *, what: str = "pairs") -> Pairs:
    """Look up word pairs, (positive, negative).

    Raises:
        OutOfRange: none, or none that is left after dropping.
        BadShape: something that is not two words, the same word on both sides, a pair that occurs twice, or NaN.
        UnknownName: a word without a vector and on_missing="error".
    """
    kept, missing = check_pairs(source.missing, pairs, on_missing, what=what)
    vectors = source.vectors_of([word for pair in kept for word in pair]).double()
    if not vectors.isfinite().all():
        word = [word for pair in kept for word in pair][int((~vectors.isfinite().all(1)).nonzero()[0])]
        raise BadShape(f"the vector of {word!r} in {source.name} holds NaN or infinity")
    return Pairs(kept, missing, vectors[0::2], vectors[1::2])


def check_pairs(
    look_up: Callable[[Iterable[str]], dict[str, str]], pairs: Iterable[Sequence[str]], on_missing: OnMissing, *,
    what: str = "pairs",
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:  # fmt: skip
    """The pairs that are left, and the missing words, with the reason, that `look_up` finds.

    Raises:
        OutOfRange, BadShape, UnknownName: as `read_pairs`.
    """
    check_choice("on_missing", on_missing, get_args(OnMissing))
    words = [_check_pair(number, pair) for number, pair in enumerate(several(what, pairs))]
    if not words:
        raise OutOfRange(f"no {what}: expected (positive, negative) words, such as [('cats', 'cat')]")
    if len({frozenset(pair) for pair in words}) < len(words):
        twice = next(pair for n, pair in enumerate(words) if {*pair} in [{*earlier} for earlier in words[:n]])
        raise BadShape(f"the pair {twice} occurs twice in the {what}")
    missing = look_up(word for pair in words for word in pair)
    if missing and on_missing == "error":
        n = f" ({len(missing)} words are missing; on_missing='drop' leaves their pairs out)" if len(missing) > 1 else ""
        raise UnknownName(next(iter(missing.values())) + n)
    kept = tuple(pair for pair in words if pair[0] not in missing and pair[1] not in missing)
    if not kept:
        raise OutOfRange(f"no {what} left: of every pair a word is missing, such as {next(iter(missing))!r}")
    return kept, missing


def _check_pair(number: int, pair: Any) -> tuple[str, str]:
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise BadShape(f"pair {number}, {pair!r}: expected two words, (positive, negative)")
    positive, negative = pair
    for word in (positive, negative):
        if not isinstance(word, str):
            raise BadShape(f"pair {number}, {pair!r}: expected two words, got {type(word).__name__}")
    if positive == negative:
        raise BadShape(f"pair {number} has {positive!r} on both sides: there is no difference between them")
    return positive, negative


@dataclass(frozen=True, eq=False)
class Direction(Result):
    """A direction that tells two groups of words apart, with the pairs that it was fitted on."""

    name: str
    """'plural - singular', or the first pair."""
    source: Source
    estimator: Estimator
    vector: Float[Tensor, " d"]
    """Unit vector towards the positive words."""
    difference: Float[Tensor, " d"]
    """The mean of positive minus negative vectors as they are: for one pair, cats - cat itself."""
    gap: float
    """How far apart the two groups are along `vector`, on average, in the units of the source."""
    pairs: Pairs
    manifest: Mapping[str, Any]

    @checked
    def project(self, words: str | Sequence[str], *, source: Source | None = None) -> "Projections":
        """Where words stand on the direction.

        Raises:
            UnknownName: a word without a vector.
            DifferentModel: a source with other vectors than those the direction was found in.
        """
        every = tuple(one_or_several("words", words))
        place = self.source if source is None else check_same_space(self, source)
        if missing := place.missing(every):
            raise UnknownName(next(iter(missing.values())))
        vectors = place.vectors_of(every).double()
        chance = chance_cosine(len(self.vector))
        return Projections(
            self.name, every, vectors @ self.vector, vectors @ self.difference, cosine(vectors, self.vector),
            chance * vectors.norm(dim=-1) * self.difference.norm(), chance, {**self.manifest, "words": list(every)},
        )  # fmt: skip

    def summary(self) -> Summary:
        """How it was fitted, and how far apart it puts the two groups."""
        along = (self.pairs.positive - self.pairs.negative) @ self.vector
        return Summary(
            f"{self.name} from {count(len(self.pairs), 'pair')} ({self.estimator})",
            {"gap": self.gap, "pairs that point its way": f"{int((along > 0).sum())} of {len(along)} (in sample)",
             "pairs left out": len(self.pairs.dropped)},
            self.source.name,
            notes=() if len(self.pairs) > 1 else ("One pair only: evaluate_direction says what it is worth.",),
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair: both words and where they stand along the direction."""
        import pandas

        up, down = self.pairs.positive @ self.vector, self.pairs.negative @ self.vector
        return pandas.DataFrame(
            {"positive": pair[0], "negative": pair[1], "positive_along": a, "negative_along": b, "difference": a - b}
            for pair, a, b in zip(self.pairs.words, up.tolist(), down.tolist(), strict=True)
        )


@dataclass(frozen=True, eq=False)
class Projections(Result):
    """Where words stand on a direction."""

    direction: str
    words: tuple[str, ...]
    along: Float[Tensor, " word"]
    """Length along the direction, in the units of the source."""
    dot: Float[Tensor, " word"]
    """Raw dot product with the difference as it is, which is what the visual introductions show."""
    cosine: Float[Tensor, " word"]
    chance_dot: Float[Tensor, " word"]
    """How far from zero the word's dot product is at most with 95 % of random directions as long as the difference."""
    chance_cosine: float
    """How far from zero any word's cosine is at most with 95 % of random directions."""
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The lowest word and the highest."""
        order = self.along.argsort(descending=True).tolist()
        low, high = (f"{self.words[at]} {float(self.along[at]):+.3g}" for at in (order[-1], order[0]))
        return Summary(
            f"{count(len(self.words), 'word')} along {self.direction}", {"lowest": low, "highest": high},
            source_of(self.manifest),
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per word."""
        import pandas

        return pandas.DataFrame(
            {"word": self.words, "along": self.along.tolist(), "dot": self.dot.tolist(),
             "cosine": self.cosine.tolist(), "chance_dot": self.chance_dot.tolist(),
             "chance_cosine": self.chance_cosine}
        )  # fmt: skip


def check_same_space(direction: Direction, source: Source) -> Source:
    """Raise DifferentModel unless the direction means something in this source."""
    if source.space != direction.source.space:
        raise DifferentModel(
            f"the direction {direction.name!r} was found in {direction.source.name}, and means nothing in "
            f"{source.name}; fit it there"
        )
    return source


def fit_many(
    estimator: Estimator,
    positive: Float[Tensor, "pair d"],
    negative: Float[Tensor, "pair d"],
    signs: Float[Tensor, "flip pair"],
) -> Float[Tensor, "flip d"]:
    """The fitted direction, of length one, for each way of swapping the members of pairs (sign -1)."""
    return _FIT[estimator](positive, negative, signs)


def fit_one(estimator: Estimator, pairs: Pairs) -> Float[Tensor, " d"]:
    """The direction of the pairs as they are."""
    return fit_many(estimator, pairs.positive, pairs.negative, torch.ones(1, len(pairs), dtype=torch.float64))[0]


def _mean_difference(positive: Tensor, negative: Tensor, signs: Tensor) -> Tensor:
    return unit(signs @ (positive - negative))


def _pca(positive: Tensor, negative: Tensor, signs: Tensor) -> Tensor:
    """Principal direction of the words, each pair centred on its midpoint. Swapping pairs turns it round, no more."""
    difference = positive - negative
    axis = principal_direction(difference)
    towards = signs @ (difference @ axis)
    return torch.where(towards >= 0, 1.0, -1.0).double()[:, None] * axis


def _logistic(positive: Tensor, negative: Tensor, signs: Tensor) -> Tensor:
    from sklearn.linear_model import LogisticRegression

    return _by_classifier(positive, negative, signs, lambda: LogisticRegression(max_iter=1000))


def _lda(positive: Tensor, negative: Tensor, signs: Tensor) -> Tensor:
    """Shrunk by Ledoit and Wolf's rule, since there are often fewer words than dimensions."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return _by_classifier(
        positive, negative, signs, lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    )


def _by_classifier(positive: Tensor, negative: Tensor, signs: Tensor, make: Callable[[], Any]) -> Tensor:
    """One classifier for each way of swapping; each pair is centred on its midpoint, so that only what tells its
    members apart counts. Vectors are scaled together to a size of one, for the penalty to mean the same everywhere."""
    half = (positive - negative) / 2
    half = half / half.square().mean().sqrt()
    labels = torch.cat([torch.ones(len(half)), torch.zeros(len(half))]).numpy()
    found = []
    for row in signs:
        swapped = row[:, None] * half
        found.append(torch.from_numpy(make().fit(torch.cat([swapped, -swapped]).numpy(), labels).coef_[0]))
    return unit(torch.stack(found).double())


_FIT = dict(zip(ESTIMATORS, (_mean_difference, _pca, _logistic, _lda), strict=True))
