"""What each layer would say next, read by the logit lens."""

import streamlit as st

import probe
from probe.methods.lens import LensDifference, LensReadout
from probe.methods.tuned_lens import find_tuned_lens
from probe.recording import Recording
from probe.sites import residual_sites
from state.models import TakenOut, edits, load_model

LENS_POSITIONS = 48
"""Positions that the logit lens shows, the last ones."""


def lens_positions(n_tokens: int) -> list[int]:
    """Those that the logit lens shows: at every place a distribution over the whole vocabulary is made."""
    return list(range(max(0, n_tokens - LENS_POSITIONS), n_tokens))


@st.cache_resource(max_entries=1, ttl=60, show_spinner="Looking for a tuned lens")
def tuned_lens(name: str) -> probe.TunedLens | None:
    """The one that was fitted for this model before, or None: a fit takes minutes. One fitted meanwhile is noticed."""
    try:
        return find_tuned_lens(load_model(name))
    except probe.ProbeError:
        return None


@st.cache_resource(max_entries=4, show_spinner="Reading every layer")
def lens_readout(
    name: str, ids: tuple[int, ...], taken_out: TakenOut = (), tuned: bool = False, watch: tuple[int, ...] = ()
) -> LensReadout:
    """The logit lens, on the model without these heads; `watch`: tokens to follow, or else all that were ever first."""
    return probe.logit_lens(
        load_model(name), _streams(name, ids, taken_out), tuned=tuned_lens(name) if tuned else None, watch=watch or None
    )


@st.cache_resource(max_entries=4, show_spinner="Reading every layer of both")
def lens_change(name: str, ids: tuple[int, ...], taken_out: TakenOut, tuned: bool = False) -> LensDifference:
    """What the logit lens says otherwise without these heads."""
    before, after = (_streams(name, ids, heads) for heads in ((), taken_out))
    return probe.lens_difference(load_model(name), before, after, tuned=tuned_lens(name) if tuned else None)


def _streams(name: str, ids: tuple[int, ...], taken_out: TakenOut) -> Recording:
    model = load_model(name)
    return probe.record(
        model, [list(ids)], sites=residual_sites(model.config),
        positions=lens_positions(len(ids)), interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
