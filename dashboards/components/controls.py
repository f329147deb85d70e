"""The one selection that all pages show: model, prompt, layer, head, query, key, heads taken out.

Ordinary widgets, kept in the URL. A link with these parameters opens the same view; what a link asks for and the model
does not have falls back to the default. Components write to the widgets' state in callbacks, never beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np
import streamlit as st
from components.show import shown
from state.heads import overview
from state.models import TakenOut, edits, load_model, model_names

import probe
from probe.catalogue import DEFAULT_MODEL
from probe.prompts import read_prompts, str_tokens
from probe.tokens import show_token

PROMPT = "When Mary and John went to the store, John gave a drink to"
LONGEST_LINK = 2000
"""Characters of a prompt that a link carries."""
TELLING = 0.3
"""Attention, on average, with which a head shows what it does."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What is looked at."""

    model_name: str
    """The model's name, as `load_model` of `state.models` takes it."""
    model: probe.GPT
    prompt: str
    document_start: bool
    ids: tuple[int, ...]
    """Token ids, document start included."""
    str_tokens: list[str]
    layer: int
    head: int
    query: int
    key: int
    taken_out: TakenOut
    """Heads and MLPs that write nothing, in all that the page shows."""

    def edits(self, n_tokens: int | None = None) -> list[probe.Intervention]:
        """What takes these out, of a text of so many tokens; None: of the prompt."""
        return edits(self.taken_out, len(self.ids) if n_tokens is None else n_tokens)

    def code(self, *lines: str, n_tokens: int | None = None) -> str:
        """A script that loads the model, names the prompt and what is taken out, and goes on with these lines."""
        model = "" if self.model_name == DEFAULT_MODEL else repr(self.model_name)
        places = f"range(1, {len(self.ids) if n_tokens is None else n_tokens})"
        without = [
            f"    probe.zero({one.site!r}, layer={one.where['layer']}, "
            + (f"heads={one.where['heads']}, " if "heads" in one.where else "")
            + f"positions={places}),"
            for one in self.edits(n_tokens)
        ]
        return "\n".join(
            ["import probe", "", f"model = probe.load_model({model})", f"prompt = {self.prompt!r}",
             f"document_start = {self.document_start}", *(["taken_out = [", *without, "]"] if without else []), *lines]
        )  # fmt: skip

    def link(self, page: str, **opens: str) -> str:
        """To another page with the same selection, and these widgets of its own set."""
        text = {"prompt": self.prompt} if len(self.prompt) <= LONGEST_LINK else {}
        places = {"layer": self.layer, "head": self.head, "query": self.query, "key": self.key}
        start, out = str(self.document_start).lower(), list(map(part_name, self.taken_out))
        same = {"model": self.model_name, **text, "start": start, **places, "taken_out": out}
        return address(page, {**same, **opens})

    @property
    def without(self) -> str:
        """For code: the argument that takes parts out, where there are any."""
        return ", interventions=taken_out" if self.edits() else ""


def choose() -> Selection:
    """Draw the widgets in the sidebar and read them.

    Raises:
        ProbeError: a model that cannot be loaded, a text that it cannot read.
    """
    with st.sidebar:
        name = st.selectbox("Model", model_names(), key="model", bind="query-params")
        prompt = st.text_area(
            "Text to look at (prompt)", PROMPT, key="prompt", bind="query-params", persist_state="session", height=120,
            help="The model reads it as tokens, from left to right, and predicts what follows.",
        )  # fmt: skip
    model = load_model(name)
    has_start = model.tokenizer is not None and model.tokenizer.document_start_id is not None
    with st.sidebar:
        start = st.toggle(
            "Begin with the document start", has_start, key="start", bind="query-params", disabled=not has_start,
            help="A token that stood between documents in training. Heads that have nothing to do rest on the "
            "first token, so it is better to have one that says nothing.",
        )  # fmt: skip
    ids = read_prompts(model.config, model.tokenizer, [prompt], document_start=start and has_start).ids[0]
    texts = list(str_tokens(model.tokenizer, ids))
    if len(prompt) > LONGEST_LINK:
        st.sidebar.caption(f"Links carry up to {LONGEST_LINK:,} characters of text; a session file carries more.")
    somewhere = _somewhere(name, ids)
    with st.sidebar:
        columns = st.columns(2)
        with columns[0]:
            layer = _number("Layer", "layer", model.config.n_layers, somewhere[0])
        with columns[1]:
            head = _number("Head", "head", model.config.n_heads, somewhere[1])
        query = _place("From (query)", "query", texts, len(texts) - 1)
        key = _place("To (key)", "key", texts, 0)
        taken_out = _taken_out(model)
    return Selection(name, model, prompt, start and has_start, ids, texts, layer, head, query, key, taken_out)


