"""Where heads look and what they write: all of them at a glance, or one."""

from dataclasses import dataclass

import numpy as np
import streamlit as st
import torch
from jaxtyping import Float
from torch import Tensor

import probe
from probe.methods.circuits import TokenEffects, head_writes_sites
from probe.methods.heads import SCORES
from probe.prompts import str_tokens
from probe.recording import Recording
from state.models import TakenOut, edits, load_model

THUMBNAIL = 64
"""Pixels along a side, at most."""
ALL_LAYERS = 128
"""Tokens up to which every layer's heads are kept at once, some 60 MB for 30 layers of 9."""


@dataclass(frozen=True, eq=False)
class Overview:
    """Every head on one prompt, small enough to look at all at once."""

    thumbnails: np.ndarray
    """(layer, head, row, column), 0 to 255: square roots of weights, pooled by their maximum where tokens are many."""
    scores: dict[str, np.ndarray]
    """(layer, head) by name, as `probe.head_scores` has them; none for fewer than three tokens."""
    str_tokens: list[str]


@st.cache_resource(max_entries=8, show_spinner="Looking at every head")
def overview(name: str, ids: tuple[int, ...], taken_out: TakenOut = ()) -> Overview:
    """Patterns pooled layer by layer as they are made: all of them at once would be gigabytes for a long prompt."""
    model, changes, found = load_model(name), edits(taken_out, len(ids)), None
    if len(ids) <= ALL_LAYERS:
        recording = heads_recording(name, ids, None, taken_out)
        weights = torch.stack([_pooled(pattern) for pattern in recording.stack("pattern")[:, 0]]).cpu().numpy()
        found = probe.read_head_scores(recording) if len(ids) >= 3 else None  # with fewer no head has a choice
    else:
        pooled = probe.record(
            model, [list(ids)], sites=[], reduce={"pattern": lambda pattern, _: _pooled(pattern[0])}, logits=False,
            interventions=changes,
        )  # fmt: skip
        weights = pooled.stack("pattern").cpu().numpy()
        found = probe.head_scores(model, [list(ids)], n_random=0, interventions=changes, progress=False)
    scores = {} if found is None else {name: found.of(name).nan_to_num().numpy() for name in SCORES}
    thumbnails = np.round(255 * np.sqrt(weights)).astype(np.uint8)
    return Overview(thumbnails, scores, list(str_tokens(model.tokenizer, ids)))


def _pooled(pattern: Float[Tensor, "head query_pos key_pos"]) -> Float[Tensor, "head row column"]:
    """By the maximum: a mean would hide a single strong look."""
    return torch.nn.functional.adaptive_max_pool2d(pattern[None].float(), min(pattern.shape[-1], THUMBNAIL))[0]


@st.cache_resource(max_entries=8, show_spinner=False)
def looks(name: str, ids: tuple[int, ...], taken_out: TakenOut, query: int) -> Float[np.ndarray, "layer head key_pos"]:
    """How every head's attention from one token is spread."""
    found = probe.record(
        load_model(name), [list(ids)], sites=[], reduce={"pattern": lambda pattern, _: pattern[0, :, query]},
        logits=False, interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
    return found.stack("pattern").float().cpu().numpy()


@st.cache_resource(max_entries=8, show_spinner=False)
def attribution(
    name: str, ids: tuple[int, ...], taken_out: TakenOut, target: int, against: int
) -> Float[np.ndarray, "layer head"]:
    """What each head writes, straight to the logits, for one next token above another (direct logit attribution)."""
    model = load_model(name)
    recording = probe.record(
        model, [list(ids)], sites=probe.attribution_sites(model), positions=-1,
        interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
    found = probe.direct_logit_attribution(model, recording, token=target, against=against)
    of_heads = np.zeros((model.config.n_layers, model.config.n_heads))
    for part, value in zip(found.parts, found.contributions[:, 0].tolist(), strict=True):
        if part.kind == "head":
            of_heads[part.layer, part.head] = value
    return of_heads


def layer_recording(name: str, ids: tuple[int, ...], layer: int, taken_out: TakenOut = ()) -> Recording:
    """What the heads of one layer compute; of short texts with all others, so that a click on a head costs nothing."""
    return heads_recording(name, ids, None if len(ids) <= ALL_LAYERS else layer, taken_out)


@st.cache_resource(max_entries=4, show_spinner=False)
def heads_recording(name: str, ids: tuple[int, ...], layer: int | None, taken_out: TakenOut) -> Recording:
    """What heads compute, in one layer or (None) in all of them."""
    model = load_model(name)
    turned = "rot_" if model.config.positions == "rotary" else ""
    sites = ["pattern", "attn_scores", f"{turned}q", f"{turned}k", "v", "z"]
    return probe.record(
        model, [list(ids)], sites=sites, layers=layer, logits=False, interventions=edits(taken_out, len(ids))
    )


@st.cache_resource(max_entries=32, show_spinner=False)
def head_written(
    name: str, ids: tuple[int, ...], taken_out: TakenOut, layer: int, head: int, query: int
) -> TokenEffects:  # fmt: skip
    """What a head added at one token, as logits."""
    model = load_model(name)
    recording = probe.record(
        model, [list(ids)], sites=head_writes_sites(model), layers=layer, positions=query, logits=False,
        interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
    return probe.head_writes(model, recording, layer, head, position=query)
