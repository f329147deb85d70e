"""Directions that carry meaning: fitted on word pairs, and the evidence that they are more than noise.

Which questions the evidence answers, and how, stands at each field of `Evaluation`. Sources: Bolukbasi et al., "Man is
to computer programmer as woman is to homemaker?" (2016); Park, Choe and Veitch, "The linear representation hypothesis"
(2023); Hewitt and Liang, "Designing and interpreting probes with control tasks" (2019).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked, several
from probe.errors import BadShape, OutOfRange, check_choice, check_count
from probe.methods._direction import (
    ESTIMATORS,
    Direction,
    Estimator,
    OnMissing,
    Pairs,
    Projections,
    Source,
    check_same_space,
    fit_one,
    read_pairs,
)
from probe.methods._evidence import (
    FEWEST,
    N_UNRELATED,
    Scores,
    Split,
    accuracy_estimate,
    adjusted,
    agreement,
    auroc_estimate,
    auroc_of,
    covariance_matched,
    folds,
    isotropic,
    left_out_differences,
    score,
    split_half_cosines,
    swapped_sides,
    varies,
)
from probe.results import Result
from probe.shown import Summary, count
from probe.statistics import (
    SIGNIFICANT,
    Estimate,
    auroc,
    bootstrap,
    check_permutations,
    cohens_d,
    interval,
    p_value,
    paired_accuracy,
    sign_flips,
    smallest_p,
)
from probe.word_lists import WordPairs

if TYPE_CHECKING:
    import pandas

__all__ = ["ESTIMATORS", "Confound", "Direction", "Evaluation", "Projections", "evaluate_direction", "fit_direction"]

FEWEST_FOR_A_VERDICT = 6
"""Below, the permutation test cannot reach 0.05: 5 pairs can be swapped in 16 ways only."""
N_HALVES = 100
Verdict = Literal["encoded", "not distinguishable from its confounds", "not distinguishable from noise"]
RULE = (
    f"The rule for “encoded”: {FEWEST_FOR_A_VERDICT} pairs or more, p of the permutation test at most {SIGNIFICANT}, "
    "and the whole interval of the AUROC above 0.5, also with confounds regressed out"
)
"""How the verdict comes about."""


@checked
def fit_direction(
    source: Source,
    pairs: WordPairs | Iterable[Sequence[str]],
    *,
    estimator: Estimator = "mean difference",
    on_missing: OnMissing = "error",
    name: str | None = None,
) -> Direction:
    """The direction from the second words of the pairs to the first ones.

    Args:
        source: `load_word_vectors()`, `word_vectors(model, "embed")` or `words_in_context(model, layer, templates)`.
        pairs: (positive, negative) words, such as ("cats", "cat"); of a word list its half for fitting. One pair is a
            direction too, if a noisy one.
        estimator: "mean difference"; "pca" of all words, each pair centred on its midpoint; "logistic" regression or
            "lda" on the same.
        on_missing: "drop" leaves out pairs of which a word has no vector, and the result lists them.
        name: how results call it. None: the word list's, or the first pair.

    Raises:
        UnknownName: a word without a vector (near spellings are offered), or no such estimator.
        OutOfRange: no pairs, or none left.
        BadShape: a pair that is not two different words, one that occurs twice, NaN, or words that coincide.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if isinstance(pairs, WordPairs):
        name, pairs = name or f"{pairs.positive} - {pairs.negative}", pairs.fit
    found = read_pairs(source, pairs, on_missing)
    first = " - ".join(found.words[0])
    default = first if len(found) == 1 else f"{first} and {len(found) - 1} more"
    vector = fit_one(estimator, found)
    if not float(vector.norm()) > 0.5:
        raise BadShape(f"the words of the pairs have the same vectors on both sides in {source.name}: no direction")
    arguments = {"pairs": found.words, "dropped": dict(found.dropped), "estimator": estimator}
    return Direction(
        name=name or default, source=source, estimator=estimator, vector=vector, difference=found.difference.mean(0),
        gap=float((found.difference @ vector).mean()), pairs=found,
        manifest={**source.manifest, "method": "direction", "method_arguments": arguments},
    )  # fmt: skip


