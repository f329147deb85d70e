"""What the analyses of words share: where words have vectors, and how they are spelled there."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

import probe
from probe.figures.page import PageSection, Table
from probe.geometry import cosine
from probe.methods.layer_profile import LayerProfile

SHOWN = 10
"""About so many layers of a profile are shown; the table of the answer has all."""


@dataclass(frozen=True, eq=False)
class WordSource:
    """Word vectors, with a short name and a spelling."""

    name: str
    vectors: probe.WordVectors
    lower: bool
    """Whether all words are in lower case there."""

    def spell(self, word: str) -> str:
        """The word as it is written there."""
        return word.lower() if self.lower else word

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Those of a list that have vectors on both sides, the half for fitting first."""
        pairs = probe.load_pairs(name)
        return self.having((pairs.lower() if self.lower else pairs).all)

    def having(self, pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Those of the pairs that have vectors on both sides, spelled as they are there."""
        spelled = ((self.spell(first), self.spell(second)) for first, second in pairs)
        return tuple(pair for pair in spelled if pair[0] in self.vectors and pair[1] in self.vectors)

    def having_words(self, words: Iterable[str]) -> tuple[str, ...]:
        """Those of the words that have a vector, spelled as they are there."""
        return tuple(word for word in map(self.spell, words) if word in self.vectors)


def word_sources(model: probe.GPT) -> list[WordSource]:
    """GloVe, the model's embedding and its unembedding."""
    return [
        WordSource("GloVe", probe.load_word_vectors(), lower=True),
        WordSource("embedding", probe.word_vectors(model, "embed"), lower=False),
        WordSource("unembedding", probe.word_vectors(model, "unembed"), lower=False),
    ]


def sources_in_words(sources: list[WordSource], model: probe.GPT) -> str:
    """For the lead of an answer."""
    static, gpt = sources[0].vectors, sources[1].vectors
    return (
        f"Static vectors: {static.name}, {len(static):,} words in {static.d} dimensions, all in lower case. A GPT: "
        f"{model.name}, whose words are the {len(gpt):,} tokens that are a space and then letters only, in {gpt.d} "
        "dimensions; a word of several tokens has no vector of its own there, and is left out."
    )


def profile_section(profile: LayerProfile, heading: str) -> PageSection:
    """One contrast from embedding to unembedding, about ten layers of it."""
    rows = [
        (place.name, f"{place.n}", f"{place.auroc}", f"{place.accuracy.value:.3f}", f"{place.effect_size.value:.2f}",
         f"{place.p_adjusted:.4f}", "not asked" if place.twin is None else f"{place.twin.value:.3f}")
        for place in (profile.places[at] for at in shown_places(len(profile.places)))
    ]  # fmt: skip
    best = max(profile.places, key=lambda place: place.effect_size.value)
    words = (
        f"Words in sentences, read after each layer ({len(profile.pairs)} pairs, mean over the sentences), cross-"
        "validated: the chance that a word of the first kind stands above one of the second (AUROC, with its 95 % "
        "interval over pairs), the share of pairs the right way round, Cohen’s d, p against the best place of every "
        "permutation, and the AUROC in the untrained twin. In the embedding and the unembedding a word stands alone. "
        f"The largest Cohen’s d of all: {best.effect_size.value:.2f} at “{best.name}”."
    )
    columns = ("place", "pairs", "AUROC", "right way", "d", "p", "untrained")
    return PageSection(heading, "layer profile", [words], table=Table(columns, rows))


def shown_places(n: int) -> list[int]:
    """About ten of n places, the first two and the last two among them."""
    return sorted({*range(1, n - 1, max(1, (n - 2) // SHOWN)), 0, max(0, n - 2), n - 1})


def spearman(first: Float[Tensor, "... n"], second: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Correlation of the ranks of n values; none may occur twice.

    Source: Spearman, "The proof and measurement of association between two things" (1904).
    """
    return pearson(*(values.argsort(-1).argsort(-1).double() for values in (first, second)))


def pearson(first: Float[Tensor, "... n"], second: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Correlation of n values."""
    return cosine(*(values - values.mean(-1, keepdim=True) for values in (first, second)))
