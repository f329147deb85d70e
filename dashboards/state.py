"""The only cached functions: models, what was recorded with them, and what was computed from that.

One model serves all sessions: interventions are arguments, so nobody's change reaches anybody else. What is cached is
never written to. Caches are bounded; a recording of one layer of 512 tokens takes about 20 MB.
"""

import os
from dataclasses import dataclass

import numpy as np
import streamlit as st
import torch
from jaxtyping import Float
from torch import Tensor

import probe
from probe.catalogue import DEFAULT_MODEL, known_models
from probe.cli._dashboard import MODELS
from probe.generation import Generation
from probe.methods.heads import SCORES
from probe.methods.lens import LensReadout
from probe.prompts import str_tokens
from probe.recording import Recording

THUMBNAIL = 64
"""Pixels along a side, at most."""
ONE_HEAD = 512
"""Tokens up to which a single head is shown in full."""
LENS_POSITIONS = 48
"""Positions that the logit lens shows, the last ones."""


def model_names() -> list[str]:
    """What can be chosen: what was named at launch, then the catalogue. Nothing that a visitor types is opened."""
    named = [name for name in os.environ.get(MODELS, "").splitlines() if name]
    known = sorted((known.name for known in known_models()), key=lambda name: name != DEFAULT_MODEL)
    return list(dict.fromkeys([*named, *known]))


@st.cache_resource(max_entries=2, show_spinner="Loading the model")
def load_model(name: str) -> probe.GPT:
    """A model of `model_names`."""
    return probe.load_model(name, progress=False)


@dataclass(frozen=True, eq=False)
class Overview:
    """Every head on one prompt, small enough to look at all at once."""

    thumbnails: np.ndarray
    """(layer, head, row, column), 0 to 255: square roots of weights, pooled by their maximum where tokens are many."""
    scores: dict[str, np.ndarray]
    """(layer, head) by name, as `probe.head_scores` has them; none for fewer than three tokens."""
    str_tokens: list[str]


@st.cache_resource(max_entries=8, show_spinner="Looking at every head")
def overview(name: str, ids: tuple[int, ...]) -> Overview:
    """Patterns pooled layer by layer as they are made: all of them at once would be gigabytes for a long prompt."""
    model = load_model(name)
    pooled = probe.record(
        model, [list(ids)], sites=[], reduce={"pattern": lambda pattern, _: _pooled(pattern[0])}, logits=False
    )
    weights = pooled.stack("pattern").float().cpu().numpy()
    scores = {}
    if len(ids) >= 3:  # with fewer no head has a choice
        found = probe.head_scores(model, [list(ids)], n_random=0, progress=False)
        scores = {name: found.of(name).nan_to_num().numpy() for name in SCORES}
    thumbnails = np.round(255 * np.sqrt(weights)).astype(np.uint8)
    return Overview(thumbnails, scores, list(str_tokens(model.tokenizer, ids)))


def _pooled(pattern: Float[Tensor, "head query_pos key_pos"]) -> Float[Tensor, "head row column"]:
    """By the maximum: a mean would hide a single strong look."""
    return torch.nn.functional.adaptive_max_pool2d(pattern[None].float(), min(pattern.shape[-1], THUMBNAIL))[0]


@st.cache_resource(max_entries=8, show_spinner=False)
def layer_recording(name: str, ids: tuple[int, ...], layer: int) -> Recording:
    """What the heads of one layer compute."""
    model = load_model(name)
    turned = "rot_" if model.config.positions == "rotary" else ""
    sites = ["pattern", "attn_scores", f"{turned}q", f"{turned}k", "v", "z"]
    return probe.record(model, [list(ids)], sites=sites, layers=[layer], logits=False)


@st.cache_resource(max_entries=4, show_spinner="Reading every layer")
def lens_readout(name: str, ids: tuple[int, ...]) -> LensReadout:
    """The logit lens at the last positions: at every place a distribution over the whole vocabulary is made."""
    model = load_model(name)
    kept = list(range(max(0, len(ids) - LENS_POSITIONS), len(ids)))
    recording = probe.record(model, [list(ids)], sites=["resid_pre", "resid_mid", "resid_post"], positions=kept)
    return probe.logit_lens(model, recording)


@st.cache_resource(max_entries=8, show_spinner="Writing")
def generated(
    name: str, ids: tuple[int, ...], n: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> Generation:
    """A text that the model wrote, with the distribution behind every token."""
    return probe.generate(
        load_model(name), list(ids), max_tokens=n, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    ).run()
