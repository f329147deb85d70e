"""Texts that a model writes, answers or only reads."""

from dataclasses import dataclass

import streamlit as st

import probe
from probe.chat import chat_prompt
from probe.generation import Generation
from probe.methods.surprise import TextScores
from state.models import TakenOut, edits, load_model

Branches = tuple[tuple[int, int], ...]
"""(step, token id): words put in by the reader; each counts its steps from the one before."""


@st.cache_resource(max_entries=8, show_spinner=False)
def chat_ids(name: str, system: str, user: str) -> tuple[int, ...]:
    """What a conversation becomes: the model's own template as tokens, up to where the answer begins."""
    model = load_model(name)
    text = chat_prompt(model, messages(system, user))
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))  # the template has them


def messages(system: str, user: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


@dataclass(frozen=True)
class Writing:
    """What a text is written with."""

    n: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


@st.cache_resource(max_entries=16, show_spinner="Writing")
def generated(
    name: str, ids: tuple[int, ...], taken_out: TakenOut, writing: Writing, branches: Branches = ()
) -> Generation:
    """A text that the model wrote, with the distribution behind every token.

    Raises:
        OutOfRange, BadPrompt: a branch at a step that is not there, or with a token that is not there.
    """
    model = load_model(name)
    if branches:
        step, token = branches[-1]
        return generated(name, ids, taken_out, writing, branches[:-1]).branch(step, token).run()
    last = min(len(ids) + writing.n, model.config.n_ctx) - 1  # the last token of all is not run
    return probe.generate(
        model, list(ids), max_tokens=writing.n, temperature=writing.temperature, top_k=writing.top_k,
        top_p=writing.top_p, seed=writing.seed, interventions=edits(taken_out, last),
    ).run()  # fmt: skip


@st.cache_resource(max_entries=8, show_spinner="Reading")
def scored(name: str, ids: tuple[int, ...], taken_out: TakenOut) -> TextScores:
    """How well every token of a text was predicted."""
    return probe.score_text(load_model(name), [list(ids)], interventions=edits(taken_out, len(ids)))
