"""Figures of `methods/distribution.py`."""

import plotly.graph_objects as go

from probe.errors import BadShape
from probe.figures._theme import ThemeName, find_theme, legend_below, themed, token_label
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
    figure.update_xaxes(title_text="probability", tickformat="~%", range=[0.0, room_for_text])
    figure.update_yaxes(
        title_text="candidate token",
        tickmode="array",
        tickvals=list(range(n)),
        ticktext=[token_label(text) for text in distribution.texts],
        range=[n - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def next_token_change(before: NextTokens, after: NextTokens, *, theme: ThemeName = "light") -> go.Figure:
    """Probabilities of the same tokens in two runs, two bars each; the likeliest in either stand at the top.

    Raises:
        BadShape: the two list different tokens; `next_tokens(..., tokens=...)` lists the same.
    """
    if before.tokens.tolist() != after.tokens.tolist():
        raise BadShape("before and after list different tokens: call next_tokens with the same tokens=[...] for both")
    look = find_theme(theme)
    pairs = zip(before.probabilities.tolist(), after.probabilities.tolist(), strict=True)
    order = [place for place, _ in sorted(enumerate(pairs), key=lambda one: -max(one[1]))]
    texts = [before.texts[place] for place in order]
    places = list(range(len(order)))
    figure = go.Figure()
    for name, run, colour in (("before", before, look.muted), ("after", after, look.lines[0])):
        chances, logits = run.probabilities[order], run.logits[order]
        figure.add_trace(
            go.Bar(
                x=chances.numpy(), y=places, orientation="h", name=name, marker={"color": colour},
                text=[f"{chance:.1%}" for chance in chances.tolist()], textposition="outside", cliponaxis=False,
                customdata=logits.numpy(), hovertext=[token_label(text, longest=None) for text in texts],
                hovertemplate=f"'%{{hovertext}}' {name}<br>probability %{{x:.6f}}<br>logit %{{customdata:.4f}}"
                "<extra></extra>",
            )
        )  # fmt: skip
    title = f"What comes next, before and after (entropy {before.entropy:.2f} and {after.entropy:.2f} nats)"
    themed(figure, look, title=title, height=120 + 34 * len(order))
    most = max(float(before.probabilities.max()), float(after.probabilities.max()))
    legend_below(figure)
    figure.update_layout(bargap=0.2)
    figure.update_xaxes(title_text="probability", tickformat="~%", range=[0.0, 1.15 * most])
    figure.update_yaxes(
        title_text="candidate token", tickmode="array", tickvals=places, showgrid=False,
        ticktext=[token_label(text) for text in texts], range=[len(order) - 0.5, -0.5],
    )  # fmt: skip
    return figure
