"""The head grid: every head's pattern at once, drawn by the browser on one canvas (head_grid.js)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import streamlit as st
from state import Overview

from probe.figures._theme import THEMES
from probe.tokens import show_token

_HERE = Path(__file__).parent
_HTML = (
    '<div class="grid"><canvas class="heads" tabindex="0" role="application"></canvas>'
    '<aside><canvas class="preview" aria-hidden="true"></canvas><p class="said" aria-live="polite"></p></aside></div>'
)
_GRID = st.components.v2.component(
    "probe_head_grid", html=_HTML, css=(_HERE / "head_grid.css").read_text("utf-8"),
    js=(_HERE / "head_grid.js").read_text("utf-8"),
)  # fmt: skip
_SELECTION = st.components.v2.component(
    "probe_selection",
    js="""export default function ({ data }) {
        window.probeSelection = data;
        window.dispatchEvent(new CustomEvent("probe-selection", { detail: data }));
    }""",
)
"""Tells what is chosen to whoever draws it. Apart from the pictures, which would be sent again with every choice."""


def head_grid(
    overview: Overview, layer: int, head: int, *, overlay: str, sort: str, on_pick: Callable[[int, int], None]
) -> None:
    """Draw the grid; `on_pick` is called with layer and head before the page runs again."""

    def picked() -> None:
        chosen = st.session_state["head_grid"].picked
        if chosen is not None:
            on_pick(int(chosen[0]), int(chosen[1]))

    _GRID(key="head_grid", data=packed(overview), on_picked_change=picked)
    _SELECTION(key="selection", data={"layer": layer, "head": head, "overlay": overlay, "sort": sort})


def packed(overview: Overview) -> bytes:
    """Four bytes with the header's length, the header as JSON, a byte for each pixel."""
    layers, heads, size, _ = overview.thumbnails.shape
    header = {
        "layers": layers, "heads": heads, "size": size, "tokens": [show_token(text) for text in overview.str_tokens],
        "scores": {name: np.round(values, 4).flatten().tolist() for name, values in overview.scores.items()},
        "light": THEMES["light"].sequential, "dark": THEMES["dark"].sequential,
    }  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + overview.thumbnails.tobytes()
