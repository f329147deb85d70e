"""Is there a direction for plural? One pair, many pairs, numbers along it, and the evidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas
import torch
from _script import Answer, Say, main, origin, start_in_words
from _sources import WordSource, profile_section, shown_places, sources_in_words, spearman, word_sources
from jaxtyping import Float
from torch import Tensor

import probe
from probe.figures.page import PageSection, Table
from probe.geometry import cosine
from probe.methods.directions import RULE
from probe.methods.layer_profile import LayerProfile
from probe.statistics import auroc, p_value

QUESTION = "Is there a direction for plural?"
PAIR = ("cats", "cat")
ONE, MEAN, RANK = " - ".join(PAIR), "mean of pairs", "rank in the vocabulary"
"""How the directions, and what they may follow, are called."""
NUMBERS = probe.load_words("numbers")
NUMBER_TEMPLATES = ("There were {}", "I counted {}", "She asked me for {}", "We still need {}", "They found {}")
"""In which the number words are read."""
N_RANDOM = 1000
"""Random directions, for how well numbers line up by chance."""
QUICK_PAIRS, QUICK_PERMUTATIONS, PERMUTATIONS = 30, 99, 1000
WRONG_SHOWN = 12


@dataclass(frozen=True)
class Ascent:
    """Whether values rise from each number to the next."""

    falls: tuple[tuple[str, str], ...]
    """(a number, the next one) where they do not."""
    rho: float
    """Spearman's correlation with the order."""

    def __str__(self) -> str:
        if not self.falls:
            return f"strictly rising, rho {self.rho:.2f}"
        steps = ", ".join(f"{after} < {before}" for before, after in self.falls[:6])
        return f"rho {self.rho:.2f}; {steps}{', ...' if len(self.falls) > 6 else ''}"


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Pairs along two directions, then the numbers, then layer by layer, then the evidence."""
    sources = word_sources(model)[: 2 if quick else None]
    n_permutations = QUICK_PERMUTATIONS if quick else PERMUTATIONS
    say("fitting directions and testing them")
    found = [_evaluate(source, n_permutations) for source in sources]
    pairs, pairs_table = _pairs(sources, found)
    numbers, numbers_table = _numbers(sources, found)
    say("every layer (and the untrained twin)")
    words = probe.load_pairs("plurality")
    profile = probe.layer_profile(
        model, words.all[: QUICK_PAIRS if quick else None], templates=words.templates[: 1 if quick else None],
        n_permutations=n_permutations, twin=not quick, progress=False,
    )  # fmt: skip
    say("numbers in every layer")
    layers, layers_table = _numbers_by_layer(model, profile, words.templates[: 1 if quick else None], quick)
    return Answer(
        question=QUESTION,
        lead=[
            f"{sources_in_words(sources, model)} Sentences are read {start_in_words(model)}.",
            f"{len(words.all)} pairs of plural and singular from the list “plurality”; {PAIR[0]} and {PAIR[1]} are not "
            "among them.",
        ],
        sections=[
            pairs, numbers, profile_section(profile, "Plural in every layer"), layers,
            *(_evidence(source, evaluation) for source, (_, evaluation) in zip(sources[:2], found, strict=False)),
            _verdicts(sources, found),
        ],
        table=pandas.concat([pairs_table, numbers_table, profile.to_dataframe().assign(about="profile"), layers_table]),
        manifest=origin(
            model, word_vectors=sources[0].vectors.name, pairs=words.all, numbers=NUMBERS,
            number_templates=NUMBER_TEMPLATES, n_permutations=n_permutations, seed=0,
        ),
    )  # fmt: skip


def ascent(values: Float[Tensor, " n"], words: tuple[str, ...]) -> Ascent:
    """Where the values of words in their order do not rise, and how far they follow the order."""
    steps = zip(words, words[1:], (values[1:] > values[:-1]).tolist(), strict=False)
    falls = tuple((before, after) for before, after, rises in steps if not rises)
    return Ascent(falls, float(spearman(values, torch.arange(len(words)))))


def chance_of_order(vectors: Float[Tensor, "word d"], rho: float, *, n: int = N_RANDOM, seed: int = 0) -> float:
    """The share of random directions along which the words are in order as well as that."""
    generator = torch.Generator().manual_seed(seed)
    random = vectors.double() @ torch.randn(vectors.shape[1], n, generator=generator, dtype=torch.float64)
    return p_value(rho, spearman(random.T, torch.arange(len(vectors)).expand(n, -1)))


def plural_more_frequent(source: WordSource, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those whose first word comes before the second in the vocabulary."""
    ranks = source.vectors.confounds([word for pair in pairs for word in pair])["log vocabulary rank"]
    return [pair for pair, up, down in zip(pairs, ranks[0::2].tolist(), ranks[1::2].tolist(), strict=True) if up < down]


