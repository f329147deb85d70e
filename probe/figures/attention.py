"""Figures of `methods/attention.py`."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from probe.figures._theme import ThemeName, colour_bar, colour_scale, find_theme, themed, token_axis, token_label
from probe.methods.attention import HeadPattern


def attention_heatmap(
    head: HeadPattern, *, theme: ThemeName = "light", largest: float = 1.0, crossed: tuple[int, int] | None = None
) -> go.Figure:
    """Each row is a token looking, each column a token looked at; tokens ahead are hidden, so they are background.

    `largest` is the weight that gets the strongest colour: the same for panels that are compared. `crossed`: (query,
    key) whose row and column are marked.
    """
    look = find_theme(theme)
    weighted = ", value-weighted" if head.value_weighted else ""
    weights = head.pattern.numpy().astype(np.float32)
    n = len(weights)
    names = [f"{token_label(text, longest=None)} [{position}]" for position, text in enumerate(head.str_tokens)]
    shown = np.where(np.tri(n, dtype=bool), weights, np.nan)
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            zmin=0.0,
            zmax=largest,
            colorscale=colour_scale(look.sequential),
            colorbar=colour_bar(look, f"attention{weighted} weight", tickformat=".0%"),
            hoverongaps=False,
            xgap=1,
            ygap=1,
            customdata=_pairs(names),
            hovertemplate="%{customdata[0]} looks at %{customdata[1]}<br>weight %{z:.4f}<extra></extra>",
        )
    )
    themed(figure, look, title=f"Layer {head.layer}, head {head.head}{weighted}", height=min(1400, 190 + 22 * n))
    figure.update_xaxes(token_axis(head.str_tokens, title="looked at (key)", tickangle=-60))
    figure.update_yaxes(token_axis(head.str_tokens, title="looking (query)", range=[n - 0.5, -0.5]))
    if crossed is not None:
        query, key = crossed
        line = {"color": look.lowers, "width": 1.5}
        figure.add_shape(type="rect", x0=-0.5, x1=n - 0.5, y0=query - 0.5, y1=query + 0.5, line=line)
        figure.add_shape(type="rect", x0=key - 0.5, x1=key + 0.5, y0=-0.5, y1=n - 0.5, line=line)
    return figure


def attention_lines(head: HeadPattern, *, theme: ThemeName = "light", query: int | None = None) -> go.Figure:
    """The text twice, top to bottom: from every token on the left a line to each that it looks at, wider for more.

    `query`: only the lines of this token. Weights below `FAINTEST` are left out.
    """
    look = find_theme(theme)
    n = len(head.str_tokens)
    rows = range(n) if query is None else [query]
    figure = go.Figure()
    for low, high in zip(_STEPS, (*_STEPS[1:], 1.01), strict=True):  # a trace for each width: one for each line is slow
        x: list[float | None] = []
        y: list[float | None] = []
        for row in rows:
            for key, weight in enumerate(head.pattern[row, : row + 1].tolist()):
                if low <= weight < high:
                    x += [0.0, 1.0, None]
                    y += [row, key, None]
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines", opacity=min(1.0, 0.25 + low), hoverinfo="skip", showlegend=False,
                line={"color": look.lines[0], "width": 0.5 + 5 * low},
            )
        )  # fmt: skip
    weighted = ", value-weighted" if head.value_weighted else ""
    title = f"Layer {head.layer}, head {head.head}{weighted}: who looks at whom (from {FAINTEST:.0%} up)"
    themed(figure, look, title=title, height=min(2000, 110 + 20 * n))
    names = [token_label(text) for text in head.str_tokens]
    axis = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": names, "range": [n - 0.5, -0.5]}
    figure.update_xaxes(
        range=[0, 1], tickmode="array", tickvals=[0, 1], ticktext=["looking", "looked at"], showgrid=False, side="top"
    )
    figure.update_yaxes(axis, showgrid=False)
    right = {
        **axis,
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
    }
    figure.update_layout(yaxis2=right)
    figure.add_trace(go.Scatter(x=[], y=[], yaxis="y2", showlegend=False))  # an axis without a trace is not drawn
    return figure


def row_in_every_head(
    rows: Float[np.ndarray, "layer head key_pos"], str_tokens: Sequence[str], query: int, *, theme: ThemeName = "light"
) -> go.Figure:
    """Where one token looks, a line for each head, the first layer on top; what comes after it is background."""
    look = find_theme(theme)
    layers, heads, n = rows.shape
    weights = rows.reshape(layers * heads, n).astype(np.float32)
    weights[:, query + 1 :] = np.nan
    names = [[f"layer {line // heads}, head {line % heads}"] * n for line in range(len(weights))]
    tokens = [f"{token_label(text, longest=None)} [{position}]" for position, text in enumerate(str_tokens)]
    figure = go.Figure(
        go.Heatmap(
            z=weights, zmin=0.0, zmax=1.0, colorscale=colour_scale(look.sequential), hoverongaps=False,
            colorbar=colour_bar(look, "attention weight", tickformat=".0%"),
            customdata=np.stack([np.array(names), np.array([tokens] * len(weights))], axis=-1),
            hovertemplate="%{customdata[0]} looks at %{customdata[1]}<br>weight %{z:.4f}<extra></extra>",
        )
    )  # fmt: skip
    themed(figure, look, title=f"Where {tokens[query]} looks in every head", height=min(1600, 200 + 5 * len(weights)))
    figure.update_xaxes(token_axis(str_tokens, title="looked at (key)", tickangle=-60))
    figure.update_yaxes(
        title_text="layer, its heads below one another", tickmode="array", showgrid=False,
        tickvals=[layer * heads for layer in range(layers)], ticktext=[str(layer) for layer in range(layers)],
        range=[len(weights) - 0.5, -0.5],
    )  # fmt: skip
    return figure


FAINTEST = 0.05
"""Weight below which no line is drawn."""
_STEPS = (FAINTEST, 0.1, 0.2, 0.4, 0.7)
"""Weights from which lines get wider."""


def _pairs(names: list[str]) -> np.ndarray:
    """(query, key, 2): the two tokens of every cell."""
    query, key = np.meshgrid(np.array(names), np.array(names), indexing="ij")
    return np.stack([query, key], axis=-1)
