"""Figures of `methods/attention.py`."""

import numpy as np
import plotly.graph_objects as go

from probe.figures._theme import ThemeName, colour_bar, colour_scale, find_theme, themed, token_axis, token_label
from probe.methods.attention import HeadPattern


def attention_heatmap(head: HeadPattern, *, theme: ThemeName = "light", largest: float = 1.0) -> go.Figure:
    """Each row is a token looking, each column a token looked at; tokens ahead are hidden, so they are background.

    `largest` is the weight that gets the strongest colour: the same for panels that are compared.
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
    return figure


def _pairs(names: list[str]) -> np.ndarray:
    """(query, key, 2): the two tokens of every cell."""
    query, key = np.meshgrid(np.array(names), np.array(names), indexing="ij")
    return np.stack([query, key], axis=-1)
