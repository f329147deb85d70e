"""Is there a direction for plural? In GloVe, in the model's embedding, in every layer, in its unembedding."""

from collections.abc import Sequence

import pandas
from _script import Answer, Say, document_start, main, origin, start_in_words
from probe.figures.directions import layer_profile_lines, permutation_histogram, projection_strip
from scipy.stats import spearmanr

import probe
from probe.figures.page import PageSection, Table
from probe.methods.directions import Direction, Evaluation
from probe.methods.layer_profile import LayerProfile

QUESTION = "Is there a direction for plural?"
SINGLE = [("cats", "cat")]
QUICK_PERMUTATIONS = 39
PERMUTATIONS = 1000


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """One pair and many, the numbers, the evidence, the layers."""
    n = QUICK_PERMUTATIONS if quick else PERMUTATIONS
    pairs = probe.load_pairs("plurality")
    say("reading words")
    middle = model.config.n_layers // 2
    sources = {
        "GloVe": probe.load_word_vectors(),
        "embedding": probe.word_vectors(model, "embed"),
        f"layer {middle}": probe.words_in_context(model, middle, pairs.templates, document_start=document_start(model)),
        "unembedding": probe.word_vectors(model, "unembed"),
    }
    singles = {name: probe.fit_direction(source, SINGLE) for name, source in sources.items()}
    means = {name: probe.fit_direction(source, pairs, on_missing="drop") for name, source in sources.items()}
    say("the evidence")
    evidence = {
        name: probe.evaluate_direction(
            direction, pairs, n_permutations=n, twin=not quick, on_missing="drop", progress=False
        )
        for name, direction in means.items()
    }
    say("every layer")
    profile = probe.layer_profile(model, pairs, n_permutations=n, twin=not quick, progress=False)
    one, one_table = _one_and_many(singles, means, pairs.held_out)
    counted, counted_table = _numbers(singles, means)
    return Answer(
        question=QUESTION,
        lead=[
            f"GloVe 6B 50d and {model.name}, {start_in_words(model)}. {len(pairs.fit)} pairs to fit on, "
            f"{len(pairs.held_out)} held out; in the model's embedding and unembedding those of which both words are "
            "tokens of their own."
        ],
        sections=[one, counted, *(_evidence(name, found) for name, found in evidence.items()), _layers(profile)],
        table=pandas.concat([one_table, counted_table, _evidence_table(evidence), profile.to_dataframe()]),
        manifest=origin(model, single=SINGLE, n_permutations=n, seed=0),
    )


def right_way_round(direction: Direction, pairs: Sequence[tuple[str, str]]) -> tuple[float, list[str]]:
    """The share of pairs whose first word scores higher, and the others; pairs with a missing word are left out."""
    missing = direction.source.missing(word for pair in pairs for word in pair)
    known = [pair for pair in pairs if pair[0] not in missing and pair[1] not in missing]
    along = direction.project([word for pair in known for word in pair]).along
    wrong = [" - ".join(pair) for pair, up, down in zip(known, along[0::2], along[1::2], strict=True) if up <= down]
    return 1 - len(wrong) / len(known), wrong


def rising(values: Sequence[float]) -> int:
    """How many steps from one value to the next go up."""
    return sum(after > before for before, after in zip(values, values[1:], strict=False))


def _one_and_many(
    singles: dict[str, Direction], means: dict[str, Direction], held_out: Sequence[tuple[str, str]]
) -> tuple[PageSection, pandas.DataFrame]:
    rows, wrong = [], []
    for name, single in singles.items():
        one, _ = right_way_round(single, [pair for pair in held_out if pair not in SINGLE])
        many, others = right_way_round(means[name], held_out)
        rows.append(
            {
                "source": name,
                "cats - cat": one,
                "mean of many": many,
                "cosine": float(single.vector @ means[name].vector),
            }
        )
        wrong.append(f"{name}: {', '.join(others) or 'none'}")
    table = pandas.DataFrame(rows)
    words = (
        "The share of held-out pairs whose plural scores above its singular: along cats - cat alone, and along the mean of "
        "all fitted pairs; and the cosine of the two directions."
    )
    lines = [
        (row["source"], f"{row['cats - cat']:.1%}", f"{row['mean of many']:.1%}", f"{row['cosine']:.3f}")
        for row in rows
    ]
    section = PageSection(
        "One pair, and many", "difference vectors", [words, "The wrong way round by the mean. " + "; ".join(wrong) + "."],
        table=Table(("in", "cats - cat", "mean of many", "cosine"), lines),
    )  # fmt: skip
    return section, table.assign(about="one and many")


def _numbers(singles: dict[str, Direction], means: dict[str, Direction]) -> tuple[PageSection, pandas.DataFrame]:
    """Do one, two, three, ... increase?"""
    numbers = probe.load_words("numbers")
    rows, values = [], []
    for kind, found in (("cats - cat", singles), ("mean of many", means)):
        for name, direction in found.items():
            known = [word for word in numbers if not direction.source.missing([word])]
            along = direction.project(known).along.tolist()
            nine = along[:9]
            falls = [f"{b} < {a}" for a, b, x, y in zip(known, known[1:9], nine, nine[1:], strict=False) if y <= x]
            rows.append(
                (name, kind, f"{rising(nine)} of 8", f"{spearmanr(range(9), nine).statistic:.2f}",
                 f"{spearmanr(range(len(along)), along).statistic:.2f}", ", ".join(falls) or "none")
            )  # fmt: skip
            values += [
                {"source": name, "direction": kind, "word": w, "along": x} for w, x in zip(known, along, strict=True)
            ]
    words = (
        "One, two, three, ... along the direction: steps upward from one to nine, Spearman's rank correlation up to nine "
        "and up to twenty, and where it falls."
    )
    section = PageSection(
        "One, two, three, ...", "projection", [words],
        table=Table(("in", "direction", "rising", "to nine", "to twenty", "falls"), rows),
    )  # fmt: skip
    return section, pandas.DataFrame(values).assign(about="numbers")


def _evidence(name: str, found: Evaluation) -> PageSection:
    return PageSection(
        f"The evidence in {name}", "permutation test", found.report(),
        figures=[
            lambda theme: projection_strip(found, theme=theme), lambda theme: permutation_histogram(found, theme=theme)
        ],
    )  # fmt: skip


def _evidence_table(evidence: dict[str, Evaluation]) -> pandas.DataFrame:
    return pandas.DataFrame(
        {"source": name, "auroc": found.auroc.value, "low": found.auroc.low, "high": found.auroc.high,
         "accuracy": found.accuracy.value, "effect_size": found.effect_size.value, "p": found.p,
         "verdict": found.verdict, "about": "evidence"}
        for name, found in evidence.items()
    )  # fmt: skip


def _layers(profile: LayerProfile) -> PageSection:
    rows = [
        (one.name, f"{one.n}", f"{one.auroc.value:.3f}", f"{one.accuracy.value:.3f}", f"{one.effect_size.value:.2f}",
         f"{one.p_adjusted:.3f}", "" if one.twin is None else f"{one.twin.value:.3f}")
        for one in profile.places
    ]  # fmt: skip
    words = "Cross-validated over all pairs. p: against the best place of every permutation. Twin: the untrained one."
    return PageSection(
        "From embedding to unembedding", "layer profile", [words],
        figures=[lambda theme: layer_profile_lines(profile, theme=theme)],
        table=Table(("after", "pairs", "AUROC", "pairs right", "Cohen's d", "p", "twin"), rows),
    )  # fmt: skip


if __name__ == "__main__":
    main(QUESTION, ask)