Fitted = tuple[probe.Direction, probe.Evaluation]


def _evaluate(source: WordSource, n_permutations: int) -> Fitted:
    """The mean of all pairs, cross-validated."""
    direction = probe.fit_direction(source.vectors, source.pairs("plurality"), name="plural - singular")
    return direction, probe.evaluate_direction(direction, n_permutations=n_permutations, progress=False)


def _pairs(sources: list[WordSource], found: list[Fitted]) -> tuple[PageSection, pandas.DataFrame]:
    """Every pair along cats - cat, along the mean of the others, and along directions of other frequencies."""
    rows, tables, remarks = [], [], []
    for source, (direction, evaluation) in zip(sources, found, strict=True):
        words = direction.pairs.words
        differences = {MEAN: evaluation.left_out}
        areas = {MEAN: evaluation.auroc.value}
        for name, other in _others(source, direction).items():
            dots = other.project([word for pair in words for word in pair]).dot
            unseen = torch.tensor([pair not in other.pairs.words for pair in words])
            differences[name] = torch.where(unseen, dots[0::2] - dots[1::2], torch.nan)
            areas[name] = float(auroc(dots[0::2][unseen], dots[1::2][unseen]))
            areas[f"{name}, cosine"] = float(cosine(other.vector, direction.vector))
        for name, values in differences.items():
            n, right = int((~values.isnan()).sum()), int((values > 0).sum())
            similar = "" if name == MEAN else f"{areas[f'{name}, cosine']:.3f}"
            rows.append((source.name, name, f"{right} of {n}", f"{right / n:.1%}", f"{areas[name]:.3f}", similar))
            tables.append(pandas.DataFrame({
                "source": source.name, "direction": name, "positive": [pair[0] for pair in words],
                "negative": [pair[1] for pair in words], "difference": values.tolist(),
            }))  # fmt: skip
        frequent = {*plural_more_frequent(source, words)}
        against = wrong(words, differences[MEAN])
        remarks.append(
            f"The wrong way round in {source.name}: along {ONE} {_listed(wrong(words, differences[ONE]))}; along the "
            f"{MEAN} {_listed(against)}. {sum(pair in frequent for pair in against)} of the latter {len(against)} have "
            f"a plural that is the more frequent word; of all {len(words)} pairs {len(frequent)} have."
        )
    lead = (
        f"The raw dot product of every word with {ONE}, and every pair along the mean difference of the other pairs: "
        "how many pairs have the plural further along, and the chance that any plural stands above any singular "
        "(AUROC). Plurals are mostly rarer than their singulars, so there are two more directions: of those pairs only "
        "whose plural is the more frequent word, and of these with as many others (scored on pairs that they were not "
        "fitted on). The last column: the cosine with the mean of all."
    )
    columns = ("vectors", "direction", "right way", "share", "AUROC", "cosine")
    section = PageSection("Singular against plural", "dot product", [lead], table=Table(columns, rows), remarks=remarks)
    return section, pandas.concat(tables).assign(about="pairs")


def wrong(pairs: Sequence[tuple[str, str]], differences: Float[Tensor, " pair"]) -> list[tuple[str, str]]:
    """Pairs whose plural is not further along; NaN is neither."""
    return [pair for pair, value in zip(pairs, differences.tolist(), strict=True) if value <= 0]


def _others(source: WordSource, direction: probe.Direction) -> dict[str, probe.Direction]:
    """Besides the mean of all pairs: one pair, and two means that frequency cannot make."""
    words = direction.pairs.words
    common = plural_more_frequent(source, words)
    rare = [pair for pair in words if pair not in common][: len(common)]
    return {
        ONE: probe.fit_direction(source.vectors, [PAIR]),
        f"{len(common)} frequent plurals": probe.fit_direction(source.vectors, common),
        f"{len(common)} frequent, {len(rare)} rare": probe.fit_direction(source.vectors, [*common, *rare]),
    }


def _listed(pairs: list[tuple[str, str]]) -> str:
    shown = ", ".join(" - ".join(pair) for pair in pairs[:WRONG_SHOWN])
    return (shown or "none") + (f" and {len(pairs) - WRONG_SHOWN} more" if len(pairs) > WRONG_SHOWN else "")


