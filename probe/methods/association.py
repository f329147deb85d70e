"""Associations of word sets (WEAT), and two ways of taking a direction out of word vectors.

Sources: Caliskan, Bryson and Narayanan, "Semantics derived automatically from language corpora contain human-like
biases" (2017); Bolukbasi et al. (2016). What is taken out along one direction can still be read off others: Gonen and
Goldberg, "Lipstick on a pig" (2019).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.arguments import checked
from probe.errors import BadShape, OutOfRange, UnknownName
from probe.geometry import unit, without
from probe.methods._direction import Direction, Source, check_same_space, read_pairs
from probe.results import Result
from probe.shown import Summary
from probe.statistics import check_permutations, p_value
from probe.words import WordVectors, from_arrays

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Association(Result):
    """Whether one set of words is nearer to one set of attributes than another set of words is."""

    source: str
    words: tuple[str, ...]
    """Targets of the first set, then of the second."""
    associations: Float[Tensor, " word"]
    """Mean cosine of each target with the first attributes minus that with the second."""
    n_first: int
    """Targets in the first set."""
    statistic: float
    """Mean association of the first set minus that of the second."""
    effect_size: float
    """Difference of the two sets' mean associations in standard deviations of all of them, -2 to 2."""
    p: float
    """The share of ways to divide the targets into two sets of these sizes that reach the statistic (one-sided)."""
    exact: bool
    """Whether every way was tried."""
    smallest_p: float
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """What the test says."""
        return Summary(
            f"{self.n_first} and {len(self.words) - self.n_first} words",
            {"effect size": self.effect_size, "p": self.p, "smallest possible": self.smallest_p}, self.source,
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per target word."""
        import pandas

        return pandas.DataFrame(
            {"word": word, "set": 1 if place < self.n_first else 2, "association": value}
            for place, (word, value) in enumerate(zip(self.words, self.associations.tolist(), strict=True))
        )


@checked
def association_test(
    source: Source,
    targets: tuple[Sequence[str], Sequence[str]],
    attributes: tuple[Sequence[str], Sequence[str]],
    *,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> Association:
    """WEAT: are the first target words closer to the first attribute words, and the second to the second?

    Raises:
        OutOfRange: a set of fewer than two words, or fewer than 19 permutations.
        BadShape: a word in both sets of targets, or of attributes, or twice in one.
        UnknownName: a word without a vector.
    """
    check_permutations(n_permutations)
    for what, sets in (("target", targets), ("attribute", attributes)):
        _check_sets(what, sets)
    every = [word for sets in (targets, attributes) for side in sets for word in side]
    if missing := source.missing(every):
        raise UnknownName(next(iter(missing.values())))
    first, second = (unit(source.vectors_of(list(side)).double()) for side in attributes)
    words = (*targets[0], *targets[1])
    own = unit(source.vectors_of(list(words)).double())
    associations = (own @ first.T).mean(1) - (own @ second.T).mean(1)
    n_first, n = len(targets[0]), len(words)
    members, exact = _divisions(n, n_first, n_permutations, seed)
    of_first = torch.where(members, associations, 0.0).sum(1) / n_first
    of_second = torch.where(members, 0.0, associations).sum(1) / (n - n_first)
    statistic = float(associations[:n_first].mean() - associations[n_first:].mean())
    arguments = {"targets": [list(side) for side in targets], "attributes": [list(side) for side in attributes],
                 "n_permutations": n_permutations, "seed": seed}  # fmt: skip
    return Association(
        source=source.name, words=words, associations=associations, n_first=n_first, statistic=statistic,
        effect_size=statistic / float(associations.std()), p=p_value(statistic, of_first - of_second), exact=exact,
        smallest_p=1 / (1 + len(members)),
        manifest={**source.manifest, "method": "WEAT", "method_arguments": arguments},
    )  # fmt: skip


@checked
def neutralise(words: WordVectors, direction: Direction, which: Iterable[str] | None = None) -> WordVectors:
    """Word vectors of length one with nothing along a direction, for the words named (None: for all of them).

    Raises:
        DifferentModel: a direction of other vectors.
        UnknownName: a word without a vector.
    """
    check_same_space(direction, words)
    units = words.units.clone()
    places = list(range(len(words))) if which is None else [words.index(word) for word in which]
    units[places] = unit(without(units[places].double(), direction.vector)).float()
    return from_arrays(f"{words.name}, neutralised", words.words, units, neutralised=direction.name)


@checked
def equalise(words: WordVectors, direction: Direction, pairs: Iterable[Sequence[str]]) -> WordVectors:
    """Word vectors of length one in which the two words of each pair differ along a direction only, and lie equally far
    on its two sides: any neutralised word is then as near to the one as to the other.

    Raises:
        DifferentModel: a direction of other vectors.
        UnknownName, BadShape, OutOfRange: pairs as in `fit_direction`.
    """
    check_same_space(direction, words)
    units = words.units.clone()
    for first, second in read_pairs(words, pairs, "error").words:
        both = units[[words.index(first), words.index(second)]].double()
        middle = without(both.mean(0), direction.vector)
        reach = (1 - middle.square().sum()).clamp(min=0).sqrt()
        way = 1.0 if float((both[0] - both[1]) @ direction.vector) >= 0 else -1.0
        units[words.index(first)] = (middle + way * reach * direction.vector).float()
        units[words.index(second)] = (middle - way * reach * direction.vector).float()
    return from_arrays(f"{words.name}, equalised", words.words, units, equalised=direction.name)


def _check_sets(what: str, sets: tuple[Sequence[str], Sequence[str]]) -> None:
    for side in sets:
        if isinstance(side, str) or len(side) < 2:
            raise OutOfRange(f"{what} words {side!r}: expected a list of two or more")
    both = [*sets[0], *sets[1]]
    if len({*both}) < len(both):
        twice = next(word for place, word in enumerate(both) if word in both[:place])
        raise BadShape(f"{what} word {twice!r} occurs twice")


def _divisions(n: int, n_first: int, most: int, seed: int) -> tuple[Bool[Tensor, "division word"], bool]:
    """Who is in the first set, in every other division where there are not more than asked for, else in random ones."""
    n_all = math.comb(n, n_first) - 1
    if n_all <= most:
        chosen = torch.tensor(list(combinations(range(n), n_first))[1:])  # the first is the one observed
    else:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(most, n, generator=generator).argsort(dim=1)[:, :n_first]
    members = torch.zeros(len(chosen), n, dtype=torch.bool)
    return members.scatter(1, chosen, torch.ones_like(chosen, dtype=torch.bool)), n_all <= most
