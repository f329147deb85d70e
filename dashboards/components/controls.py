"""The one selection that all pages show: model, prompt, layer, head, query, key. Ordinary widgets, kept in the URL.

A link with these parameters opens the same view; what a link asks for and the model does not have falls back to the
default. Components write to the widgets' state in callbacks, never beside it.
"""

from dataclasses import dataclass

import streamlit as st
from state import load_model, model_names

import probe
from probe.catalogue import DEFAULT_MODEL
from probe.prompts import read_prompts, str_tokens
from probe.tokens import show_token

PROMPT = "When Mary and John went to the store, John gave a drink to"
LONGEST_LINK = 2000
"""Characters of a prompt that a link carries."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What is looked at."""

    model_name: str
    """As `state.load_model` takes it."""
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

    def code(self, *lines: str) -> str:
        """A script that loads the model, names the prompt and goes on with these lines."""
        model = "" if self.model_name == DEFAULT_MODEL else repr(self.model_name)
        return "\n".join(
            ["import probe", "", f"model = probe.load_model({model})", f"prompt = {self.prompt!r}",
             f"document_start = {self.document_start}", *lines]
        )  # fmt: skip


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
        st.sidebar.caption(f"Links carry up to {LONGEST_LINK:,} characters of text; this one is longer.")
    with st.sidebar:
        columns = st.columns(2)
        with columns[0]:
            layer = _number("Layer", "layer", model.config.n_layers)
        with columns[1]:
            head = _number("Head", "head", model.config.n_heads)
        query = _place("From (query)", "query", texts, len(texts) - 1)
        key = _place("To (key)", "key", texts, 0)
    return Selection(name, model, prompt, start and has_start, ids, texts, layer, head, query, key)


def set_head(layer: int, head: int) -> None:
    """For callbacks: choose a head as if by the widgets."""
    st.session_state["layer"], st.session_state["head"] = layer, head


def _number(label: str, key: str, n: int) -> int:
    if not 0 <= st.session_state.get(key, 0) < n:  # the number came from a larger model
        st.session_state[key] = n - 1
    return int(st.number_input(label, 0, n - 1, step=1, key=key, bind="query-params"))


def _place(label: str, key: str, texts: list[str], default: int) -> int:
    """A position of the prompt, shown with its token."""
    places = range(len(texts))
    if st.session_state.get(key, default) not in places:
        del st.session_state[key]
    return int(
        st.selectbox(
            label,
            places,
            index=default,
            key=key,
            bind="query-params",
            format_func=lambda place: f"{place}  {show_token(texts[place])}" if place < len(texts) else str(place),
        )  # fmt: skip
    )
