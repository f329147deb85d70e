"""Which analogies hold, with the words of the question as answers and without?"""

from collections.abc import Sequence

import pandas
import torch
from _script import Answer, Say, main, origin
from _sources import WordSource, sources_in_words, word_sources

import probe
from probe.figures.page import PageSection, Table
from probe.methods.analogies import AnalogyMethod

QUESTION = "Which analogies hold?"
KNOWN = (
    (("king", "woman"), "man", "queen"),
    (("uncle", "woman"), "man", "aunt"),
    (("Italy", "Hitler"), "Germany", "Mussolini"),
    (("Germany", "sushi"), "Japan", "bratwurst"),
)
"""(added, taken away, expected)."""
METHODS: tuple[AnalogyMethod, ...] = ("3CosAdd", "3CosMul")
TOWER, CAT, NEAR_CAT = "tower", "cat", ("beast", "monster", "pet", "animal", "dog", "table")
SECTIONS = {
    "plurality": "cat : cats", "gender": "man : woman", "tense": "go : went", "nationality": "France : French",
    "capital": "France : Paris",
}  # fmt: skip
"""The lists that questions are made of, and which way they are asked."""
N_QUESTIONS, QUICK_QUESTIONS = 200, 20
SPELLINGS = 16
"""More neighbours than the three words of a question have spellings."""
Questions = dict[str, list[tuple[str, str, str, str]]]


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """The well-known ones, neighbours, then sets of questions."""
    sources = word_sources(model)[:2]
    say("the well-known ones")
    known, known_table = _known(sources)
    tower, tower_table = _tower(sources)
    cat, cat_table = _cat(sources)
    n = QUICK_QUESTIONS if quick else N_QUESTIONS
    asked = []
    for source in sources:
        say(f"{n} questions of each of {len(SECTIONS)} kinds in {source.name}")
        questions = {name: draw_questions(source.pairs(name), n, seed=0) for name in SECTIONS}
        asked.append(pandas.concat([_dropped(source, questions), _kept(source, questions)]))
    table = pandas.concat(asked)
    return Answer(
        question=QUESTION,
        lead=[sources_in_words(sources, model)],
        sections=[known, tower, cat, _accuracy(sources, table, n), _inputs(sources, table)],
        table=pandas.concat([known_table, tower_table, cat_table, table.assign(about="questions")]),
        manifest=origin(model, word_vectors=sources[0].vectors.name, known=KNOWN, n_questions=n, seed=0),
    )


def draw_questions(pairs: Sequence[tuple[str, str]], n: int, *, seed: int) -> list[tuple[str, str, str, str]]:
    """n different questions "a is to b as c is to d" of two pairs without a common word each; of (positive, negative)
    pairs the negative word comes first: cat, cats, dog, dogs."""
    possible = [
        (a, b, c, d) for b, a in pairs for d, c in pairs if len({a.lower(), b.lower(), c.lower(), d.lower()}) == 4
    ]  # fmt: skip
    order = torch.randperm(len(possible), generator=torch.Generator().manual_seed(seed))[:n]
    return [possible[at] for at in order.tolist()]


def is_input(answer: str, question: Sequence[str]) -> str | None:
    """Which of the words a, b, c of a question an answer is, in whatever case."""
    assert len(question) >= 3, "a, b, c"
    return next((side for side, word in zip("abc", question, strict=False) if word.lower() == answer.lower()), None)


