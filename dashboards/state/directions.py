"""Directions in a space of words: what is asked of one space, and what its words say."""

from dataclasses import dataclass
from typing import Literal

import streamlit as st

import probe
from probe.methods._direction import Source
from probe.methods.analogies import Analogy, Measure, Neighbours
from probe.plan import flops_per_second
from state.models import load_model

FITTING = 0.001
"""Seconds for each pair and layer: what a thousand fits with swapped pairs take (measured, 180 pairs, one core)."""


@dataclass(frozen=True)
class Space:
    """Where words get their vectors."""

    kind: Literal["static", "embed", "unembed", "stream"]
    """Static vectors, or of a model: the embedding, the unembedding, the residual stream after a layer."""
    name: str = ""
    """Of the model. Static vectors have none, so that they serve every model."""
    layer: int = 0
    templates: tuple[str, ...] = ()
    document_start: bool = False
    """These three are of the stream alone: there, words are read in sentences."""

    def words(self) -> Source:
        """The vectors.

        Raises:
            ProbeError: they cannot be fetched; the model has no words; sentences that it cannot read.
        """
        if self.kind != "stream":
            return self.vocabulary()
        model = load_model(self.name)
        return probe.words_in_context(model, self.layer, self.templates, document_start=self.document_start)

    def vocabulary(self) -> probe.WordVectors:
        """The vectors of all words that there are; of the stream, which reads any word, there is no such list."""
        assert self.kind != "stream", "only static vectors and a model's own matrices are a list of words"
        return static_words() if self.kind == "static" else own_words(self.name, self.kind)


@st.cache_resource(max_entries=1, show_spinner="Loading GloVe")
def static_words() -> probe.WordVectors:
    """GloVe."""
    return probe.load_word_vectors(progress=False)


@st.cache_resource(max_entries=2, show_spinner="Reading the model's words")
def own_words(name: str, which: Literal["embed", "unembed"]) -> probe.WordVectors:
    """A model's words as vectors: as long as the vocabulary, so that few are kept."""
    return probe.word_vectors(load_model(name), which)


@st.cache_resource(max_entries=32, show_spinner="Reading the words of the pairs")
def direction(space: Space, pairs: probe.WordPairs) -> probe.Direction:
    """What tells the two sides of the pairs apart; of a list, of its half for fitting."""
    return probe.fit_direction(space.words(), _named(pairs), on_missing="drop")


@st.cache_resource(max_entries=16, show_spinner="Testing the direction on words that it was not fitted on")
def evaluation(space: Space, pairs: probe.WordPairs, twin: bool = False) -> probe.Evaluation:
    """What the direction is worth: on the held-out half of a list; the reader's own pairs are cross-validated.

    `twin`: in the model's untrained twin too.
    """
    return probe.evaluate_direction(
        direction(space, pairs), pairs if pairs.held_out else None, twin=twin, on_missing="drop", progress=False
    )


def _named(pairs: probe.WordPairs) -> probe.WordPairs | tuple[tuple[str, str], ...]:
    """A list with its name; pairs of the reader's own, which are not split, as they are."""
    return pairs if pairs.held_out else pairs.fit


@st.cache_resource(max_entries=32, show_spinner="Searching all words")
def neighbours(space: Space, words: tuple[str, ...], measure: Measure, k: int) -> Neighbours:
    """The nearest words to each."""
    return probe.nearest_neighbours(space.vocabulary(), words, k=k, measure=measure)


@st.cache_resource(max_entries=32, show_spinner="Searching all words")
def analogy(
    space: Space, plus: tuple[str, ...], minus: tuple[str, ...], keep_inputs: bool, k: int, expected: str | None
) -> Analogy:
    """The words nearest to a sum of words."""
    return probe.solve_analogy(
        space.vocabulary(), plus, minus, keep_inputs=keep_inputs, k=k, expected=expected
    )  # fmt: skip


@st.cache_resource(max_entries=16, show_spinner=False)
def profile_seconds(name: str, pairs: probe.WordPairs) -> float:
    """What `profile` is expected to take, from the best of a few speeds just now: others may use the machine too."""
    model = load_model(name)
    speed = max(flops_per_second(model, 256) for _ in range(5))
    n_tokens = 2 * 2 * 2 * len(pairs.all) * len(pairs.templates)  # two sides, a twin; a word and what stands before it
    reading = 2 * n_tokens * probe.count_weights(model.config).multiplications / speed
    return reading + FITTING * model.config.n_layers * len(pairs.all)


@st.cache_resource(max_entries=4, show_spinner="Reading the pairs in every layer, and in the untrained twin")
def profile(name: str, pairs: probe.WordPairs, document_start: bool) -> probe.LayerProfile:
    """How well the pairs are told apart from the embedding to the unembedding."""
    return probe.layer_profile(
        load_model(name), _named(pairs), templates=pairs.templates, document_start=document_start, on_missing="drop",
        progress=False,
    )  # fmt: skip
