"""The head grid: every head's pattern at once, drawn by the browser on one canvas (head_grid.js)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from jaxtyping import Float
from state.heads import Overview
from state.models import TakenOut

from probe.figures._theme import THEMES
from probe.tokens import show_token

_HERE = Path(__file__).parent
_HTML = (
    '<div class="grid"><canvas class="heads" tabindex="0" role="application"></canvas>'
    '<aside><canvas class="preview" aria-hidden="true"></canvas><p class="said" aria-live="polite"></p></aside>'
    '<p class="key" hidden><span class="low"></span><span class="scale"></span><span class="high"></span></p></div>'
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


@dataclass(frozen=True, eq=False)
class Overlay:
    """One number for each head, shown in the place of its picture."""

    values: Float[np.ndarray, "layer head"]
    signed: bool = False
    unit: str = ""
    """What the numbers count, as it stands after one of them."""


def head_grid(
    overview: Overview, layer: int, head: int, *, on_pick: Callable[[int, int], None],
    on_switch: Callable[[int, int], None], taken_out: TakenOut = (), overlay: Overlay | None = None,
    order: Float[np.ndarray, "layer head"] | None = None, least: float = 0.0,
) -> None:  # fmt: skip
    """Draw the grid; `on_pick` (a click) or `on_switch` (with shift) is called before the page runs again.

    `order`: heads with the largest of these numbers come first. `least`: heads whose number in the overlay is a smaller
    share of the largest are faint.
    """

    def picked() -> None:
        chosen = st.session_state["head_grid"].picked
        if chosen is not None:
            (on_switch if chosen[2] else on_pick)(int(chosen[0]), int(chosen[1]))

    _GRID(key="head_grid", data=packed(overview), on_picked_change=picked)
    heads = overview.thumbnails.shape[1]
    _SELECTION(
        key="selection",
        data={
            "layer": layer, "head": head, "out": [one * heads + other for one, other in taken_out if other is not None],
            "values": None if overlay is None else _listed(overlay.values),
            "signed": overlay is not None and overlay.signed, "unit": "" if overlay is None else overlay.unit,
            "least": least,
            "order": None if order is None else _listed(order),
        },
    )  # fmt: skip


def _listed(values: np.ndarray) -> list[float]:
    return np.round(values.astype(float), 4).flatten().tolist()


def packed(overview: Overview) -> bytes:
    """Four bytes with the header's length, the header as JSON, a byte for each pixel."""
    layers, heads, size, _ = overview.thumbnails.shape
    header = {
        "layers": layers, "heads": heads, "size": size, "tokens": [show_token(text) for text in overview.str_tokens],
        "scores": {name: _listed(values) for name, values in overview.scores.items()},
        "light": THEMES["light"].sequential, "dark": THEMES["dark"].sequential,
        "light_signed": THEMES["light"].diverging, "dark_signed": THEMES["dark"].diverging,
    }  # fmt: skip
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + overview.thumbnails.tobytes()
