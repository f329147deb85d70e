"""Examples of the chapter "Words as vectors"."""

from collections.abc import Sequence

from _introduction import Chapter, Example, Subject, count_above, judge, listed, projections, rising

import probe
from probe.figures.page import PageSection, Table
from probe.geometry import cosine
from probe.weight_count import GPT3

FAMILY = (("aunt", "uncle"), ("niece", "nephew"), ("daughter", "son"), ("mother", "father"))
OTHERS = ("dog", "council", "yugoslavia")
"""Those of the 3,000 most frequent words whose dot product with “cat” is largest, nearest to zero, and smallest."""
PLURALITY = 'words["cats"] - words["cat"]'


def words(subject: Subject) -> Chapter:
    """Directions that mean something."""
    return Chapter(
        "Words as vectors",
        [
            "The matrix that turns tokens into vectors is called the embedding. The video shows it with GloVe, a small "
            f"older model of single words; here that one has {len(subject.words):,} words with {subject.words.d} "
            "numbers each. The words of the GPT itself are looked at where that says more.",
            "If vectors hold meaning, so may differences of vectors: woman - man is the arrow from “man” to “woman”. "
            "An analogy adds such an arrow to another word and asks which word lies nearest. The words of the question "
            "itself usually lie nearest, so it is the custom to leave them out; what would come first with them is "
            "said too.",
            "The dot product multiplies two vectors number by number and adds up: large where two arrows are long and "
            "point the same way, zero where they are perpendicular, below zero where they point apart.",
        ],
        [dimensions(subject), slice_of_space(), tower(subject), queen(subject), family(subject), mussolini(subject),
         bratwurst(subject), cat(subject), dots(subject), plurals(subject), numbers(subject),
         embedding_weights(subject)],
    )  # fmt: skip


def number_section(subject: Subject) -> PageSection:
    """The projections of the number words, as bars."""
    names = probe.load_words("numbers")[:10]
    sources = {"this GPT’s embedding": subject.own, "GloVe": subject.words}
    found = [projections(source, names).tolist() for source in sources.values()]
    rows = [
        (name, *(cell for values in found for cell in (f"{values[place]:+.2f}", _bar(values, place))))
        for place, name in enumerate(names)
    ]
    columns = ("", *(cell for source in sources for cell in (source, "")))
    words = (
        "The dot product of each number word with cats - cat; the bar begins at the smallest and ends at the largest "
        "of a column. The more things a word counts, the more plural its vector, but not without exceptions."
    )
    return PageSection("Numbers along the plural direction", "17:37", [words], table=Table(columns, rows))


def dimensions(subject: Subject) -> Example:
    """Random directions are nearly perpendicular where there are many dimensions."""
    glove, gpt = (_nearly_perpendicular(source) for source in (subject.words, subject.own))
    return Example(
        "13:52", "Embeddings have thousands of dimensions, 12,288 in GPT-3: room for many distinct directions.",
        f"{subject.words.d} in GloVe, {subject.model.config.d_model} in this GPT. Of random directions {glove:.0%} and "
        f"{gpt:.0%} of all pairs are within 5 degrees of perpendicular (analyses/packing.py).", judge(gpt > glove),
        "Directions", "(words.d, model.config.d_model, probe.weight_count.GPT3.d_model)",
        (subject.words.d, subject.model.config.d_model, GPT3.d_model),
    )  # fmt: skip


def slice_of_space() -> Example:
    """A picture."""
    return Example("14:12", "A picture shows a slice of three dimensions.",
                   "So does the dashboard (Directions, Three axes), and says which three.", "yes", "Directions",
        opens={"show": "Three axes"},
    )  # fmt: skip


def tower(subject: Subject) -> Example:
    """Neighbours."""
    near = probe.nearest_neighbours(subject.words, "tower", k=6).words[0]
    return Example(
        "14:37", "The words nearest to “tower” are tower-like.",
        f"{listed(near)}: most are.", judge("towers" in near, "building" in near), "Directions",
        'probe.nearest_neighbours(words, "tower", k=6).words[0]', near,
        opens={"show": "Neighbours", "near": "tower"},
    )  # fmt: skip