@dataclass(frozen=True)
class Confound:
    """Something that a direction might follow instead of meaning."""

    name: str
    alone: float | None
    """AUROC of the confound by itself: how well it tells the two groups apart. None: several together."""
    adjusted: Estimate
    """AUROC of the direction with this regressed out of its scores, by the slope within the groups."""


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """What a direction is worth, on pairs that it was not fitted on."""

    direction: str
    source: str
    how: str
    """Which pairs were scored, on a direction fitted on which."""
    words: tuple[tuple[str, str], ...]
    """The pairs scored."""
    dropped: Mapping[str, str]
    """Missing words, with the reason; their pairs were left out."""
    positive: Float[Tensor, " pair"]
    negative: Float[Tensor, " pair"]
    """Out-of-sample scores: along the direction, from the middle of the pairs that it was fitted on."""
    auroc: Estimate
    """Out of sample: the chance that a positive word scores above a negative one. 95 % interval over pairs."""
    accuracy: Estimate
    """Out of sample: the share of pairs whose positive member scores higher. 95 % interval over pairs."""
    effect_size: Estimate
    """Out of sample: Cohen's d. 95 % interval over pairs."""
    in_sample_auroc: float
    in_sample_accuracy: float
    """Share of pairs the right way round, on the very pairs of the fit: what an honest report leaves out."""
    p: float
    """Is the contrast encoded? The members of random pairs are swapped and everything is fitted again: the share of
    such arrangements whose AUROC reaches this one."""
    smallest_p: float
    """The smallest p that so many pairs and permutations can give."""
    null: Float[Tensor, " permutation"]
    """The AUROCs of the permutations."""
    random: Mapping[str, Float[Tensor, " direction"]]
    """Is this direction special? AUROCs of random directions: "isotropic", and "covariance-matched" to unrelated words;
    of each the better end is taken as positive."""
    p_special: Mapping[str, float]
    """The share of random directions that do as well."""
    confounds: tuple[Confound, ...]
    """The last one, where there are several, is all of them together."""
    split_half: Estimate
    """Cosine of directions fitted on two halves of the pairs: mean, and where 95 % of the splits are."""
    agreement: Mapping[str, float]
    """Cosine with what each estimator makes of the same pairs."""
    left_out: Float[Tensor, " fitted"]
    """Difference of each pair that was fitted on, along the direction fitted without it."""
    opposite: tuple[tuple[str, str], ...]
    """Pairs whose left-out difference (held-out pairs: whose difference) points the other way."""
    selectivity: float | None
    """AUROC minus that of the control task, in which every pair's labels are random but stay the same in fit and test.
    None: not applicable, since the words scored are not those fitted on (control labels would be chance)."""
    twin: Estimate | None
    """AUROC of the same on the source before learning."""
    manifest: Mapping[str, Any]

    @property
    def verdict(self) -> Verdict:
        """What the evidence comes to, by `RULE`."""
        if len(self.words) < FEWEST_FOR_A_VERDICT or self.p > SIGNIFICANT or self.auroc.low <= 0.5:
            return "not distinguishable from noise"
        if self.confounds and self.confounds[-1].adjusted.low <= 0.5:
            return "not distinguishable from its confounds"
        return "encoded"

    @property
    def special(self) -> bool:
        """Whether fewer than 5 % of the random directions of either kind tell the groups apart as well."""
        return all(p <= SIGNIFICANT for p in self.p_special.values())

    def report(self) -> list[str]:
        """The evidence in sentences, the verdict first."""
        n = len(self.words)
        lines = [
            f"{self.direction} in {self.source}: {self.verdict}. {RULE}.",
            f"{self.how}: AUROC {self.auroc}, pairs the right way round {self.accuracy}, Cohen's d {self.effect_size}; "
            f"n = {n} pairs. In sample: {self.in_sample_auroc:.3f} and {self.in_sample_accuracy:.3f}.",
            f"Is it encoded? p = {self.p:.4f} (smallest possible {self.smallest_p:.2g}); pairs with swapped members "
            f"reach {float(self.null.quantile(0.95)):.3f} in one of twenty permutations.",
        ]
        if n < FEWEST_FOR_A_VERDICT:
            lines.append(
                f"{n} pairs can never be called encoded: they can be swapped in {2 ** (n - 1)} ways only, so that p "
                f"cannot fall below {2.0 ** (1 - n):.3g}; {FEWEST_FOR_A_VERDICT} are needed."
            )
        best = {kind: float(areas.max()) for kind, areas in self.random.items()}
        lines.append(
            f"Is this direction special? {'yes' if self.special else 'no'}: of "
            f"{len(self.random['isotropic']):,} random directions the best reach "
            + ", ".join(f"{area:.3f} ({kind}, p = {self.p_special[kind]:.4f})" for kind, area in best.items()) + "."
        )  # fmt: skip
        for one in self.confounds:
            alone = "" if one.alone is None else f" alone {one.alone:.3f};"
            lines.append(f"Confound: {one.name}{alone} regressed out, AUROC {one.adjusted}.")
        agree = ", ".join(f"{name} {value:.3f}" for name, value in self.agreement.items())
        lines.append(
            f"Stability: split-half cosine {self.split_half}; cosine with other estimators: {agree}."
            if agree and self.split_half.value == self.split_half.value
            else "Stability: not known; it takes four pairs to fit on, or more."
        )
        shown = ", ".join(" - ".join(pair) for pair in self.opposite[:8]) + (", ..." if len(self.opposite) > 8 else "")
        lines.append(f"Of the pairs scored, {len(self.opposite)} point the other way{': ' + shown if shown else ''}.")
        lines.append(
            "Control task: not applicable (the words scored were not fitted on)."
            if self.selectivity is None
            else f"Control task: selectivity {self.selectivity:.3f}."
        )
        if self.twin is not None:
            lines.append(f"Before learning: AUROC {self.twin}.")
        if self.dropped:
            lines.append(f"Not used, for words that are missing there: {', '.join(self.dropped)}.")
        return lines

    def summary(self) -> Summary:
        """The verdict and what it rests on; `report()` says all of it in sentences."""
        return Summary(
            f"{self.direction} on {count(len(self.words), 'pair')} ({self.how})",
            {"verdict": self.verdict, "AUROC": self.auroc, "pairs the right way round": self.accuracy, "p": self.p,
             "better than random directions": self.special},
            self.source,
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair scored."""
        import pandas

        return pandas.DataFrame(
            {"positive": pair[0], "negative": pair[1], "positive_score": up, "negative_score": down,
             "difference": up - down}
            for pair, up, down in zip(self.words, self.positive.tolist(), self.negative.tolist(), strict=True)
        )  # fmt: skip

    def files(self) -> dict[str, str]:
        """Table, manifest, and the report in sentences."""
        return {**super().files(), "report.txt": "\n".join(self.report()) + "\n"}


@checked
def evaluate_direction(
    direction: Direction,
    pairs: WordPairs | Iterable[Sequence[str]] | None = None,
    *,
    source: Source | None = None,
    n_permutations: int = 1000,
    n_random: int = 1000,
    n_unrelated: int = N_UNRELATED,
    twin: bool = True,
    on_missing: OnMissing = "error",
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """How well a direction tells words apart that it was not fitted on, with intervals, nulls and controls.

    Args:
        pairs: held-out pairs; of a word list its held-out half. None: the direction's own pairs, cross-validated: each
            is scored on a direction fitted on others (ten folds; pairs that share a word stay together).
        source: read the words here instead, in other templates for example. Pairs that were fitted on may be scored
            then, which asks whether the direction holds in other sentences, and control tasks have a meaning.
        n_permutations, n_random, n_unrelated: how many swappings, random directions, and unrelated words for their
            covariance.
        twin: also evaluate the same source before learning.
        progress: show in a terminal (stderr) how far permutations are, if they take longer than a second.

    Raises:
        OutOfRange: fewer than 4 pairs, or a number that is too small.
        DifferentModel: a source with other vectors than those the direction was found in.
        BadShape: held-out pairs with words that were fitted on; pairs as in `fit_direction`.
        UnknownName: a word without a vector.
    """
    check_permutations(n_permutations)
    check_count("n_random", n_random, least=10)
    check_count("n_unrelated", n_unrelated, least=10)
    place = direction.source if source is None else check_same_space(direction, source)
    fitted = direction.pairs
    pairs = pairs.held_out if isinstance(pairs, WordPairs) else None if pairs is None else several("pairs", pairs)
    again = pairs is None and source is not None
    if pairs is None and not again:
        everything, splits, dropped = fitted, folds(fitted.words), fitted.dropped
        how = f"Cross-validated over {len(splits)} folds of {len(fitted)} pairs"
    else:
        scored = read_pairs(place, fitted.words if pairs is None else pairs, on_missing, what="pairs to score")
        again = _check_apart(fitted, scored, other_reading=source is not None)
        everything, splits, dropped = _joined(fitted, scored), [_one_split(fitted, scored)], scored.dropped
        how = (
            f"{len(scored)} pairs that were fitted on, read in another way" if again
            else f"{len(scored)} held-out pairs, fitted on {len(fitted)} others"
        )  # fmt: skip
    n = len(everything) if splits == [] else sum(len(test) for _, test in splits)
    if n < FEWEST or not splits:
        raise OutOfRange(
            f"{n} pair{'s' if n > 1 else ''} to score: evaluate_direction needs {FEWEST} that do not all hang together "
            "by shared words; give more, or held-out pairs"
        )
    signs = sign_flips(len(fitted) if again else len(everything), n_permutations, seed=seed).signs
    signs = torch.cat([signs, signs], dim=1) if again else signs  # the same labels in fit and test
    observed = score(direction.estimator, everything, torch.ones(1, len(everything)).double(), splits)
    null = score(direction.estimator, everything, signs, splits, progress=progress).auroc
    return _collect(
        direction, place, everything, splits, observed, null, dropped=dropped, how=how, again=again, n_random=n_random,
        n_unrelated=n_unrelated, twin=twin, seed=seed, n_permutations=n_permutations,
    )  # fmt: skip


def _collect(
    direction: Direction, source: Source, everything: Pairs, splits: list[Split], observed: Scores,
    null: Float[Tensor, " permutation"], *, dropped: Mapping[str, str], how: str, again: bool, n_random: int,
    n_unrelated: int, twin: bool, seed: int, n_permutations: int,
) -> Evaluation:  # fmt: skip
    """Everything that is computed from the out-of-sample scores and the vectors."""
    fitted = direction.pairs
    tested = sorted(pair for _, test in splits for pair in test)
    scored = Pairs(
        tuple(everything.words[pair] for pair in tested), dropped, everything.positive[tested],
        everything.negative[tested],
    )  # fmt: skip
    up, down = observed.positive[0], observed.negative[0]
    area = auroc_estimate(up, down, seed)
    random = _random_areas(direction, source, scored, n_random, n_unrelated, seed)
    inside = Scores(*(_in_sample(direction, side)[None] for side in (fitted.positive, fitted.negative)))
    left_out = left_out_differences(direction.estimator, fitted)
    held_out = tested[0] >= len(fitted)
    signed = scored.difference @ direction.vector if held_out else left_out
    halves = (
        split_half_cosines(direction.estimator, fitted, n=N_HALVES, seed=seed) if len(fitted) > 3 else torch.ones(0)
    )
    arguments = {
        **direction.manifest["method_arguments"], "scored": scored.words, "how": how, "seed": seed, "twin": twin,
        "n_permutations": n_permutations, "n_random": n_random, "n_unrelated": n_unrelated,
    }  # fmt: skip
    n_swapped = len(fitted) if again else len(everything)
    return Evaluation(
        direction=direction.name, source=source.name, how=how, words=scored.words, dropped=dropped,
        positive=up, negative=down, auroc=area, accuracy=accuracy_estimate(up, down, seed),
        effect_size=bootstrap(lambda draws: cohens_d(up[draws], down[draws]).nan_to_num(), len(up), seed=seed),
        in_sample_auroc=float(inside.auroc[0]),
        in_sample_accuracy=float(paired_accuracy(inside.positive, inside.negative)[0]),
        p=p_value(area.value, null), smallest_p=smallest_p(n_swapped, n_permutations), null=null,
        random=random, p_special={kind: p_value(area.value, areas) for kind, areas in random.items()},
        confounds=_confounds(source, scored, up, down, seed),
        split_half=_spread(halves), agreement=_agreement(direction),
        left_out=left_out,
        opposite=tuple(pair for pair, way in zip(scored.words, signed.tolist(), strict=True) if way < 0),
        selectivity=area.value - float(null.mean()) if again else None,
        twin=_twin(direction, source, everything, splits, seed) if twin else None,
        manifest={**source.manifest, "method": "evaluate direction", "method_arguments": arguments},
    )  # fmt: skip


def _check_apart(fitted: Pairs, scored: Pairs, *, other_reading: bool) -> bool:
    """Whether the pairs scored are those fitted on (in another reading); raises where they are so in part."""
    if other_reading and scored.words == fitted.words:
        return True
    seen = {word for pair in fitted.words for word in pair}
    if shared := [word for pair in scored.words for word in pair if word in seen]:
        raise BadShape(
            f"{shared[0]!r} was fitted on, so it is not held out ({len(shared)} such words); leave these pairs out, or "
            "give none, to cross-validate"
        )
    return False


def _joined(first: Pairs, second: Pairs) -> Pairs:
    return Pairs(
        first.words + second.words, {**first.dropped, **second.dropped},
        torch.cat([first.positive, second.positive]), torch.cat([first.negative, second.negative]),
    )  # fmt: skip


def _one_split(fitted: Pairs, scored: Pairs) -> Split:
    return range(len(fitted)), range(len(fitted), len(fitted) + len(scored))


def _in_sample(direction: Direction, vectors: Float[Tensor, "word d"]) -> Float[Tensor, " word"]:
    return vectors @ direction.vector


def _random_areas(
    direction: Direction, source: Source, scored: Pairs, n_random: int, n_unrelated: int, seed: int
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = {word for pair in (*direction.pairs.words, *scored.words) for word in pair}
    others = source.unrelated(n_unrelated, without=own, seed=seed).double()
    return {
        "isotropic": auroc_of(isotropic(n_random, others.shape[1], generator), scored),
        "covariance-matched": auroc_of(covariance_matched(n_random, others, generator), scored),
    }


def _confounds(source: Source, scored: Pairs, up: Tensor, down: Tensor, seed: int) -> tuple[Confound, ...]:
    values = source.confounds([word for pair in scored.words for word in pair])
    sides = {name: swapped_sides(both) for name, both in values.items()}
    sides = {name: both for name, both in sides.items() if bool(varies(*both))}
    found = [
        Confound(name, float(auroc(*both)), auroc_estimate(*adjusted(up, down, {name: both}), seed))
        for name, both in sides.items()
    ]
    if len(found) > 1:
        together = auroc_estimate(*adjusted(up, down, sides), seed)
        found.append(Confound("all of these", None, together))
    return tuple(found)


def _agreement(direction: Direction) -> dict[str, float]:
    others: list[Estimator] = [one for one in ESTIMATORS if one != direction.estimator]
    if len(direction.pairs) < 2:
        others = []  # of one pair there is but its difference
    return agreement(direction.pairs, direction.vector, others)


def _spread(values: Tensor) -> Estimate:
    """The mean, and where 95 % of the values are; NaN of none."""
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = map(float, interval(values))
    return Estimate(float(values.mean()), low, high)


def _twin(direction: Direction, source: Source, everything: Pairs, splits: list[Split], seed: int) -> Estimate:
    words = [word for pair in everything.words for word in pair]
    vectors = source.twin(seed).vectors_of(words).double()
    pairs = Pairs(everything.words, {}, vectors[0::2], vectors[1::2])
    scores = score(direction.estimator, pairs, torch.ones(1, len(pairs)).double(), splits)
    return auroc_estimate(scores.positive[0], scores.negative[0], seed)
