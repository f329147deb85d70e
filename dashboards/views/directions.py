"""Directions: what tells two groups of words apart, as a direction in a space of words, and what lies along it."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas
import streamlit as st
from components.controls import Selection
from components.show import figure, keep, shown, theme
from state import (
    Push,
    Space,
    analogy,
    direction,
    evaluation,
    neighbours,
    profile,
    profile_seconds,
    steered,
    steered_logits,
)  # fmt: skip
from streamlit.delta_generator import DeltaGenerator

import probe
from probe.errors import OutOfRange
from probe.figures.directions import (
    layer_profile_lines,
    pair_differences,
    permutation_histogram,
    projection_strip,
    word_bars,
)  # fmt: skip
from probe.figures.distribution import next_token_change
from probe.figures.word_space import pair_arrows, two_directions, word_space_3d
from probe.geometry import cosine
from probe.methods.analogies import Measure
from probe.methods.directions import Projections
from probe.methods.distribution import same_next_tokens
from probe.prompts import read_prompts
from probe.results import Result

Kind = Literal["static", "embed", "unembed", "stream"]
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
NUMBERS = "zero one two three four five six seven eight nine"
PEOPLE = "king queen man woman uncle aunt prince princess father mother kings queens men women"
SENTENCE = "The cookie"
"""After it, one can see whether the model goes on in the plural."""
MEASURES: dict[str, Measure] = {"raw dot product": "dot", "cosine": "cosine"}
K = 10
"""Neighbours, and answers to an analogy."""
LONGEST = 600
"""Characters of a list of words: near spellings of each that is missing are looked for, in 0.1 s."""
AT_ONCE = 5.0
"""Seconds: what is expected to take less is begun without being asked."""
LEAST = 640
"""Width in which the words of a picture keep apart (pixels)."""
STEERED, LISTED = 24, 10
"""New tokens of a steered text; tokens of each distribution."""


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
    asked = Asked(chosen, kind, read_pairs(text) if name == OWN else probe.load_pairs(name))
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


@dataclass(frozen=True, eq=False)
class Asked:
    """What every view shows: some pairs in a space of words."""

    chosen: Selection
    kind: Kind
    given: probe.WordPairs
    """As they are written in the list."""

    @property
    def pairs(self) -> probe.WordPairs:
        """As this space writes them: GloVe has lower case only."""
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

    def within(self, name: str) -> "Asked":
        """Another list in the same space."""
        return dataclasses.replace(self, given=probe.load_pairs(name))

    def read(self, text: str) -> list[str]:
        """The words of a text that have a vector here; those that have none are named."""
        given = re.split(r"[\s,]+", text.lower() if self.kind == "static" else text)
        words = list(dict.fromkeys(word for word in given if word))
        missing = self.space.words().missing(words)
        _name_missing(missing)
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


def _say_what(asked: Asked) -> None:
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
    if chosen.taken_out:
        st.caption("Words are read with the whole model; heads that are taken out count in steered texts only.")


def _name_missing(missing: Mapping[str, str]) -> None:
    """Words without a vector; of a few also why, of many the words."""
    if 0 < len(missing) <= 3:
        st.warning("Left out: " + "; ".join(map(shown, missing.values())))
    elif missing:
        st.warning(f"Left out, as {len(missing)} words have no vector here: {', '.join(map(shown, missing))}")


def _evidence(asked: Asked) -> None:
    """Where the pairs stand, whether chance could do it, each pair."""
    found = evaluation(asked.space, asked.pairs)
    _name_missing({**asked.direction.pairs.dropped, **found.dropped})
    draw = [projection_strip, permutation_histogram, pair_differences]
    for number, one in enumerate(draw):
        figure(one(found, theme=theme()), key=f"evidence-{number}")
    with st.expander("The evidence in sentences"):
        st.markdown("\n".join(f"* {shown(line)}" for line in found.report()))
    held_out = "pairs, " if asked.given.held_out else ""
    keep(
        found,
        asked.code(
            *asked.fit,
            f"found = probe.evaluate_direction(direction, {held_out}twin=False, on_missing='drop')",
            "print('\\n'.join(found.report()))", "print(found.to_dataframe().to_string())",
        ),
        name="evidence", heading="Is it a direction?",
        caption=f"Scores are out of sample: {shown(found.how)}. A score says how far along the direction a word lies, "
        f"not what the model does with it. n = {len(found.words)} pairs, seed 0.",
        draw=[lambda theme, one=one: one(found, theme=theme) for one in draw],
    )  # fmt: skip


def _differences(asked: Asked) -> None:
    """An arrow for each pair."""
    found = asked.direction
    _name_missing(found.pairs.dropped)
    figure(pair_arrows(found, theme=theme()), key="arrows", least_width=LEAST)
    keep(
        found, asked.code(*asked.fit, "print(direction.to_dataframe().to_string())"), name="differences",
        heading="Every pair’s difference",
        caption="If the pairs share one direction, their arrows are parallel and of one length. The picture shows two "
        f"of {len(found.vector):,} dimensions; these are the very pairs of the fit, so they look better than others.",
        draw=[lambda theme: pair_arrows(found, theme=theme)],
    )  # fmt: skip


def _words(asked: Asked) -> None:
    """Any words along the direction, the lowest first."""
    columns = st.columns([3, 2], vertical_alignment="bottom")
    with columns[0]:
        words = asked.read(_text("Words", NUMBERS, "words"))
    measure = MEASURES[columns[1].selectbox("Measured by", list(MEASURES), key="measure", bind="query-params")]
    found = asked.direction.project(_some(words))
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


def _neighbours(asked: Asked) -> None:
    """The nearest words to each."""
    if not _has_vocabulary(asked):
        return
    columns = st.columns([3, 2], vertical_alignment="bottom")
    with columns[0]:
        words = asked.read(_text("Words", "tower cat", "near"))
    measure = MEASURES[
        columns[1].selectbox("Measured by", list(MEASURES)[::-1], key="near_measure", bind="query-params")
    ]
    found = neighbours(asked.space, tuple(_some(words)), measure, K)
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


def _analogies(asked: Asked) -> None:
    """King - man + woman."""
    if not _has_vocabulary(asked):
        return
    columns = st.columns(3)
    with columns[0]:
        plus = asked.read(_text("Add these words", "king woman", "plus"))
    with columns[1]:
        minus = asked.read(_text("Take these away", "man", "minus"))
    with columns[2]:
        expected = asked.read(_text("Where does this word come?", "queen", "expected"))
    kept = st.toggle(
        "The words of the question may be answers (inputs kept)", key="inputs_kept", bind="query-params",
        help="They usually are the nearest ones; leaving them out is the custom, and makes analogies look better.",
    )  # fmt: skip
    answer = next((word for word in expected if kept or word not in {*plus, *minus}), None)
    found = analogy(asked.space, tuple(_some(plus)), tuple(minus), kept, K, answer)
    first = f"**{shown(found.question)}** is nearest to **{shown(found.words[0])}**"
    rank = "" if answer is None else f"; ‘{shown(answer)}’ comes {_place(found.rank)} of {found.n_candidates:,} words"
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


def _place(rank: int | None) -> str:
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


def _two(asked: Asked) -> None:
    """Words between two directions."""
    _slice(
        asked,
        [("The other axis", "gender")],
        lambda axes, words, theme: two_directions(axes[0], axes[1], words, theme=theme),
    )


def _three(asked: Asked) -> None:
    """Words along three directions."""
    _slice(
        asked, [("The second axis", "gender"), ("The third axis", "size")],
        lambda axes, words, theme: word_space_3d(axes[0].source, words, axes, theme=theme),
    )  # fmt: skip


def _slice(asked: Asked, others: list[tuple[str, str]], draw: Callable[..., Any]) -> None:
    """Words along this direction and others."""
    columns = st.columns([3, *(2 for _ in others)])
    with columns[0]:
        words = _some(asked.read(_text("Words", PEOPLE, "slice_words")))
    lists = list(probe.pair_lists())
    names = [
        column.selectbox(label, lists, lists.index(first), key=f"axis_{number}", bind="query-params")
        for number, ((label, first), column) in enumerate(zip(others, columns[1:], strict=True), start=2)
    ]
    every = [asked, *(asked.within(name) for name in names)]
    axes = tuple(one.direction for one in every)
    _name_missing({word: why for axis in axes for word, why in axis.pairs.dropped.items()})
    found = Slice(
        tuple(axis.project(words, source=axes[0].source) for axis in axes),
        {**axes[0].manifest, "words": words, "axes": [dict(axis.manifest["method_arguments"]) for axis in axes]},
    )
    figure(draw(axes, words, theme()), key="slice", least_width=LEAST)
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


def _layers(asked: Asked) -> None:
    """The whole way from the embedding to the unembedding."""
    chosen, pairs = asked.chosen, asked.given
    wanted = (chosen.model_name, pairs, chosen.document_start)
    seconds = profile_seconds(chosen.model_name, pairs)
    n_texts = 2 * len(pairs.all) * len(pairs.templates)
    st.caption(
        f"All {len(pairs.all)} pairs in {len(pairs.templates)} sentences: {n_texts:,} short texts through all "
        f"{chosen.model.config.n_layers} layers, once with this model and once with its untrained twin, and 1,000 fits "
        f"with swapped pairs at every layer. About {seconds:,.0f} s."
    )
    if seconds > AT_ONCE and st.session_state.get("profile_of") != wanted:
        st.button("Begin", key="begin_profile", on_click=lambda: st.session_state.update(profile_of=wanted))
        return
    found = profile(*wanted)
    figure(layer_profile_lines(found, theme=theme()), key="profile")
    keep(
        found,
        chosen.code(
            f"pairs = {dataclasses.replace(asked, kind='stream').pairs_in_code}",
            f"found = probe.layer_profile(model, pairs, templates={list(pairs.templates)}, "
            "document_start=document_start, on_missing='drop')",
            "print(found.to_dataframe().to_string())",
        ),
        name="profile", heading="Through the layers",
        caption=f"Cross-validated over {len(found.pairs)} pairs, seed 0; p is against the best place of every "
        "permutation. That a layer tells the words apart does not say that the model uses it: steer, to see that.",
        draw=[lambda theme: layer_profile_lines(found, theme=theme)],
    )  # fmt: skip


def _steer(asked: Asked) -> None:
    """A text as it is, pushed along the direction, and pushed as far in a random one."""
    chosen = asked.chosen
    asked = dataclasses.replace(asked, kind="stream")
    st.caption(
        f"Added after layer {chosen.layer} of {chosen.model.config.n_layers} (the sidebar’s), at every token but the "
        "first. The direction is that of the pairs in sentences, read after the same layer, whatever space is chosen."
    )
    columns = st.columns([3, 2], vertical_alignment="bottom")
    with columns[0]:
        text = _text("A sentence to go on with", SENTENCE, "sentence")
    strength = columns[1].slider(
        f"How far towards ‘{shown(asked.given.positive)}’", -3.0, 3.0, 1.0, 0.25, key="strength", bind="query-params",
        help="In distances between the two sides of the pairs: 1 is as far as from one to the other, 0 changes "
        "nothing, below 0 leads the other way.",
    )  # fmt: skip
    ids = read_prompts(
        chosen.model.config, chosen.model.tokenizer, [text], document_start=chosen.document_start
    ).ids[0]  # fmt: skip
    pushes = {
        "as it is": Push(asked.space, asked.pairs, 0.0),
        f"{strength:+g} along the direction": Push(asked.space, asked.pairs, strength),
        "as far, in a random direction": Push(asked.space, asked.pairs, strength, random=True),
    }
    made = {name: steered(push, ids, chosen.taken_out, STEERED) for name, push in pushes.items()}
    for (name, one), column in zip(made.items(), st.columns(3), strict=True):
        column.markdown(f"**{shown(name)}**")
        column.code(text + one.text, language=None, wrap_lines=True)
    before, after, _ = (steered_logits(push, ids, chosen.taken_out) for push in pushes.values())
    runs = same_next_tokens(chosen.model, [before, after], top=LISTED)
    figure(next_token_change(*runs, theme=theme()), key="steered")
    n_run = min(len(ids) + STEERED, chosen.model.config.n_ctx) - 1
    keep(
        made[list(made)[1]],
        asked.code(
            *asked.fit, f"push = {strength} * direction.gap * direction.vector.float()",
            f"steering = probe.add('resid_post', push, layer={chosen.layer}, positions=range(1, {n_run}))",
            f"made = probe.generate(model, {text!r}, document_start=document_start, max_tokens={STEERED}, "
            f"temperature=0, interventions=[{'*taken_out, ' if chosen.taken_out else ''}steering])",
            "for step in made:", "    print(repr(step.text), step.model_probability, step.rank)", n_tokens=n_run,
        ),
        name="steered", heading="A steered text",
        caption="The likeliest token at every step (temperature 0). If a random push of the same length changes the "
        "text as much, it is the length that did it. One sentence is an example, no evidence: probe.dose_curve is.",
        draw=[lambda theme: next_token_change(*runs, theme=theme)],
    )  # fmt: skip


EVIDENCE = "Evidence"
VIEWS: dict[str, Callable[[Asked], None]] = {
    EVIDENCE: _evidence,
    "Differences": _differences,
    "Words": _words,
    "Neighbours": _neighbours,
    "Analogies": _analogies,
    "Two axes": _two,
    "Three axes": _three,
    "Layers": _layers,
    "Steering": _steer,
}


def _text(label: str, default: str, key: str) -> str:
    return st.text_input(label, default, key=key, bind="query-params", max_chars=LONGEST).strip()


def _some(words: list[str]) -> list[str]:
    """At least one.

    Raises:
        OutOfRange: none.
    """
    if not words:
        raise OutOfRange("no words that have a vector in this space")
    return words


def _has_vocabulary(asked: Asked) -> bool:
    if asked.kind == "stream":
        st.info("Inside a model words are read in sentences, so there is no list of all words to search: take the "
                "embedding, the unembedding or GloVe.")  # fmt: skip
    return asked.kind != "stream"


def _columns(n: int) -> Iterable[DeltaGenerator]:
    """As many columns, at most four beside one another."""
    for begin in range(0, n, 4):
        yield from st.columns(min(4, n))[: n - begin]
