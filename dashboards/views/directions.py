"""Directions: what tells two groups of words apart, as a direction in a space of words, and what lies along it."""

import re
from collections.abc import Callable

import streamlit as st
from components.controls import Selection
from components.show import shown

import probe
from probe.errors import OutOfRange
from views._evidence import differences, evidence, through_layers
from views._pairs import LONGEST, Kind, PairsInSpace
from views._steering import effect, steer
from views._word_views import analogies, near_words, three_axes, two_axes, words_along

SPACES: dict[str, Kind] = {
    "static vectors (GloVe)": "static",
    "what the model reads (embedding)": "embed",
    "what the model says (unembedding)": "unembed",
    "in sentences, after a layer (residual stream)": "stream",
}
FIRST_LIST, OWN = "plurality", "my own"
OWN_PAIRS = "cats cat\ndogs dog\nhouses house\ntrees tree\nbooks book\nrivers river"
OWN_TEMPLATES = ("The next word is {}", "I wrote down the word {}")
"""Sentences in which the words of one's own pairs are read."""


def page(chosen: Selection) -> None:
    """Which words, in which space; then one of the views."""
    st.header("What does a direction mean? (directions in word space)")
    columns = st.columns(2)
    kind = SPACES[
        columns[0].selectbox(
            "Which space", list(SPACES), key="space", bind="query-params",
            help="Every word is a list of numbers, a point. GloVe has one for each word, made from which words stand "
            "together; a GPT has them at its input, at its output, and after every layer (the layer of the sidebar).",
        )
    ]  # fmt: skip
    lists = [FIRST_LIST, *(name for name in probe.pair_lists() if name != FIRST_LIST), OWN]
    name = columns[1].selectbox(
        "Which pairs", lists, key="pairs", bind="query-params",
        help="Words that differ in one thing. What the pairs’ differences have in common is the direction.",
    )  # fmt: skip
    text = _own_text() if name == OWN else ""
    view = st.segmented_control("Show", list(VIEWS), default=EVIDENCE, key="show", bind="query-params") or EVIDENCE
    asked = PairsInSpace(chosen, kind, read_pairs(text) if name == OWN else probe.load_pairs(name))
    _say_what(asked)
    VIEWS[view](asked)


def _own_text() -> str:
    return st.text_area(
        "One pair in each line", OWN_PAIRS, key="own_pairs", bind="query-params", height=160, max_chars=2 * LONGEST,
        help="Two words, as in ‘cats cat’: the direction leads from the second words to the first ones. Four pairs or "
        "more can be tested; below six, chance cannot be told from meaning.",
    )  # fmt: skip


def read_pairs(text: str) -> probe.WordPairs:
    """A pair from each line, with a space, a comma, a slash or a dash between the words.

    Raises:
        OutOfRange: a line that is not two words, or no pairs.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    pairs = [tuple(word for word in re.split(r"[\s,/]+", line.strip()) if word not in {"", "-", "–"}) for line in lines]
    for line, pair in zip(lines, pairs, strict=True):
        if len(pair) != 2:
            raise OutOfRange(f"the line {line.strip()[:60]!r}: expected two words, as in 'cats cat'")
    if not pairs:
        raise OutOfRange("no pairs: write two words in each line, as in 'cats cat'")
    fit = tuple((first, second) for first, second in pairs)
    return probe.WordPairs("your pairs", "first", "second", "", fit, (), OWN_TEMPLATES)


def _say_what(asked: PairsInSpace) -> None:
    """Which pairs, and where they are read."""
    pairs, chosen = asked.given, asked.chosen
    first = " − ".join(map(shown, pairs.fit[0]))
    split = f"{len(pairs.fit)} pairs to fit on, {len(pairs.held_out)} to test on" if pairs.held_out else (
        f"{len(pairs.fit)} of your own pairs"
    )  # fmt: skip
    where = "" if asked.kind != "stream" else (
        f" Words are read in {len(pairs.templates)} sentences, such as ‘{shown(pairs.templates[0])}’, after layer "
        f"{chosen.layer} of {chosen.model.config.n_layers} (of the sidebar)."
    )  # fmt: skip
    st.caption(f"{shown(pairs.positive)} − {shown(pairs.negative)}, such as {first}: {split}.{where}")


EVIDENCE = "Evidence"
VIEWS: dict[str, Callable[[PairsInSpace], None]] = {
    EVIDENCE: evidence,
    "Differences": differences,
    "Words": words_along,
    "Neighbours": near_words,
    "Analogies": analogies,
    "Two axes": two_axes,
    "Three axes": three_axes,
    "Layers": through_layers,
    "Steering": steer,
    "Effect": effect,
}