def queen(subject: Subject) -> Example:
    """The analogy everyone knows, with its small print."""
    difference = _alike(subject.words, "queen", "king")
    dropped, kept = _ranks(subject.words, ["king", "woman"], ["man"], "queen")
    return Example(
        "15:03, 15:15", "queen - king is like woman - man; so king + woman - man is near queen.",
        f"Cosine of the two differences {difference:.2f}. “queen” comes {_place(dropped)} if the words of the question "
        f"are left out, {_place(kept)} if not: then “king” itself is nearest.", judge(dropped == 1, kept == 1),
        "Directions", 'probe.solve_analogy(words, ["king", "woman"], ["man"], expected="queen").rank', dropped,
        opens={"show": "Analogies", "plus": "king woman", "minus": "man", "expected": "queen"},
    )  # fmt: skip


def family(subject: Subject) -> Example:
    """More pairs of the same."""
    found = {pair: _alike(subject.words, *pair) for pair in FAMILY}
    said = ", ".join(f"{a} - {b} {value:.2f}" for (a, b), value in found.items())
    royal = _alike(subject.words, "queen", "king")
    own = _own_rank(subject, ["uncle", "woman"], ["man"], "aunt")
    return Example(
        "15:41", "Family relations show the direction better.",
        f"Cosine with woman - man: {said}; queen - king {royal:.2f}. {own}",
        judge(*(value > royal for value in found.values())), "Directions",
        'float(probe.geometry.cosine(words["woman"] - words["man"], words["aunt"] - words["uncle"]))',
        found["aunt", "uncle"],
        opens={"show": "Differences", "pairs": "gender"},
    )  # fmt: skip


def mussolini(subject: Subject) -> Example:
    """Nationality, and leaders of the axis powers."""
    dropped, kept = _ranks(subject.words, ["hitler", "italy"], ["germany"], "mussolini")
    own = _own_rank(subject, ["Hitler", "Italy"], ["Germany"], "Mussolini")
    return Example(
        "15:56", "Italy - Germany + Hitler is near Mussolini.",
        f"GloVe: {_place(dropped)}; the question’s words kept: {_place(kept)}. {own}", judge(dropped == 1, kept == 1),
        "Directions",
        'probe.solve_analogy(words, ["hitler", "italy"], ["germany"], expected="mussolini").rank', dropped,
        opens={"show": "Analogies", "plus": "italy hitler", "minus": "germany", "expected": "mussolini"},
    )  # fmt: skip


def bratwurst(subject: Subject) -> Example:
    """An honest no."""
    question = ["sushi", "germany"], ["japan"]
    found = probe.solve_analogy(subject.words, *question, expected="bratwurst", k=3)
    own = _own_rank(subject, ["sushi", "Germany"], ["Japan"], "bratwurst")
    return Example(
        "16:19", "In some models, Germany - Japan + sushi is near bratwurst.",
        f"Not here. GloVe: rank {found.rank} of {found.n_candidates:,}; first come {listed(found.words)}. {own}",
        judge(found.rank == 1), "Directions",
        'probe.solve_analogy(words, ["sushi", "germany"], ["japan"], expected="bratwurst").rank', found.rank,
        opens={"show": "Analogies", "plus": "germany sushi", "minus": "japan", "expected": "bratwurst"},
    )  # fmt: skip


def cat(subject: Subject) -> Example:
    """Near, but not nearest."""
    near = probe.nearest_neighbours(subject.words, "cat", k=20).words[0]
    ranks = [near.index(word) + 1 if word in near else None for word in ("monster", "beast")]
    return Example(
        "16:30", "“cat” is close to “beast” and “monster”.",
        f"GloVe: monster is neighbour {ranks[0]}, beast neighbour {ranks[1]} of {len(subject.words):,}; nearest are "
        f"{listed(near[:3])}.", judge(None not in ranks), "Directions",
        '[probe.nearest_neighbours(words, "cat", k=20).words[0].index(word) + 1 for word in ("monster", "beast")]',
        ranks,
        opens={"show": "Neighbours", "near": "cat"},
    )  # fmt: skip


