"""The models, parts taken out of them, and what they say next."""

import os

import streamlit as st

import probe
from probe.catalogue import DEFAULT_MODEL, known_models
from probe.cli._dashboard import MODELS
from probe.recording import Recording

TakenOut = tuple[tuple[int, int | None], ...]
"""(layer, head) of each head; (layer, None) of an MLP."""


def model_names() -> list[str]:
    """What can be chosen: what was named at launch, then the catalogue. Nothing that a visitor types is opened."""
    named = [name for name in os.environ.get(MODELS, "").splitlines() if name]
    known = sorted((known.name for known in known_models()), key=lambda name: name != DEFAULT_MODEL)
    return list(dict.fromkeys([*named, *known]))


@st.cache_resource(max_entries=2, show_spinner="Loading the model")
def load_model(name: str) -> probe.GPT:
    """A model of `model_names`."""
    return probe.load_model(name, progress=False)


def edits(taken_out: TakenOut, n_tokens: int) -> list[probe.Intervention]:
    """What silences parts in a text of so many tokens, everywhere but at the first one, where heads only rest."""
    if n_tokens < 2:
        return []
    heads: dict[int, list[int]] = {}
    for layer, head in taken_out:
        if head is not None:
            heads.setdefault(layer, []).append(head)
    where = range(1, n_tokens)
    return [
        *(probe.zero("z", layer=layer, heads=of_layer, positions=where) for layer, of_layer in heads.items()),
        *(probe.zero("mlp_out", layer=layer, positions=where) for layer, head in taken_out if head is None),
    ]


@st.cache_resource(max_entries=8, show_spinner=False)
def last_logits(name: str, ids: tuple[int, ...], taken_out: TakenOut = ()) -> Recording:
    """What the model says next."""
    return probe.record(load_model(name), [list(ids)], sites=[], positions=-1, interventions=edits(taken_out, len(ids)))


@st.cache_resource(max_entries=32, show_spinner=False)
def contrast(name: str, ids: tuple[int, ...]) -> tuple[int, int]:
    """The likeliest next token and the second."""
    first, second = last_logits(name, ids)["logits"][0, -1].topk(2).indices.tolist()
    return first, second
