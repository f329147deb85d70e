"""Directions: words along one or several, the nearest words, analogies."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas
import streamlit as st
from components.show import figure, keep, shown, theme
from state.directions import analogy, neighbours
from streamlit.delta_generator import DeltaGenerator

import probe
from probe.figures.directions import word_bars
from probe.figures.word_space import two_directions, word_space_3d
from probe.geometry import cosine
from probe.methods.directions import Projections
from probe.results import Result
from views._pairs import LEAST_WIDTH, MEASURES, PairsInSpace, name_missing, some, text_of

NUMBERS = "zero one two three four five six seven eight nine"
PEOPLE = "king queen man woman uncle aunt prince princess father mother kings queens men women"
K = 10
"""Neighbours, and answers to an analogy."""


def words_along(asked: PairsInSpace) -> None:
    """Any words along the direction, the lowest first."""
    columns = st.columns([3, 2], vertical_alignment="bottom")
    with columns[0]:
        words = asked.read(text_of("Words", NUMBERS, "words"))
    measure = MEASURES[columns[1].selectbox("Measured by", list(MEASURES), key="measure", bind="query-params")]
    found = asked.direction.project(some(words))
    values = found.dot if measure == "dot" else found.cosine
    order = values.argsort().tolist()
    st.markdown("In order: **" + ", ".join(shown(found.words[place]) for place in order) + "**")
    figure(word_bars(found, measure=measure, theme=theme()), key="word-bars")
    outside = int((values.abs() > (found.chance_dot if measure == "dot" else found.chance_cosine)).sum())
    keep(
        found,
        asked.code(*asked.fit, f"found = direction.project({list(found.words)})", "print(found.to_dataframe())"),
        name="words", heading="Words along the direction",
        caption="Raw dot product: with the mean difference of the pairs as it is; longer vectors reach further. "
        f"Cosine: of the angle alone. {outside} of {len(order)} words are further out than 95 % of random directions "
        "would put them. Words of the pairs are drawn apart by the fit itself.",
        draw=[lambda theme: word_bars(found, measure=measure, theme=theme)],
    )  # fmt: skip


def near_words(asked: PairsInSpace) -> None:
    """The nearest words to each."""
    if not _has_vocabulary(asked):
        return
    columns = st.columns([3, 2], vertical_alignment="bottom")
    with columns[0]:
        words = asked.read(text_of("Words", "tower cat", "near"))
    measure = MEASURES[
        columns[1].selectbox("Measured by", list(MEASURES)[::-1], key="near_measure", bind="query-params")
    ]
    found = neighbours(asked.space, tuple(some(words)), measure, K)
    for query, column in zip(found.queries, _columns(len(found.queries)), strict=True):
        table = found.to_dataframe()
        column.markdown(f"**{shown(query)}**")
        column.dataframe(table[table["query"] == query][["word", measure]], hide_index=True)
    keep(
        found,
        asked.code(
            f"found = probe.nearest_neighbours(words, {list(found.queries)}, k={K}, measure={measure!r})",
            "print(found.to_dataframe().to_string())",
        ),
        name="neighbours", heading="The nearest words",
        caption=f"Compared with all {len(asked.space.vocabulary()):,} words of this space; a word is not its own "
        "neighbour. By the raw dot product, words with long vectors are near to everything.",
    )  # fmt: skip


def analogies(asked: PairsInSpace) -> None:
    """King - man + woman."""
    if not _has_vocabulary(asked):
        return
    columns = st.columns(3)
    with columns[0]:
        plus = asked.read(text_of("Add these words", "king woman", "plus"))
    with columns[1]:
        minus = asked.read(text_of("Take these away", "man", "minus"))
    with columns[2]:
        expected = asked.read(text_of("Where does this word come?", "queen", "expected"))
    kept = st.toggle(
        "The words of the question may be answers (inputs kept)", key="inputs_kept", bind="query-params",
        help="They usually are the nearest ones; leaving them out is the custom, and makes analogies look better.",
    )  # fmt: skip
    answer = next(iter(expected), None)
    if len(expected) > 1:
        st.info(f"One word at a time: this is of ‘{shown(answer)}’.")
    if answer in {*plus, *minus} and not kept:
        st.info(f"‘{shown(answer)}’ is a word of the question; it can be an answer only if inputs are kept.")
        answer = None
    found = analogy(asked.space, tuple(some(plus)), tuple(minus), kept, K, answer)
    first = f"**{shown(found.question)}** is nearest to **{shown(found.words[0])}**"
    rank = "" if answer is None else f"; ‘{shown(answer)}’ comes {place_of(found.rank)} of {found.n_candidates:,} words"
    st.markdown(f"{first}, with its own words {'kept' if kept else 'dropped'}{rank}.")
    st.dataframe(found.to_dataframe()[["rank", "word", "score"]], hide_index=True)
    keep(
        found,
        asked.code(
            f"found = probe.solve_analogy(words, {plus}, {minus}, keep_inputs={kept}, k={K}, expected={answer!r})",
            "print(found.rank)", "print(found.to_dataframe().to_string())",
        ),
        name="analogy", heading="An analogy",
        caption="Every word counts at length one; the score is the cosine with their sum (3CosAdd). That a word is "
        "nearest does not say that it is near: look at the score, and at the next words.",
    )  # fmt: skip


def place_of(rank: int | None) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(rank or 0, f"at {rank or 0:,}")


@dataclass(frozen=True, eq=False)
class Slice(Result):
    """Where words stand along several directions of one space."""

    axes: tuple[Projections, ...]
    manifest: Mapping[str, Any]

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per word, one column per direction (units of the vectors)."""
        along = {f"along {axis.direction}": axis.along.tolist() for axis in self.axes}
        return pandas.DataFrame({"word": self.axes[0].words, **along})


