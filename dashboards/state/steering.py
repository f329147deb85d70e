"""A direction added while a model reads or writes."""

from dataclasses import dataclass

import streamlit as st
import torch

import probe
from probe.generation import Generation
from probe.geometry import unit
from probe.recording import Recording
from state.directions import Space, direction
from state.models import TakenOut, edits, load_model


@dataclass(frozen=True)
class Push:
    """Something added to the stream after a layer, at every token but the first, while a text is written."""

    space: Space
    """A stream: its model and layer."""
    pairs: probe.WordPairs
    strength: float
    """In distances between the two sides of the pairs."""
    random: bool = False
    """As far, but in a random direction."""

    def edits(self, n_tokens: int) -> list[probe.Intervention]:
        """What adds it, in a text of so many tokens."""
        found = direction(self.space, self.pairs)
        along = found.vector.float()
        if self.random:
            along = unit(torch.randn(len(along), generator=torch.Generator().manual_seed(0)))
        if not self.strength or n_tokens < 2:
            return []
        change = self.strength * found.gap * along
        return [probe.add("resid_post", change, layer=self.space.layer, positions=range(1, n_tokens))]


@st.cache_resource(max_entries=32, show_spinner="Writing")
def steered(push: Push, ids: tuple[int, ...], taken_out: TakenOut, n: int) -> Generation:
    """The likeliest continuation under a push."""
    model = load_model(push.space.name)
    n_run = min(len(ids) + n, model.config.n_ctx) - 1
    return probe.generate(
        model, list(ids), max_tokens=n, temperature=0, seed=0,
        interventions=[*edits(taken_out, n_run), *push.edits(n_run)],
    ).run()  # fmt: skip


@st.cache_resource(max_entries=32, show_spinner=False)
def steered_logits(push: Push, ids: tuple[int, ...], taken_out: TakenOut) -> Recording:
    """What the model says next under a push."""
    changes = [*edits(taken_out, len(ids)), *push.edits(len(ids))]
    return probe.record(load_model(push.space.name), [list(ids)], sites=[], positions=-1, interventions=changes)


@dataclass(frozen=True)
class DoseQuestion:
    """A question to `probe.dose_curve`: does a direction move one next token above another, after these texts?"""

    space: Space
    """A stream: its model and layer."""
    pairs: probe.WordPairs
    prompts: tuple[str, ...]
    target: str
    against: str


@st.cache_resource(max_entries=64, show_spinner=False)
def dose(question: DoseQuestion, size: float) -> probe.DoseCurve:
    """The answer for one dose, in norms of the stream."""
    return probe.dose_curve(
        load_model(question.space.name), direction(question.space, question.pairs), question.prompts,
        target=question.target, against=question.against, doses=[size],
        document_start=question.space.document_start, progress=False,
    )  # fmt: skip
