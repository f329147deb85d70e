"""Figure of `packing.py`: how many directions fit as the dimensions grow."""

from collections.abc import Sequence

import plotly.graph_objects as go
from _packing import Kind, Packing

from probe.figures._theme import DASHES, ThemeName, find_theme, themed

MEANINGS: dict[Kind, str] = {
    "random": "random, with an even chance",
    "optimised": "pushed apart",
    "built": "unbiased bases",
    "Welch": "at most (Welch)",
}
"""What each kind of line shows, in plain words."""
MOST = 1e8
"""Where the axis ends: in 12,288 dimensions 10^41 random directions fit within 10 degrees."""


def packing_lines(packings: Sequence[Packing], *, theme: ThemeName = "light") -> go.Figure:
    """Number of directions against dimensions, both logarithmic: a colour for each tolerance, dashes for each kind.

    What is beyond the upper end of the axis is cut off. A number at which the search was stopped is a triangle.
    """
    look = find_theme(theme)
    figure = go.Figure()
    tolerances = sorted({packing.degrees for packing in packings})
    for kind, degrees in ((kind, degrees) for degrees in tolerances for kind in MEANINGS):
        chosen = [packing for packing in packings if (packing.kind, packing.degrees) == (kind, degrees)]
        if not chosen:
            continue
        colour = look.lines[tolerances.index(degrees) % len(look.lines)]
        figure.add_trace(
            go.Scatter(
                x=[packing.d for packing in chosen], y=[packing.n for packing in chosen],
                name=f"{degrees:g}°, {MEANINGS[kind]}", mode="lines" if kind == "Welch" else "lines+markers",
                line={"color": colour, "dash": DASHES[list(MEANINGS).index(kind)], "width": 2},
                marker={"size": 7, "symbol": ["triangle-up" if one.capped else "circle" for one in chosen]},
                hovertext=["at least " if one.capped else "" for one in chosen],
                hovertemplate=f"90 ± {degrees:g}° in %{{x:,}} dimensions<br>{MEANINGS[kind]}: "
                "%{hovertext}%{y:,.4g} directions<extra></extra>",
            )
        )  # fmt: skip
    themed(figure, look, title="How many nearly perpendicular directions fit", height=560)
    figure.update_layout(legend={"y": 0.5, "yanchor": "middle"})
    figure.update_xaxes(title_text="dimensions", type="log", dtick=1)
    figure.update_yaxes(
        title_text="directions", type="log", range=[-0.1, len(f"{MOST:.0f}") - 1], dtick=1, tickformat="~s"
    )
    return figure
