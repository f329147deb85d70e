"""A tour for newcomers: five places of the app, each with its widgets set, and what to look at there."""

import html
from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st
from components.controls import PROMPT, address


@dataclass(frozen=True)
class Stop:
    """Where the tour stops."""

    page: str
    """By its name in the URL."""
    opens: Mapping[str, str]
    """Its widgets, as a link sets them."""
    says: str
    """What to look at."""


STOPS = {
    "1 tokens": Stop(
        "tokens", {"prompt": "The photographer admired a lighthouse, didn't she?"},
        "A GPT reads neither letters nor words but pieces that it knows by number, its tokens. Look in the first table "
        "at what became of “didn't”, and where the spaces went; then write a text of your own in the sidebar.",
    ),
    "2 attention": Stop(
        "heads", {"prompt": PROMPT},
        "Every picture is one head: each row is a token, and coloured spots are the earlier tokens from which it "
        "takes something. Click a few, then look below at the text: the stronger the colour of a token, the more the "
        "chosen one looks at it.",
    ),
    "3 the next word": Stop(
        "generation", {"prompt": "Once upon a time there was a", "preset": "wild: the 20 likeliest, temperature 5"},
        "All that a GPT says is a probability for every possible next token; one is drawn, put at the end, and the "
        "game begins again. Set “How to choose” to “always the likeliest” and see the story become tame, or click "
        "another word to put in.",
    ),
    "4 layer by layer": Stop(
        "lens", {"prompt": "The capital of France is", "lens_colour": "probability of the final token"},
        "Each row asks what the model would say if it ended at that layer. Follow the last column from the first layer "
        "to the last, and find where the answer first comes up.",
    ),
    "5 without a head": Stop(
        "ablation", {"prompt": PROMPT},
        "Here one head after another is taken out of the model, and the answer is measured without it: orange cells "
        "are heads that it needs. Choose one of them in the sidebar under “Taken out”, and see above what the model "
        "says now.",
    ),
}  # fmt: skip


def tour(page: str, model_name: str) -> None:
    """Links to the stops, and what to look at if the reader came by one; where nobody asked, on two pages only.

    The links load the app anew, so that nothing chosen before stays but the model.
    """
    here = st.query_params.get("tour", "")
    if page not in ("introduction", "tokens") and here not in STOPS:
        return
    links = " · ".join(_link(name, model_name, is_here=name == here) for name in STOPS)
    with st.container(border=True):
        st.markdown("**New here?** A tour in five stops; each sets the text and the widgets of its page.")
        st.html(f'<nav aria-label="Tour">{links}</nav>')
        if here in STOPS and STOPS[here].page == page:
            st.markdown(STOPS[here].says)


def _link(name: str, model_name: str, *, is_here: bool) -> str:
    stop = STOPS[name]
    where = address(stop.page, {"model": model_name, "tour": name, **stop.opens})
    text = f"<b>{name}</b>" if is_here else name
    return f'<a href="{html.escape(where)}">{text}</a>'
