"""What all views of directions share: some pairs in a space of words, and the widgets that ask for words."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import streamlit as st
from components.controls import Selection
from components.show import shown
from state.directions import Space, direction

import probe
from probe.errors import OutOfRange
from probe.methods.analogies import Measure

Kind = Literal["static", "embed", "unembed", "stream"]
MEASURES: dict[str, Measure] = {"raw dot product": "dot", "cosine": "cosine"}
LONGEST = 600
"""Characters of a list of words: near spellings of each that is missing are looked for, in 0.1 s."""
AT_ONCE = 5.0
"""Seconds: what is expected to take less is begun without being asked."""
LEAST_WIDTH = 640
"""Width in which the words of a picture keep apart (pixels)."""


@dataclass(frozen=True, eq=False)
class PairsInSpace:
    """What every view shows: some pairs in a space of words."""

    chosen: Selection
    kind: Kind
    given: probe.WordPairs
    """The pairs as they are written in the list."""

    @property
    def pairs(self) -> probe.WordPairs:
        """The pairs as this space writes them: GloVe has lower case only."""
        return self.given.lower() if self.kind == "static" else self.given

    @property
    def space(self) -> Space:
        """With no more than makes a difference, so that what was computed is found again."""
        if self.kind == "static":
            return Space("static")
        if self.kind != "stream":
            return Space(self.kind, self.chosen.model_name)
        return Space(
            "stream", self.chosen.model_name, self.chosen.layer, self.given.templates, self.chosen.document_start
        )

    @property
    def direction(self) -> probe.Direction:
        """What tells the two sides of the pairs apart."""
        return direction(self.space, self.pairs)

    def within(self, name: str) -> "PairsInSpace":
        """Another list in the same space."""
        return dataclasses.replace(self, given=probe.load_pairs(name))

    def read(self, text: str) -> list[str]:
        """The words of a text that have a vector here; those that have none are named."""
        given = re.split(r"[\s,]+", text.lower() if self.kind == "static" else text)
        words = list(dict.fromkeys(word for word in given if word))
        missing = self.space.words().missing(words)
        name_missing(missing)
        return [word for word in words if word not in missing]

    def code(self, *lines: str, n_tokens: int | None = None) -> str:
        """A script that opens the space and goes on with these lines; `n_tokens` as in `Selection.code`."""
        opened = {
            "static": "words = probe.load_word_vectors()",
            "embed": "words = probe.word_vectors(model, 'embed')",
            "unembed": "words = probe.word_vectors(model, 'unembed')",
            "stream": f"words = probe.words_in_context(model, {self.chosen.layer}, {list(self.given.templates)}, "
            "document_start=document_start)",
        }[self.kind]
        if self.kind == "static":  # no model is needed
            return "\n".join(["import probe", "", opened, *lines])
        return self.chosen.code(opened, *lines, n_tokens=n_tokens)

    @property
    def fit(self) -> list[str]:
        """Lines of code that fit the direction."""
        return [f"pairs = {self.pairs_in_code}", "direction = probe.fit_direction(words, pairs, on_missing='drop')"]

    @property
    def pairs_in_code(self) -> str:
        """The list by its name, or the pairs themselves."""
        if not self.given.held_out:
            return repr(list(self.pairs.fit))
        return f"probe.load_pairs({self.given.name!r})" + (".lower()" if self.kind == "static" else "")


def name_missing(missing: Mapping[str, str]) -> None:
    """Words without a vector; of a few also why, of many the words."""
    if 0 < len(missing) <= 3:
        st.warning("Left out: " + "; ".join(map(shown, missing.values())))
    elif missing:
        st.warning(f"Left out, as {len(missing)} words have no vector here: {', '.join(map(shown, missing))}")


def text_of(label: str, default: str, key: str) -> str:
    """What the reader writes in a line."""
    return st.text_input(label, default, key=key, bind="query-params", max_chars=LONGEST).strip()


def some(words: list[str]) -> list[str]:
    """At least one.

    Raises:
        OutOfRange: none.
    """
    if not words:
        raise OutOfRange("no words that have a vector in this space")
    return words