def _known(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    """What the examples of textbooks give."""
    rows, tables, remarks = [], [], []
    for source in sources:
        for added, taken, expected in KNOWN:
            words = [source.spell(word) for word in (*added, taken, expected)]
            if missing := source.vectors.missing(words):
                remarks.append(f"Cannot be asked in {source.name}: {'; '.join(missing.values())}.")
                continue
            for method in METHODS:
                dropped, kept = (
                    probe.solve_analogy(
                        source.vectors, words[:2], words[2:3], method=method, keep_inputs=keep, k=5, expected=words[3]
                    )
                    for keep in (False, True)
                )
                rows.append((
                    source.name, f"{words[0]} - {words[2]} + {words[1]}", words[3], method, f"{dropped.rank:,}",
                    ", ".join(dropped.words[:2]), f"{kept.rank:,}", ", ".join(kept.words[:2]),
                ))  # fmt: skip
                tables += [
                    one.to_dataframe().assign(
                        source=source.name, analogy_method=method, expected=words[3], rank_of_expected=one.rank
                    )
                    for one in (dropped, kept)
                ]
    words = (
        "The rank of the expected word, and the two best: once with the question’s own three words not allowed as "
        "answers (dropped), as is the custom, and once with all words allowed (kept)."
    )
    columns = ("vectors", "question", "expected", "by", "rank", "dropped", "rank ", "kept")
    section = PageSection(
        "The well-known ones", "3CosAdd and 3CosMul", [words], table=Table(columns, rows), remarks=remarks
    )
    return section, pandas.concat(tables).assign(about="known")


def _tower(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    found = [probe.nearest_neighbours(source.vectors, TOWER, k=10) for source in sources]
    rows = [
        (source.name, ", ".join(f"{word} {score:.2f}" for word, score in zip(one.words[0], one.scores[0], strict=True)))
        for source, one in zip(sources, found, strict=True)
    ]
    tables = [one.to_dataframe().assign(source=source.name) for source, one in zip(sources, found, strict=True)]
    section = PageSection(
        f"What is near {TOWER}?", "nearest neighbours", ["By cosine, of all words."],
        table=Table(("vectors", "nearest first"), rows),
    )  # fmt: skip
    return section, pandas.concat(tables).assign(about="neighbours")


def _cat(sources: list[WordSource]) -> tuple[PageSection, pandas.DataFrame]:
    """Cosine and rank of some words among all that are near cat."""
    lines = []
    for source in sources:
        cosines = source.vectors.units @ source.vectors.units[source.vectors.index(CAT)]
        for word in NEAR_CAT:
            own = cosines[source.vectors.index(word)]
            rank = int((cosines > own).sum())  # the word itself is above all
            lines.append(
                {"source": source.name, "word": word, "cosine": float(own), "rank": rank, "of": len(cosines) - 1}
            )
    table = pandas.DataFrame(lines)
    rows = [(row.source, row.word, f"{row.cosine:.3f}", f"{row.rank:,}", f"{row.of:,}") for row in table.itertuples()]
    words = f"The cosine of each word with {CAT}, and its rank among all other words."
    columns = ("vectors", "word", "cosine", "rank", "of")
    section = PageSection(f"Is a {CAT} a beast?", "cosine similarity", [words], table=Table(columns, rows))
    return section, table.assign(about="cat")


def _dropped(source: WordSource, questions: Questions) -> pandas.DataFrame:
    """Answers as evaluations ask for them: the inputs cannot be answers."""
    found = probe.evaluate_analogies(source.vectors, questions, restrict=len(source.vectors))
    assert not found.skipped, "only words with vectors are asked for"
    return found.to_dataframe().assign(source=source.name, asked="dropped")


def _kept(source: WordSource, questions: Questions) -> pandas.DataFrame:
    """All words can be answers; and the word nearest to c that is no input, as if there were no analogy."""
    rows = []
    for section, asked in questions.items():
        for question in asked:
            a, b, c, expected = question
            answer = probe.solve_analogy(source.vectors, [b, c], [a], keep_inputs=True, k=1).words[0]
            near = probe.nearest_neighbours(source.vectors, c, k=min(SPELLINGS, len(source.vectors) - 1)).words[0]
            alone = next(word for word in near if is_input(word, question) is None)
            for way, word in (("kept", answer), ("neighbour of c", alone)):
                rows.append({
                    "section": section, "a": a, "b": b, "c": c, "expected": expected, "answer": word,
                    "correct": word.lower() == expected.lower(), "asked": way, "input": is_input(word, question),
                })  # fmt: skip
    return pandas.DataFrame(rows).assign(source=source.name)


def _accuracy(sources: list[WordSource], table: pandas.DataFrame, n: int) -> PageSection:
    ways = ("dropped", "kept", "neighbour of c")
    share = table.groupby(["source", "section", "asked"]).correct.mean()
    overall = table.groupby(["source", "asked"]).correct.mean()
    rows = []
    for source in sources:
        rows += [
            (source.name, section, example, *(f"{share[source.name, section, way]:.1%}" for way in ways))
            for section, example in SECTIONS.items()
        ]
        rows.append((source.name, "all", "", *(f"{overall[source.name, way]:.1%}" for way in ways)))
    words = (
        f"{n} questions of each kind, drawn from all pairs of pairs of the list: a is to b as c is to what? Right "
        "answers among all words (3CosAdd, case ignored) where a, b and c are dropped from the answers; where they are "
        "kept; and where nobody asks for an analogy: simply the word nearest to c that is none of the three."
    )
    columns = ("vectors", "section", "such as", "dropped", "kept", "nearest to c")
    return PageSection("Sets of questions", "accuracy", [words], table=Table(columns, rows))


def _inputs(sources: list[WordSource], table: pandas.DataFrame) -> PageSection:
    kept = table[table.asked == "kept"]
    rows = []
    for source in sources:
        for section in SECTIONS:
            answers = kept[(kept.source == source.name) & (kept.section == section)]
            shares = [(answers.input == side).mean() for side in "cba"]
            others = answers.input.isna() & ~answers.correct.astype(bool)
            rows.append((
                source.name, section, f"{answers.input.notna().mean():.1%}", *(f"{share:.1%}" for share in shares),
                f"{answers.correct.mean():.1%}", f"{others.mean():.1%}",
            ))  # fmt: skip
    words = (
        "The same questions with all words allowed: how often the answer is only a word of the question again (c, b or "
        "a, in whatever case), the right word, or another one."
    )
    columns = ("vectors", "section", "an input", "c", "b", "a", "right", "other")
    return PageSection("How often is the answer an input?", "inputs kept", [words], table=Table(columns, rows))


if __name__ == "__main__":
    main(QUESTION, ask)
