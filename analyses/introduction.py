"""What do the visual introductions to GPTs show, and does it hold here?

Every example of 3Blue1Brown's "But what is a GPT?" (2024), in its order, then of the companion talk. They stand in
`_introduction_begin.py`, `_introduction_weights.py`, `_introduction_words.py`, `_introduction_context.py`,
`_introduction_softmax.py` and `_introduction_talk.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import pandas
from _introduction import Chapter, Subject
from _introduction_begin import inside, predict
from _introduction_context import beyond, unembedding
from _introduction_softmax import softmax
from _introduction_talk import talk
from _introduction_weights import weights
from _introduction_words import number_section, words
from _script import Answer, Say, document_start, main, origin, start_in_words

import probe

QUESTION = "What do the visual introductions to GPTs show, and does it hold here?"
CHAPTERS = {
    "predict, sample, repeat": predict, "inside a transformer": inside, "weights": weights, "words as vectors": words,
    "beyond words": beyond, "back to tokens": unembedding, "softmax": softmax, "the talk": talk,
}  # fmt: skip
"""In the order of the video."""
TOKENS, QUICK_TOKENS = 40, 8


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Chapter by chapter."""
    say("reading word vectors")
    subject = read_subject(model, QUICK_TOKENS if quick else TOKENS)
    chapters = {}
    for name, chapter in CHAPTERS.items():
        say(name)
        chapters[name] = chapter(subject)
    sections = [one.section() for one in chapters.values()]
    sections.insert(list(CHAPTERS).index("words as vectors") + 1, number_section(subject))
    table = pandas.DataFrame(list(rows(chapters)))
    counts = Counter(table["holds"])
    said = ", ".join(f"{holds}: {counts[holds]}" for holds in ("yes", "partly", "no", "not tried"))
    return Answer(
        question=QUESTION,
        lead=[
            "3Blue1Brown’s video “But what is a GPT?” (2024) shows how such a model works. Here are its examples, in "
            "its order, with the time in the video, and what this model says to each. Every word that is needed is "
            "explained where it first comes.",
            f"Of {len(table)} examples, does it hold? {said} (not tried: a picture, other media, training).",
            f"Model: {model.name}; texts: {start_in_words(model)}. Word vectors: {subject.words.name}. The lines under "
            "each table give its numbers; before them: import probe; model = probe.load_model(); "
            "words = probe.load_word_vectors().",
        ],
        sections=sections,
        table=table,
        manifest=origin(model, words=dict(subject.words.manifest), tokens=subject.n_tokens),
    )


def read_subject(model: probe.GPT, n_tokens: int = TOKENS) -> Subject:
    """The model with both kinds of word vectors."""
    start = document_start(model)
    return Subject(model, probe.load_word_vectors(), probe.word_vectors(model), start, n_tokens)


def rows(chapters: Mapping[str, Chapter]) -> Iterator[dict[str, object]]:
    """Rows of the table: one for each example."""
    for name, chapter in chapters.items():
        for one in chapter.examples:
            yield {
                "chapter": name, "time": one.time, "claim": one.claim, "here": one.here, "holds": one.holds,
                "page": one.page, "code": one.code, "value": one.value,
            }  # fmt: skip


if __name__ == "__main__":
    main(QUESTION, ask)
