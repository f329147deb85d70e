"""Scores of word pairs on directions that were fitted on other pairs, and what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from probe.geometry import unit
from probe.methods._direction import Estimator, Pairs, fit_many, fit_one
from probe.statistics import Estimate, auroc, bootstrap_share, paired_accuracy

FOLDS = 10
"""Folds of cross-validation; of fewer pairs each is left out by itself."""
FEWEST = 4
"""Pairs that a direction can be judged by."""
N_UNRELATED = 300
"""Words whose covariance random directions are given."""
Split = tuple[Sequence[int], Sequence[int]]
"""Pairs to fit on, pairs to score."""


@dataclass(frozen=True)
class Scores:
    """Where the members of pairs stand on directions, measured from the middle of the pairs that were fitted on."""

    positive: Float[Tensor, "flip pair"]
    negative: Float[Tensor, "flip pair"]

    @property
    def auroc(self) -> Float[Tensor, " flip"]:
        """One area for each way of swapping pairs."""
        return auroc(self.positive, self.negative)


def folds(words: Sequence[tuple[str, str]]) -> list[Split]:
    """Cross-validation splits, so that no word is on both sides: pairs that share a word stay together."""
    group_of = _groups(words)
    groups = sorted(set(group_of))
    splits = []
    for fold in range(min(FOLDS, len(groups))):
        held_out = {group for place, group in enumerate(groups) if place % FOLDS == fold}
        test = [pair for pair, group in enumerate(group_of) if group in held_out]
        train = [pair for pair, group in enumerate(group_of) if group not in held_out]
        if train:
            splits.append((train, test))
    return splits


def _groups(words: Sequence[tuple[str, str]]) -> list[int]:
    """For each pair the first pair that it hangs together with by shared words."""
    group_of = list(range(len(words)))
    first: dict[str, int] = {}
    for number, pair in enumerate(words):
        for word in pair:
            if word in first:
                old, new = sorted((group_of[first[word]], group_of[number]))
                group_of = [old if group == new else group for group in group_of]
            first[word] = number
    return group_of


def score(
    estimator: Estimator, pairs: Pairs, signs: Float[Tensor, "flip pair"], splits: Sequence[Split], *,
    progress: bool = False,
) -> Scores:  # fmt: skip
    """Every pair that some split scores, on the direction fitted on that split's other pairs, in the order of pairs.

    Where a sign is -1 the pair is swapped, in fitting and in scoring.
    """
    scored = sorted(pair for _, test in splits for pair in test)
    column = {pair: place for place, pair in enumerate(scored)}
    positive, negative = torch.empty(2, len(signs), len(scored), dtype=torch.float64)
    show = None if progress else True
    for train, test in tqdm(splits, desc="permutations", delay=1, disable=show):
        directions = fit_many(estimator, pairs.positive[train], pairs.negative[train], signs[:, train])
        middle = pairs.middle[train].mean(0)
        up, down = (directions @ (side[test] - middle).T for side in (pairs.positive, pairs.negative))
        kept = signs[:, test] > 0
        columns = [column[pair] for pair in test]
        positive[:, columns], negative[:, columns] = torch.where(kept, up, down), torch.where(kept, down, up)
    return Scores(positive, negative)


def left_out_differences(estimator: Estimator, pairs: Pairs) -> Float[Tensor, " pair"]:
    """Positive minus negative of each pair, along the direction fitted without it (and without pairs that share a word
    with it)."""
    group_of = _groups(pairs.words)
    found = torch.full((len(pairs),), torch.nan, dtype=torch.float64)
    for group in set(group_of):
        test = [pair for pair, own in enumerate(group_of) if own == group]
        train = [pair for pair, own in enumerate(group_of) if own != group]
        if train:
            ones = torch.ones(1, len(train), dtype=torch.float64)
            direction = fit_many(estimator, pairs.positive[train], pairs.negative[train], ones)[0]
            found[test] = pairs.difference[test] @ direction
    return found


def auroc_estimate(positive: Float[Tensor, " pair"], negative: Float[Tensor, " pair"], seed: int) -> Estimate:
    """AUROC with its interval over pairs; the directions are not fitted again."""
    return bootstrap_share(lambda draws: auroc(positive[draws], negative[draws]), len(positive), seed=seed)


def accuracy_estimate(positive: Float[Tensor, " pair"], negative: Float[Tensor, " pair"], seed: int) -> Estimate:
    """Paired accuracy with its interval over pairs; the directions are not fitted again."""
    return bootstrap_share(lambda draws: paired_accuracy(positive[draws], negative[draws]), len(positive), seed=seed)


def isotropic(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Random directions that prefer no side of the space."""
    return unit(torch.randn(n, d, generator=generator, dtype=torch.float64))


def covariance_matched(n: int, others: Float[Tensor, "word d"], generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Random directions with the covariance of unrelated words: they prefer what varies much anyway."""
    return unit(torch.randn(n, len(others), generator=generator, dtype=torch.float64) @ (others - others.mean(0)))


def auroc_of(directions: Float[Tensor, "n d"], pairs: Pairs) -> Float[Tensor, " n"]:
    """How well each direction tells the groups apart, whichever end is the positive one (the better is taken)."""
    middle = pairs.middle.mean(0)
    found = auroc(directions @ (pairs.positive - middle).T, directions @ (pairs.negative - middle).T)
    return torch.maximum(found, 1 - found)


def adjusted(
    positive: Float[Tensor, " pair"],
    negative: Float[Tensor, " pair"],
    confounds: Mapping[str, tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]],
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """The scores with confounds regressed out, by their slopes within the two groups.

    Within: a slope over both groups at once would take the contrast itself along wherever the confound follows it.
    """
    columns = [(_centred(up), _centred(down)) for up, down in confounds.values()]
    design = torch.stack([torch.cat(both) for both in columns], dim=1)
    target = torch.cat([_centred(positive), _centred(negative)])
    slopes = torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution[:, 0]
    ups, downs = (torch.stack([both[side] for both in confounds.values()], dim=1) for side in (0, 1))
    return positive - ups @ slopes, negative - downs @ slopes


def _centred(values: Tensor) -> Tensor:
    return values - values.mean()


def split_half_cosines(estimator: Estimator, pairs: Pairs, *, n: int, seed: int) -> Float[Tensor, " n"]:
    """Cosines of directions fitted on two random halves of the pairs."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        order = torch.randperm(len(pairs), generator=generator).tolist()
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        first, second = (
            fit_many(estimator, pairs.positive[half], pairs.negative[half], torch.ones(1, len(half)).double())[0]
            for half in halves
        )
        found.append(first @ second)
    return torch.stack(found)


def agreement(pairs: Pairs, direction: Float[Tensor, " d"], estimators: Sequence[Estimator]) -> dict[str, float]:
    """The cosine of a direction with what each estimator makes of the same pairs."""
    return {estimator: float(fit_one(estimator, pairs) @ direction) for estimator in estimators}


def swapped_sides(
    values: Float[Tensor, " both"],
) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Values of words listed pair by pair, as (positive, negative)."""
    return values[0::2], values[1::2]


def varies(up: Tensor, down: Tensor) -> Bool[Tensor, ""]:
    """Whether a confound differs within either group, so that it has a slope there."""
    return (up != up[0]).any() | (down != down[0]).any()