def _numbers(sources: list[WordSource], found: list[Fitted]) -> tuple[PageSection, pandas.DataFrame]:
    """One, two, three, ... along both directions, and what their frequency alone would say."""
    rows, tables = [], []
    for source, (direction, _) in zip(sources, found, strict=True):
        vectors = source.vectors.vectors_of(NUMBERS)
        along = {
            MEAN: direction.project(NUMBERS).along,
            **{name: other.project(NUMBERS).along for name, other in _others(source, direction).items()},
            RANK: source.vectors.confounds(NUMBERS)["log vocabulary rank"],
        }
        for name, values in along.items():
            nine, twenty = ascent(values[:9], NUMBERS[:9]), ascent(values, NUMBERS)
            chance = ("", "")
            if name != RANK:
                chance = (
                    f"{chance_of_order(vectors[:9], nine.rho):.3f}", f"{chance_of_order(vectors, twenty.rho):.3f}"
                )  # fmt: skip
            rows.append((source.name, name, str(nine), chance[0], f"{twenty.rho:.2f}", chance[1]))
            tables.append(
                pandas.DataFrame({"source": source.name, "direction": name, "word": NUMBERS, "value": values.tolist()})
            )
    words = (
        "One, two, three, ... along the same directions: is each further along than the one before? Rho is Spearman’s, "
        f"1 for perfect order; chance is the share of {N_RANDOM:,} random directions that do as well. Large numbers "
        "are rarer than small ones, so the order by rank in the vocabulary (rare words last) stands beside it: a "
        "direction that follows frequency, as that of rare plurals may, would make the numbers rise."
    )
    columns = ("vectors", "direction", "one to nine", "chance", "rho to twenty", "chance ")
    section = PageSection("Numbers along it", "rank correlation", [words], table=Table(columns, rows))
    return section, pandas.concat(tables).assign(about="numbers")


def _numbers_by_layer(
    model: probe.GPT, profile: LayerProfile, templates: tuple[str, ...], quick: bool
) -> tuple[PageSection, pandas.DataFrame]:
    """The numbers in sentences, along each layer's own direction."""
    rows, tables = [], []
    shown = [at for at in shown_places(len(profile.places)) if profile.places[at].layer is not None]
    for at in shown[:: 3 if quick else 1]:
        place = profile.places[at]
        assert place.layer is not None, "only layers are shown"
        numbers = probe.words_in_context(model, place.layer, NUMBER_TEMPLATES[: 1 if quick else None])
        vectors = numbers.vectors_of(NUMBERS).double()
        pair = probe.words_in_context(model, place.layer, templates).vectors_of(PAIR).double()
        mean = vectors @ profile.directions[at]
        one = vectors @ (pair[0] - pair[1])
        nine, alone = ascent(mean[:9], NUMBERS[:9]), ascent(one[:9], NUMBERS[:9])
        chance = chance_of_order(vectors[:9], nine.rho)
        rows.append((place.name, str(nine), f"{chance:.3f}", f"{ascent(mean, NUMBERS).rho:.2f}", str(alone)))
        tables += [
            pandas.DataFrame({"place": place.name, "direction": name, "word": NUMBERS, "value": values.tolist()})
            for name, values in ((MEAN, mean), (ONE, one))
        ]
    words = (
        "The same numbers in sentences (“There were {}” and others), read at their last token after a layer, along "
        "the direction that the pairs have there."
    )
    columns = ("place", "one to nine", "chance", "rho to twenty", f"along {ONE}")
    section = PageSection("Numbers in the layers", "rank correlation", [words], table=Table(columns, rows))
    return section, pandas.concat(tables).assign(about="numbers by layer")


def _evidence(source: WordSource, evaluation: probe.Evaluation) -> PageSection:
    return PageSection(f"The evidence: {source.name}", "held-out pairs, nulls, controls", evaluation.report())


def _verdicts(sources: list[WordSource], found: list[Fitted]) -> PageSection:
    rows = [
        (source.name, evaluation.verdict, "yes" if evaluation.special else "no", f"{evaluation.auroc}",
         f"{evaluation.confounds[-1].adjusted}", f"{evaluation.p:.4f}")
        for source, (_, evaluation) in zip(sources, found, strict=True)
    ]  # fmt: skip
    words = (
        f"By the rule: {RULE}. Special: whether fewer than 5 % of random directions tell the two groups apart as well."
    )
    columns = ("vectors", "verdict", "special", "AUROC", "confounds regressed out", "p")
    return PageSection("Verdicts", "by rule", [words], table=Table(columns, rows))


if __name__ == "__main__":
    main(QUESTION, ask)
