"""What a model needs: each of its parts taken out in turn, some layers at a time, and several parts together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from jaxtyping import Float

import probe
from probe.methods._replacement import Value
from probe.methods._schedule import SweepPlan
from probe.methods._units import Kind
from probe.methods.ablation import join_sweeps
from probe.prompts import str_tokens, token_id
from state.models import TakenOut, contrast, load_model

LAYERS_AT_ONCE = 5
"""Of a sweep on one text: fewer rows would not fill a pass."""


@dataclass(frozen=True)
class Question:
    """What each part of a model is taken out for: the logit of one token above another, on one text or on a task."""

    name: str
    ids: tuple[int, ...]
    target: int
    against: int
    task: str | None
    """None: the text. Otherwise `n` prompts of this task, with targets of their own."""
    n: int
    units: Kind
    value: Value
    document_start: bool

    def arguments(self) -> tuple[probe.GPT, list[list[int]] | probe.Task, dict[str, Any]]:
        """For `probe.ablation_sweep`."""
        model = load_model(self.name)
        if self.task is None:
            metric = probe.logit_difference(*(token_name(model, token) for token in (self.target, self.against)))
            return model, [list(self.ids)], {"metric": metric, "value": self.value}
        return model, task(self.name, self.task, self.n, self.document_start), {"value": self.value}


def token_name(model: probe.GPT, token: int) -> str | int:
    """Its text, where that is enough to name it; else its id."""
    text = str_tokens(model.tokenizer, [token])[0]
    try:
        return text if token_id(model.config, model.tokenizer, text) == token else token
    except probe.ProbeError:
        return token


@st.cache_resource(max_entries=8, show_spinner="Writing the prompts of the task")
def task(name: str, of: str, n: int, document_start: bool) -> probe.Task:
    """Prompts to measure on."""
    return probe.load_task(load_model(name), of, n, document_start=document_start)


@st.cache_resource(max_entries=8, show_spinner=False)
def sweep_plan(question: Question) -> SweepPlan:
    """What taking out every unit will cost."""
    model, prompts, arguments = question.arguments()
    return probe.plan_ablation(model, prompts, units=question.units, **arguments)


def sweep_layers(question: Question) -> list[tuple[int, ...]]:
    """What a sweep is cut into, the last layers first, which cost least: after each part it shows what it found."""
    n_layers = load_model(question.name).config.n_layers
    at_once = LAYERS_AT_ONCE if question.task is None else 1
    order = list(range(n_layers))[::-1]
    return [tuple(order[begin : begin + at_once]) for begin in range(0, n_layers, at_once)]


@st.cache_resource(max_entries=128, show_spinner=False)
def sweep_part(question: Question, layers: tuple[int, ...]) -> probe.AblationSweep:
    """Every unit of some layers taken out in turn."""
    model, prompts, arguments = question.arguments()
    return probe.ablation_sweep(model, prompts, units=question.units, layers=layers, progress=False, **arguments)


@st.cache_resource(max_entries=16, show_spinner="Taking them out together")
def joint_effect(question: Question, taken_out: TakenOut) -> probe.AblationSweep:
    """Each of these taken out, then all together."""
    model, prompts, arguments = question.arguments()
    names = [f"MLP {layer}" if head is None else f"{layer}.{head}" for layer, head in taken_out]
    return probe.ablation_sweep(model, prompts, units=[*names, names], progress=False, **arguments)


def needed(name: str, ids: tuple[int, ...]) -> Float[np.ndarray, "layer head"]:
    """What taking out each head does to the difference between the likeliest next token and the second.

    Not cached as a whole: its parts are.
    """
    question = Question(name, ids, *contrast(name, ids), None, 1, "heads", "zero", False)
    with st.spinner(f"Taking out every head: {sweep_plan(question)}"):
        found = join_sweeps([sweep_part(question, layers) for layers in sweep_layers(question)])
    return found.effects.mean(1).numpy().reshape(load_model(name).config.n_layers, -1)