def dots(subject: Subject) -> Example:
    """One of each sign."""
    found = [float(subject.words["cat"] @ subject.words[word]) for word in OTHERS]
    said = ", ".join(f"“{word}” {value:+.2f}" for word, value in zip(OTHERS, found, strict=True))
    return Example(
        "16:37 - 17:03", "The dot product says how well two vectors align: positive, zero, negative.",
        f"“cat” with {said} (picked among the 3,000 most frequent words).",
        judge(found[0] > 1, abs(found[1]) < 0.1, found[2] < -1), "Directions",
        f'[float(words["cat"] @ words[word]) for word in {OTHERS}]', found,
        opens={"show": "Words", "words": "cat dog car"},
    )  # fmt: skip


def plurals(subject: Subject) -> Example:
    """One pair gives the direction, all others are tried on it."""
    (above, n), (own_above, own_n) = count_above(subject.words), count_above(subject.own)
    return Example(
        "17:09 - 17:33", "cats - cat points towards the plural: plurals score higher than their singulars.",
        f"GloVe: {above} of {n} pairs; this GPT: {own_above} of {own_n} (by chance: half).",
        judge(above > 0.9 * n, own_above > 0.9 * own_n), "Directions",
        f"sum(float((words[more] - words[one]) @ ({PLURALITY})) > 0"
        ' for more, one in probe.load_pairs("plurality").lower().all)', above,
        opens={"show": "Evidence"},
    )  # fmt: skip


def numbers(subject: Subject) -> Example:
    """The count of things as a sliding plural."""
    names = probe.load_words("numbers")[:10]
    steps = [rising(projections(source, names).tolist()) for source in (subject.own, subject.words)]
    return Example(
        "17:37", "one, two, three, ... score higher and higher along it.",
        f"One to ten: this GPT’s rise without a break up to “{names[steps[0] - 1]}”, GloVe’s up to "
        f"“{names[steps[1] - 1]}” (numbers below).", judge(*(step >= 9 for step in steps)), "Directions",
        f'[float(words[name] @ ({PLURALITY})) for name in probe.load_words("numbers")[:10]]',
        projections(subject.words, names).tolist(),
        opens={"show": "Words"},
    )  # fmt: skip


def embedding_weights(subject: Subject) -> Example:
    """50,257 x 12,288."""
    row = probe.count_weights(GPT3, tied=False).rows[0]
    own = probe.count_weights(subject.model.config).rows[0]
    return Example(
        "17:57 - 18:13", "GPT-3’s embedding: 50,257 tokens with 12,288 numbers each, 617 million weights.",
        f"{row.shape[0]:,} × {row.shape[1]:,} = {row.weights:,}. This GPT: {own.shape[0]:,} × {own.shape[1]:,} = "
        f"{own.weights:,}.", judge(row.weights // 10**6 == 617), "Tokens and model",
        "probe.count_weights(probe.weight_count.GPT3, tied=False).rows[0].weights", row.weights,
    )  # fmt: skip


def _alike(words: probe.WordVectors, a: str, b: str) -> float:
    """Cosine of a - b with woman - man."""
    return float(cosine(words["woman"] - words["man"], words[a] - words[b]))


def _ranks(words: probe.WordVectors, plus: list[str], minus: list[str], expected: str) -> list[int]:
    """With the question's own words dropped, and kept."""
    answers = [probe.solve_analogy(words, plus, minus, expected=expected, keep_inputs=kept) for kept in (False, True)]
    return [answer.rank for answer in answers if answer.rank is not None]


def _own_rank(subject: Subject, plus: list[str], minus: list[str], expected: str) -> str:
    """What the GPT's own embedding answers, if all words are tokens there."""
    if missing := subject.own.missing([*plus, *minus, expected]):
        return f"In this GPT {listed(list(missing))} is no single token."
    dropped, kept = _ranks(subject.own, plus, minus, expected)
    return f"This GPT: {expected} {_place(dropped)}; the question’s words kept: {_place(kept)}."


def _nearly_perpendicular(source: probe.WordVectors) -> float:
    """The share of pairs of random directions within 5 degrees of perpendicular."""
    random = source.twin().units[:2000]
    return float(((random[:1000] @ random[1000:].T).abs() < 0.0872).float().mean())


def _bar(values: Sequence[float], place: int) -> float:
    return (values[place] - min(values)) / (max(values) - min(values))


def _place(rank: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(rank, f"{rank}th")
