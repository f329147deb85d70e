"""Neighbours and analogies among 400,000 words, against gensim; and what the evidence for a direction costs.

Both sides have the same vectors, with lengths computed beforehand.
"""

from collections.abc import Iterator

from _measure import Measured, Setting, compare, number, seconds

import probe

N_QUERIES, K = 100, 10
ANALOGIES = (
    ("king", "woman", "man"), ("paris", "germany", "france"), ("cats", "dog", "cat"), ("walking", "swim", "walk"),
    ("bigger", "small", "big"), ("tokyo", "italy", "japan"), ("brother", "girl", "boy"), ("houses", "car", "house"),
)  # fmt: skip


def measure(setting: Setting) -> Iterator[Measured]:
    """All of it, on the CPU."""
    words = probe.load_word_vectors()
    yield from against_gensim(words, setting)
    yield from evidence(words, setting)


def against_gensim(words: probe.WordVectors, setting: Setting) -> Iterator[Measured]:
    """100 words in one call beside gensim's loop; analogies one by one on both sides."""
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(words.d)
    keyed.add_vectors(list(words.words), words.vectors.numpy())
    keyed.fill_norms()
    queries = [words.words[place] for place in range(200, 200 + 300 * N_QUERIES, 300)]

    def neighbours():
        return probe.nearest_neighbours(words, queries, k=K).words

    def their_neighbours():
        return tuple(tuple(word for word, _ in keyed.most_similar(query, topn=K)) for query in queries)

    def analogies():
        return tuple(probe.solve_analogy(words, [a, b], [c], k=K).words for a, b, c in ANALOGIES)

    def their_analogies():
        return tuple(
            tuple(word for word, _ in keyed.most_similar(positive=[a, b], negative=[c], topn=K))
            for a, b, c in ANALOGIES
        )

    for case, ours, theirs in (
        (f"neighbours of {N_QUERIES} words among {len(words):,}", neighbours, their_neighbours),
        (f"{len(ANALOGIES)} analogies among {len(words):,}", analogies, their_analogies),
    ):
        yield compare(case, "gensim", ours, theirs, setting, same=lambda mine, other: float(mine != other), bar=1.0)


def evidence(words: probe.WordVectors, setting: Setting) -> Iterator[Measured]:
    """The whole evaluation of plurality on GloVe, and its profile through every layer of a GPT."""
    pairs = probe.load_pairs("plurality")

    def evaluation():
        return probe.evaluate_direction(probe.fit_direction(words, pairs.all), progress=False)

    def profile():
        return probe.layer_profile(setting.model, pairs.all[:120], templates=pairs.templates, progress=False)

    repeats = 1 if setting.quick else 2
    yield number(
        "plurality in GloVe: 1,000 permutations, 1,000 directions", (seconds(evaluation) for _ in range(repeats)),
        "s", bar=20.0,
    )  # fmt: skip
    yield number(
        "layer profile, 120 pairs, with the untrained twin", (seconds(profile) for _ in range(repeats)), "s", bar=60.0
    )