OF_WHOLE_MODEL = {
    "ablation": "what comes next is shown with and without them; below, each part is taken out of the whole model.",
    "directions": "words are read with the whole model; in texts that are steered these parts are silenced.",
    "introduction": "this page is about the whole model; they play no part here.",
    "tokens": "this page is about the whole model; they play no part here.",
}
"""Pages whose numbers are not, or not all, of the model without the parts that are taken out."""


def say_taken_out(chosen: Selection, page: str) -> None:
    """What the parts that are taken out mean for the numbers of a page."""
    if chosen.taken_out:
        names = ", ".join(map(part_name, chosen.taken_out))
        silenced = "every number on this page is of the model with these parts silenced (ablated)."
        st.info(f"Without {names}: {OF_WHOLE_MODEL.get(page, silenced)}")


def address(page: str, parameters: Mapping[str, object]) -> str:
    """Address of a page by its name, with its widgets set; the first page has no name in the URL."""
    return f"/{'' if page == 'heads' else page}?{urlencode(parameters, doseq=True)}"


def set_head(layer: int, head: int) -> None:
    """For callbacks: choose a head as if by the widgets."""
    st.session_state["layer"], st.session_state["head"] = layer, head
    st.session_state["not_found"] = ""


def switch_head(layer: int, head: int) -> None:
    """For callbacks: take a head out, or put it back."""
    switch_parts([(layer, head)])


def switch_parts(parts: Sequence[tuple[int, int | None]]) -> None:
    """For callbacks: take heads and MLPs out together, or put them back where all of them are out."""
    taken_out, names = list(st.session_state.get("taken_out", [])), [part_name(part) for part in parts]
    rest = [name for name in taken_out if name not in names]
    st.session_state["taken_out"] = rest if set(names) <= set(taken_out) else [*rest, *names]


def set_place(place: int, second: bool) -> None:
    """For callbacks: choose where to look from, or with `second` where to."""
    st.session_state["key" if second else "query"] = place


def part_name(part: tuple[int, int | None]) -> str:
    """'L9H6', or 'L9 MLP'."""
    layer, head = part
    return f"L{layer} MLP" if head is None else f"L{layer}H{head}"


def _somewhere(name: str, ids: tuple[int, ...]) -> tuple[int, int]:
    """The layer and head where nobody has chosen one: of a head that has something to show."""
    said = [st.session_state.get(key) is not None or key in st.query_params for key in ("layer", "head")]
    return (0, 0) if all(said) else _telling_head(name, ids)


def _telling_head(name: str, ids: tuple[int, ...]) -> tuple[int, int]:
    """(layer, head) of one that looks back at repeated words, or else at the word before; 0.0 of very short texts.

    Induction comes second: a head that rests on one token scores there too, where that token follows a repeated one.
    """
    scores = overview(name, ids).scores
    for score in ("duplicate token", "induction", "previous token"):
        if score in scores and scores[score].max() > TELLING:
            layer, head = np.unravel_index(scores[score].argmax(), scores[score].shape)
            return int(layer), int(head)
    return 0, 0


def _taken_out(model: probe.GPT) -> TakenOut:
    layers, heads = (
        range(model.config.n_layers),
        [*range(model.config.n_heads), *([None] if model.config.d_mlp else [])],
    )
    parts = {part_name((layer, head)): (layer, head) for layer in layers for head in heads}
    if not set(st.session_state.get("taken_out", [])) <= set(parts):  # of a larger model
        st.session_state["taken_out"] = [one for one in st.session_state["taken_out"] if one in parts]
    found = st.multiselect(
        "Taken out (ablated)", list(parts), key="taken_out", bind="query-params", placeholder="none",
        help="These heads and MLPs write nothing, but at the first token: see what the model says without them. In the "
        "grid of heads: shift+click.",
    )  # fmt: skip
    return tuple(parts[name] for name in parts if name in found)


def _number(label: str, key: str, n: int, default: int) -> int:
    """Empty stands for the default, so that a link always says what was chosen."""
    if not 0 <= (st.session_state.get(key) or 0) < n:  # the number came from a larger model
        st.session_state[key] = n - 1
    found = st.number_input(
        label, 0, n - 1, value=None, step=1, key=key, bind="query-params", placeholder=str(default)
    )  # fmt: skip
    return default if found is None else int(found)


def _place(label: str, key: str, texts: list[str], default: int) -> int:
    """A position of the prompt, with its token below."""
    if not 0 <= (st.session_state.get(key) or 0) < len(texts):  # of a longer text
        st.session_state[key] = None
    found = st.number_input(
        label, 0, len(texts) - 1, value=None, step=1, key=key, bind="query-params", placeholder=str(default),
        help="A token, counted from 0. On the pages: click it, or shift+click for the key.",
    )  # fmt: skip
    place = default if found is None else int(found)
    st.caption(f"‘{shown(show_token(texts[place]))}’")
    return place
