"""Figure of `position.py`: how well the position can be read, layer by layer."""

import plotly.graph_objects as go
from _position import Readability

from probe.figures._theme import DASHES, ThemeName, find_theme, themed
from probe.figures.lens import place_label


def position_lines(readability: Readability, *, theme: ThemeName = "light") -> go.Figure:
    """R^2 of a linear readout of the position at every place, and of one that was fitted to shuffled positions."""
    look = find_theme(theme)
    labels = [place_name(place) for place in readability.places]
    lines = {"position": readability.r2, "shuffled positions": readability.shuffled_r2}
    figure = go.Figure()
    for number, (name, values) in enumerate(lines.items()):
        figure.add_trace(
            go.Scatter(
                x=list(range(len(labels))), y=values, name=name, mode="lines+markers", hovertext=labels,
                line={"color": look.lines[number], "dash": DASHES[number], "width": 2}, marker={"size": 5},
                hovertemplate=f"{name}, read after %{{hovertext}}<br>R² %{{y:.4f}}<extra></extra>",
            )
        )  # fmt: skip
    themed(figure, look, title=f"How well {readability.model} lets its position be read", height=420)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "x": 1, "xanchor": "right", "yanchor": "bottom"})
    step = max(1, len(labels) // 16)
    figure.update_xaxes(
        title_text="read after", tickmode="array", tickvals=list(range(0, len(labels), step)), showgrid=False,
        ticktext=labels[::step], tickangle=-45,
    )  # fmt: skip
    lowest = min(min(values) for values in lines.values())
    figure.update_yaxes(title_text="R² (1 = exact)", gridcolor=look.grid, range=[min(-0.1, lowest - 0.05), 1.05])
    return figure


def place_name(place: str) -> str:
    """In plain words; with position vectors, what enters layer 0 is more than the embedding of a token."""
    return {"hook_embed": "token embedding", "blocks.0.hook_resid_pre": "what enters layer 0"}.get(
        place, place_label(place)
    )