def two_axes(asked: PairsInSpace) -> None:
    """Words between two directions."""
    _slice(
        asked,
        [("The other axis", "gender")],
        lambda axes, words, theme: two_directions(axes[0], axes[1], words, theme=theme),
    )


def three_axes(asked: PairsInSpace) -> None:
    """Words along three directions."""
    _slice(
        asked, [("The second axis", "gender"), ("The third axis", "size")],
        lambda axes, words, theme: word_space_3d(axes[0].source, words, axes, theme=theme),
    )  # fmt: skip


def _slice(asked: PairsInSpace, others: list[tuple[str, str]], draw: Callable[..., Any]) -> None:
    """Words along this direction and others."""
    columns = st.columns([3, *(2 for _ in others)])
    with columns[0]:
        words = some(asked.read(text_of("Words", PEOPLE, "slice_words")))
    lists = list(probe.pair_lists())
    names = [
        column.selectbox(label, lists, lists.index(first), key=f"axis_{number}", bind="query-params")
        for number, ((label, first), column) in enumerate(zip(others, columns[1:], strict=True), start=2)
    ]
    every = [asked, *(asked.within(name) for name in names)]
    axes = tuple(one.direction for one in every)
    name_missing({word: why for axis in axes for word, why in axis.pairs.dropped.items()})
    found = Slice(
        tuple(axis.project(words, source=axes[0].source) for axis in axes),
        {**axes[0].manifest, "words": words, "axes": [dict(axis.manifest["method_arguments"]) for axis in axes]},
    )
    figure(draw(axes, words, theme()), key="slice", least_width=LEAST_WIDTH)
    angles = ", ".join(
        f"{shown(first.name)} and {shown(second.name)} {float(cosine(first.vector, second.vector)):+.3f}"
        for place, first in enumerate(axes) for second in axes[place + 1 :]
    )  # fmt: skip
    fitted = [
        f"axis_{number} = probe.fit_direction(words, {one.pairs_in_code}, on_missing='drop')"
        for number, one in enumerate(every, start=1)
    ]
    along = ", ".join(f"axis_{number}.project(names, source=words).along" for number in range(1, len(every) + 1))
    keep(
        found, asked.code(*fitted, f"names = {words}", f"for row in zip(names, {along}):", "    print(*row)"),
        name="slice", heading="Words along several directions",
        caption=f"A slice of {len(axes[0].vector):,} dimensions: words that are near here may be far apart elsewhere. "
        f"The axes are drawn at right angles; their cosines are: {angles}.",
        draw=[lambda theme: draw(axes, words, theme)],
    )  # fmt: skip


def _has_vocabulary(asked: PairsInSpace) -> bool:
    if asked.kind == "stream":
        st.info("Inside a model words are read in sentences, so there is no list of all words to search: take the "
                "embedding, the unembedding or GloVe.")  # fmt: skip
    return asked.kind != "stream"


def _columns(n: int) -> Iterable[DeltaGenerator]:
    """n columns, at most four beside one another."""
    for begin in range(0, n, 4):
        yield from st.columns(min(4, n))[: n - begin]
