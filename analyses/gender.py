"""Is there a direction for gender, how far is queen, and what stands along it that should not?"""

import pandas
import torch
from _script import Answer, Say, main, origin, start_in_words
from _sources import WordSource, pearson, profile_section, sources_in_words, word_sources
from jaxtyping import Float, Int
from torch import Tensor

import probe
from probe.figures.page import PageSection, Table
from probe.geometry import cosine, unit
from probe.statistics import auroc, p_value

QUESTION = "Is there a direction for gender, and how far is queen?"
PAIR = ("woman", "man")
SHOWN = (
    ("queen", "king"), ("aunt", "uncle"), ("mother", "father"), ("daughter", "son"), ("sister", "brother"),
    ("wife", "husband"), ("grandmother", "grandfather"), ("niece", "nephew"), ("girl", "boy"), ("princess", "prince"),
    ("she", "he"), ("actress", "actor"), ("heroine", "hero"), ("nun", "monk"), ("cow", "bull"),
)  # fmt: skip
"""In the page's table; the answer's table has all."""
FAMILY = ("family", "home", "children", "parents", "marriage", "wedding", "baby", "household")
CAREER = ("career", "office", "business", "salary", "company", "management", "contract", "industry")
"""Chosen before any result was seen."""
ROYAL = ("king", "woman", "man", "queen")
NEAR_QUEEN = ("king", "queen", "princess", "woman", "man", "throne", "monarch")
N_UNRELATED = 1000
"""Differences of unrelated words, for what a cosine is by chance."""
FREQUENT, K = 20_000, 100
"""Neighbours are looked for among so many of the most frequent words, as Gonen and Goldberg do with 50,000 words."""
N_RANDOM, QUICK_RANDOM = 200, 10
"""Random directions that are taken out instead."""
ENDS = 6
QUICK_PAIRS, QUICK_PERMUTATIONS, PERMUTATIONS = 20, 99, 1000
CAUTION = (
    "What these numbers say: in which company these words stood in the texts that the vectors were made from, as seen "
    "along the words of the pairs; other pairs and other texts give other numbers. What they do not say: anything "
    "about a person, about what people of a profession are like, or about how many of them are women. And a number "
    "near zero says little of what else the vectors know: see what is left after neutralising."
)


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Pairs, queen, people, association, neutralising, every layer, the evidence."""
    sources = word_sources(model)[:2]
    n_permutations = QUICK_PERMUTATIONS if quick else PERMUTATIONS
    say("pairs")
    pairs, pairs_table = _pairs(sources)
    queen, queen_table = _queen(sources)
    say("people")
    people, people_table = _people(sources)
    association, association_table = _association(sources)
    say("neutralising")
    left, left_table = _left(sources, QUICK_RANDOM if quick else N_RANDOM)
    say("every layer (and the untrained twin)")
    words = probe.load_pairs("gender")
    profile = probe.layer_profile(
        model, words.all[: QUICK_PAIRS if quick else None], templates=words.templates[: 1 if quick else None],
        n_permutations=n_permutations, twin=not quick, progress=False,
    )  # fmt: skip
    say("evidence")
    evidence = [_evidence(source, n_permutations) for source in sources]
    return Answer(
        question=QUESTION,
        lead=[
            f"{sources_in_words(sources, model)} Sentences are read {start_in_words(model)}.",
            f"{len(words.all)} pairs of words that are female and male by definition, from the list “gender”.",
        ],
        sections=[
            pairs, queen, people, association, left, profile_section(profile, "Gender in every layer"), *evidence
        ],
        table=pandas.concat([
            pairs_table, queen_table, people_table, association_table, left_table,
            profile.to_dataframe().assign(about="profile"),
        ]),
        manifest=origin(
            model, word_vectors=sources[0].vectors.name, pairs=words.all, family=FAMILY, career=CAREER,
            n_permutations=n_permutations, k=K, frequent=FREQUENT, seed=0,
        ),
    )  # fmt: skip


def halves(source: WordSource) -> dict[tuple[str, str], probe.Direction]:
    """For each pair of the list the mean direction of the other half; families are whole in one half."""
    pairs = probe.load_pairs("gender")
    fit, held_out = source.having(pairs.fit), source.having(pairs.held_out)
    on_fit, on_held_out = (probe.fit_direction(source.vectors, half) for half in (fit, held_out))
    return {**dict.fromkeys(fit, on_held_out), **dict.fromkeys(held_out, on_fit)}


def _direction(source: WordSource) -> probe.Direction:
    return probe.fit_direction(source.vectors, source.pairs("gender"), name="female - male")


def _pairs(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    """How alike the pairs' differences are."""
    tables, lines = [], []
    for source in sources:
        mean_of_others = halves(source)
        one = probe.fit_direction(source.vectors, [PAIR]).vector
        pairs = list(mean_of_others)
        vectors = source.vectors.vectors_of([word for pair in pairs for word in pair]).double()
        differences = vectors[0::2] - vectors[1::2]
        means = torch.stack([direction.vector for direction in mean_of_others.values()])
        table = pandas.DataFrame({
            "source": source.name, "positive": [pair[0] for pair in pairs], "negative": [pair[1] for pair in pairs],
            "cosine_with_pair": cosine(differences, one).tolist(),
            "cosine_with_mean": cosine(differences, means).tolist(),
        })  # fmt: skip
        tables.append(table)
        random = source.vectors.unrelated(2 * N_UNRELATED, without=words_of(pairs), seed=0).double()
        chance = cosine(random[0::2] - random[1::2], one).quantile(0.95).item()
        others = table[table.positive != PAIR[0]]
        above = int((others.cosine_with_pair > chance).sum())
        lines.append(
            f"{source.name}: {len(pairs)} pairs. With {' - '.join(PAIR)}: mean {others.cosine_with_pair.mean():.3f}, "
            f"{_ends(others, 'cosine_with_pair')}; {above} of {len(others)} above {chance:.3f}, which one in twenty "
            f"differences of unrelated words reaches. With the mean of other pairs: mean "
            f"{table.cosine_with_mean.mean():.3f}, {_ends(table, 'cosine_with_mean')}."
        )
    table = pandas.concat(tables)
    rows = [(" - ".join(pair), *_pair_cells(table, sources, pair)) for pair in (PAIR, *SHOWN)]
    words = (
        f"The cosine of each pair’s difference with {' - '.join(PAIR)}, and with the mean difference of the other half "
        "of the list, in which no word of its family stands. 1 would be one and the same direction."
    )
    columns = (
        "pair",
        *(f"{source.name}: {what}" for source in sources for what in (" - ".join(PAIR), "mean of others")),
    )
    section = PageSection(
        "Is it one direction?", "parallel differences", [words], table=Table(columns, rows), remarks=lines
    )
    return section, table.assign(about="pairs")


