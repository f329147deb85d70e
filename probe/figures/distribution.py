"""Figures of `methods/distribution.py`."""

import plotly.graph_objects as go

from probe.figures._theme import ThemeName, find_theme, themed, token_label
from probe.methods.distribution import NextTokens


def next_token_bars(distribution: NextTokens, *, theme: ThemeName = "light") -> go.Figure:
    """One bar per candidate, the likeliest at the top; hover gives probability and raw logit."""
    look = find_theme(theme)
    n = len(distribution.texts)
    figure = go.Figure(
        go.Bar(
            x=distribution.probabilities.numpy(),
            y=list(range(n)),
            orientation="h",
            marker={"color": look.lines[0]},
            text=[f"{probability:.1%}" for probability in distribution.probabilities.tolist()],
            textposition="outside",
            cliponaxis=False,
            customdata=distribution.logits.numpy(),
            hovertext=[token_label(text, longest=None) for text in distribution.texts],
            hovertemplate="'%{hovertext}'<br>probability %{x:.6f}<br>logit %{customdata:.4f}<extra></extra>",
        )
    )
    themed(figure, look, title="What comes next", height=90 + 28 * n)
    room_for_text = 1.15 * float(distribution.probabilities[0])
    figure.update_xaxes(title_text="probability", tickformat=".0%", range=[0.0, room_for_text])
    figure.update_yaxes(
        title_text="candidate token",
        tickmode="array",
        tickvals=list(range(n)),
        ticktext=[token_label(text) for text in distribution.texts],
        range=[n - 0.5, -0.5],
        showgrid=False,
    )
    return figure
