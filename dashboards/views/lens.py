"""Logit lens: what each layer would say next, if the model ended there."""

import streamlit as st
from components.controls import Selection
from components.show import figure, keep, shown, theme
from state import LENS_POSITIONS, lens_readout

from probe.figures.lens import Colour, lens_heatmap, lens_lines
from probe.tokens import show_token

COLOURS: dict[str, Colour] = {
    "rank of the final token": "rank",
    "probability of the final token": "probability",
    "how undecided (entropy)": "entropy",
    "how far from the end (KL)": "divergence",
}


def page(chosen: Selection) -> None:
    """Layers by positions, then the ranks of the tokens that were ever first."""
    st.header("What would each layer say next? (logit lens)")
    colour = COLOURS[st.selectbox("Colour", list(COLOURS), key="lens_colour", bind="query-params")]
    readout = lens_readout(chosen.model_name, chosen.ids)
    first = max(0, len(chosen.ids) - LENS_POSITIONS)
    if first:
        st.caption(f"Shown are the last {LENS_POSITIONS} of {len(chosen.ids):,} tokens; all of them were read.")
    figure(lens_heatmap(readout, colour=colour, theme=theme()), key="lens")
    position = max(chosen.query, first)
    st.subheader("From the embedding to the end")
    st.markdown(
        f"After ‘{shown(show_token(chosen.str_tokens[position]))}’ \\[{position}\\] (“From” in the sidebar): the rank "
        "of every token that was first at some place."
    )
    figure(lens_lines(readout, position=position, theme=theme()), key="lens-lines")
    keep(
        readout, _code(chosen, first, position), name="lens", heading="What would each layer say next?",
        caption="Each place of the residual stream is read with the model’s own final norm and unembedding. Early "
        "layers do not write for that reader: where a place is hatched it predicts worse than knowing nothing.",
        draw=[
            lambda theme: lens_heatmap(readout, colour=colour, theme=theme),
            lambda theme: lens_lines(readout, position=position, theme=theme),
        ],
    )  # fmt: skip


def _code(chosen: Selection, first: int, position: int) -> str:
    return chosen.code(
        'sites = ["resid_pre", "resid_mid", "resid_post"]',
        f"kept = list(range({first}, {len(chosen.ids)}))",
        "recording = probe.record(model, prompt, sites=sites, positions=kept, document_start=document_start)",
        "readout = probe.logit_lens(model, recording)",
        "for place, tokens in zip(readout.places, readout.top_tokens[:, 0, "
        + str(position - first)
        + ", 0].tolist()):",
        "    print(place, readout.texts[tokens])",
    )