def words_of(pairs: list[tuple[str, str]]) -> list[str]:
    """Every word of some pairs."""
    return [word for pair in pairs for word in pair]


def _ends(table: pandas.DataFrame, column: str) -> str:
    low, high = (table.loc[at] for at in (table[column].idxmin(), table[column].idxmax()))
    return " to ".join(f"{row[column]:.3f} ({row.positive} - {row.negative})" for row in (low, high))


def _pair_cells(table: pandas.DataFrame, sources: list[WordSource], pair: tuple[str, str]) -> list[str]:
    cells = []
    for source in sources:
        rows = table[(table.source == source.name) & (table.positive == pair[0]) & (table.negative == pair[1])]
        for column in ("cosine_with_pair", "cosine_with_mean"):
            cells.append(f"{float(rows[column].iloc[0]):.3f}" if len(rows) else "several tokens")
    return cells


def _queen(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    """Distances and cosines from king + (woman - man)."""
    king, woman, man, queen = ROYAL
    tables, remarks = [], []
    for source in sources:
        vectors = source.vectors
        target = vectors[king] + vectors[woman] - vectors[man]
        at = vectors.vectors_of(NEAR_QUEEN)
        tables.append(pandas.DataFrame({
            "source": source.name, "word": NEAR_QUEEN, "distance": (at - target).norm(dim=1).tolist(),
            "cosine": cosine(at, target).tolist(),
        }))  # fmt: skip
        kept, dropped = (
            probe.solve_analogy(vectors, [king, woman], [man], keep_inputs=keep, k=4, expected=queen)
            for keep in (True, False)
        )
        step = float((vectors[woman] - vectors[man]).norm())
        apart = float((vectors[king] - vectors[queen]).norm())
        remarks.append(
            f"{source.name}: {woman} - {man} is {step:.3f} long, {king} and {queen} are {apart:.3f} apart. By cosine "
            f"{queen} is number {kept.rank} of {kept.n_candidates:,} ({', '.join(kept.words)}), and number "
            f"{dropped.rank} if {king}, {woman} and {man} may not be answers ({', '.join(dropped.words)})."
        )
    table = pandas.concat(tables)
    wide = table.pivot(index="word", columns="source", values=["distance", "cosine"])
    rows = [
        (word, *(f"{wide.loc[word, (what, source.name)]:.3f}" for source in sources for what in ("distance", "cosine")))
        for word in NEAR_QUEEN
    ]
    words = f"How far words are from {king} + ({woman} - {man}), with the vectors as they are."
    columns = ("word", *(f"{source.name}: {what}" for source in sources for what in ("distance", "cosine")))
    section = PageSection("How far is queen?", "analogy", [words], table=Table(columns, rows), remarks=remarks)
    return section, table.assign(about="queen")


def _people(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    """Professions and first names along the mean direction."""
    rows, tables, remarks = [], [], []
    for source in sources:
        direction = _direction(source)
        middle = float(direction.pairs.middle.mean(0) @ direction.vector)
        groups = {
            "professions": source.having_words(probe.load_words("people", "professions")),
            "female names": _names(source, "female_names"),
            "male names": _names(source, "male_names"),
        }
        along = {}
        for group, words in groups.items():
            along[group] = (direction.project(words).along - middle) / direction.gap
            order = along[group].argsort(descending=True).tolist()
            rows.append((
                source.name, group, f"{len(words)}", f"{float(along[group].mean()):+.2f}",
                ", ".join(f"{words[at]} {float(along[group][at]):+.2f}" for at in order[:ENDS]),
                ", ".join(f"{words[at]} {float(along[group][at]):+.2f}" for at in order[: -ENDS - 1 : -1]),
            ))  # fmt: skip
            tables.append(
                pandas.DataFrame({"source": source.name, "group": group, "word": words, "along": along[group].tolist()})
            )
        female, male, work = along["female names"], along["male names"], along["professions"]
        rank = source.vectors.confounds(groups["professions"])["log vocabulary rank"]
        remarks.append(
            f"{source.name}: a female name stands above a male one in {float(auroc(female, male)):.1%} of all pairs of "
            f"names; {int((female > 0).sum() + (male < 0).sum())} of {len(female) + len(male)} names are on their side "
            f"of the middle. Professions: {int((work > 0).sum())} of {len(work)} on the female side; their correlation "
            f"with the log of the rank in the vocabulary is {float(pearson(work, rank)):+.2f} (+: rarer, more female)."
        )
    words = (
        "Where words stand along the mean direction of all pairs, from the middle of the pairs; a pair’s two words are "
        "1 apart on average, the female one is +. None of these words was fitted on."
    )
    columns = ("vectors", "words", "n", "mean", "most female", "most male")
    section = PageSection(
        "Professions and first names", "projection", [words], table=Table(columns, rows), remarks=[*remarks, CAUTION]
    )
    return section, pandas.concat(tables).assign(about="people")


def _names(source: WordSource, group: str) -> tuple[str, ...]:
    """First names as they are written there: in a GPT capitalised."""
    return source.having_words(name.capitalize() for name in probe.load_words("people", group))


def _association(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    """Are female names nearer to family words, male ones to career words?"""
    rows, tables = [], []
    for source in sources:
        names = _names(source, "female_names"), _names(source, "male_names")
        attributes = source.having_words(FAMILY), source.having_words(CAREER)
        found = probe.association_test(source.vectors, names, attributes)
        rows.append((
            source.name, f"{len(names[0])} and {len(names[1])}", f"{len(attributes[0])} and {len(attributes[1])}",
            f"{found.statistic:.3f}", f"{found.effect_size:.2f}", f"{found.p:.4f}", f"{found.smallest_p:.4f}",
        ))  # fmt: skip
        tables.append(found.to_dataframe().assign(source=source.name))
    words = (
        f"Female and male first names, with words of family ({', '.join(FAMILY)}) and of career ({', '.join(CAREER)}). "
        "The difference of mean cosines; in standard deviations (-2 to 2, + is female with family); the share of "
        "random divisions of the names that reach it, and the smallest share there can be."
    )
    columns = ("vectors", "names", "words", "difference", "effect size", "p", "smallest p")
    section = PageSection(
        "Family and career",
        "WEAT (Caliskan et al., 2017)",
        [words],
        table=Table(columns, rows),
        remarks=["The same caution holds."],
    )
    return section, pandas.concat(tables).assign(about="association")


def _left(sources: list[WordSource], n_random: int) -> tuple[PageSection, pandas.DataFrame]:
    """Take the direction out of every word: do the neighbours still tell?"""
    rows, tables = [], []
    for source in sources:
        direction = _direction(source)
        plain = probe.neutralise(source.vectors, direction)
        words = source.having_words(probe.load_words("people", "professions"))
        own = {*words_of(list(direction.pairs.words)), *words}
        at = [source.vectors.index(word) for word in words]
        near = [place for place, word in enumerate(source.vectors.words[:FREQUENT]) if word not in own]
        units = source.vectors.units.double()
        bias = units @ direction.vector
        before = neighbours_value(units[at], units[near], bias[near], K)
        after = neighbours_value(plain.units[at].double(), plain.units[near].double(), bias[near], K)
        chance = _shuffled(bias[at], after)
        remaining = float((plain.units[at].double() @ direction.vector).abs().max())
        random = _random_left(units[at], units[near], n_random)
        rho = float(pearson(bias[at], after))
        rows.append((
            source.name, f"{len(words)}", f"{remaining:.0e}", f"{float(pearson(bias[at], before)):.2f}", f"{rho:.2f}",
            f"{chance:.4f}", f"{float(random.median()):.2f}, {float(random.quantile(0.95)):.2f}",
        ))  # fmt: skip
        tables.append(pandas.DataFrame({
            "source": source.name, "word": words, "bias": bias[at].tolist(), "neighbours_before": before.tolist(),
            "neighbours_after": after.tolist(),
        }))  # fmt: skip
    lines = (
        "The direction is taken out of every word’s vector. A profession’s old bias is its cosine with the direction "
        f"before. Its {K} nearest neighbours (of the {FREQUENT:,} most frequent words, without professions and the "
        "words of the pairs): how well their mean old bias tells the profession’s own, before and after "
        "(correlation over professions; p from shuffled professions). Left: the largest cosine that a profession still "
        f"has with the direction. Random: the same with {n_random} random directions taken out instead, median and "
        "95th percentile: nearest neighbours tell something of any direction."
    )
    columns = ("vectors", "professions", "left", "before", "after", "p", "random")
    section = PageSection(
        "What is left after neutralising", "Gonen and Goldberg, 2019", [lines], table=Table(columns, rows)
    )
    return section, pandas.concat(tables).assign(about="neutralised")


def neighbours_value(
    units: Float[Tensor, "word d"], near: Float[Tensor, "other d"], values: Float[Tensor, " other"], k: int
) -> Float[Tensor, " word"]:
    """The mean value of each word's k nearest others; all vectors at length one."""
    nearest: Int[Tensor, "word k"] = (units @ near.T).topk(k, dim=1).indices
    return values[nearest].mean(1)


def neighbours_without(
    dots: Float[Tensor, "word other"], own: Float[Tensor, " word"], values: Float[Tensor, " other"], k: int
) -> Float[Tensor, " word"]:
    """`neighbours_value` after a direction was taken out, from dot products of unit vectors before, and from how far
    words and others lay along the direction; of the others that is the value."""
    scores = (dots - torch.outer(own, values)) / (1 - values.square()).sqrt()
    return values[scores.topk(k, dim=1).indices].mean(1)


def _random_left(units: Float[Tensor, "word d"], near: Float[Tensor, "other d"], n: int) -> Float[Tensor, " draw"]:
    """The correlation after taking out each of n random directions."""
    axes = unit(torch.randn(n, units.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    dots = units @ near.T
    sides = [(units @ axis, near @ axis) for axis in axes]
    return torch.stack([pearson(own, neighbours_without(dots, own, values, K)) for own, values in sides])


def _shuffled(first: Float[Tensor, " n"], second: Float[Tensor, " n"], n: int = 9999) -> float:
    """p of a correlation, one-sided, from shuffling one side."""
    generator = torch.Generator().manual_seed(0)
    shuffled = second[torch.rand(n, len(second), generator=generator).argsort(dim=1)]
    return p_value(pearson(first, second), pearson(first.expand(n, -1), shuffled))


def _evidence(source: WordSource, n_permutations: int) -> PageSection:
    """On pairs that were held out."""
    pairs = probe.load_pairs("gender")
    direction = probe.fit_direction(source.vectors, source.having(pairs.fit), name="female - male")
    evaluation = probe.evaluate_direction(
        direction, source.having(pairs.held_out), n_permutations=n_permutations, progress=False
    )
    return PageSection(f"The evidence: {source.name}", "held-out pairs, nulls, controls", evaluation.report())


if __name__ == "__main__":
    main(QUESTION, ask)
