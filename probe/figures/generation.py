"""Figures of a generation's steps and of a scored text."""

from collections.abc import Sequence

import plotly.graph_objects as go

from probe.errors import OutOfRange, check_index
from probe.figures._theme import ThemeName, find_theme, legend_below, themed, token_axis, token_label
from probe.generation import Generation, Step
from probe.methods.surprise import TextScores
from probe.sampling import LARGEST_TEMPERATURE

SLIDER = tuple(tenths / 10 for tenths in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 35, 40, 45, 50))
"""Temperatures that can be chosen: close where the distribution changes fast."""
assert SLIDER[-1] == LARGEST_TEMPERATURE


def step_bars(
    step: Step, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
    most: int = 20, theme: ThemeName = "light",
) -> go.Figure:  # fmt: skip
    """The candidates of one step with a slider for the temperature: at 0 the likeliest takes all.

    Of the `top_k` likeliest only, or of as many as make up `top_p`, if that is asked for. The chosen token's bar is
    set off; the last bar is all others together. Without the model: a step keeps what is needed. The slider begins at
    the nearest of its temperatures.

    Raises:
        OutOfRange: `most` below 1; a top k or top p that cannot be sampled with.
    """
    if most < 1:
        raise OutOfRange(f"most={most}: expected at least 1")
    look = find_theme(theme)
    n = min(most, len(step.distribution.texts))
    heights = {at: _bars_at(step, n, at, top_k, top_p) for at in SLIDER}
    start = min(SLIDER, key=lambda at: abs(at - temperature))
    listed = step.distribution.tokens[:n].tolist()
    colours = [look.lowers if token == step.token else look.lines[0] for token in listed] + [look.muted]
    names = [token_label(text) for text in step.distribution.texts[:n]] + ["all others"]
    logits = [f"{logit:.3f}" for logit in step.distribution.logits[:n].tolist()] + ["-"]
    figure = go.Figure(
        go.Bar(
            x=heights[start], y=list(range(n + 1)), orientation="h", marker={"color": colours},
            text=[f"{height:.1%}" for height in heights[start]], textposition="outside", cliponaxis=False,
            customdata=logits, hovertext=[*map(_whole, step.distribution.texts[:n]), "all others"],
            hovertemplate="'%{hovertext}'<br>probability %{x:.6f}<br>raw logit %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    steps = [
        {
            "label": f"{at:g}", "method": "restyle",
            "args": [{"x": [heights[at]], "text": [[f"{height:.1%}" for height in heights[at]]]}],
        }
        for at in SLIDER
    ]  # fmt: skip
    place = "" if step.token in listed else f", rank {step.rank:,}"
    title = f"What could stand at position {step.position} (chosen: '{token_label(step.text)}'{place})"
    among = [*([f"the {top_k} likeliest"] if top_k else []), *([f"the likeliest {top_p:.0%}"] if top_p else [])]
    title += f", among {' and '.join(among)}" if among else ""
    themed(figure, look, title=title, height=190 + 22 * (n + 1))
    figure.update_layout(
        sliders=[{
            "active": SLIDER.index(start), "steps": steps, "currentvalue": {"prefix": "temperature "},
            "pad": {"t": 48}, "bgcolor": look.grid, "activebgcolor": look.lines[0], "bordercolor": look.grid,
            "tickcolor": look.muted, "font": {"color": look.muted},
        }],
    )  # fmt: skip
    figure.update_xaxes(title_text="probability", tickformat=".0%", range=[0.0, 1.12])
    figure.update_yaxes(
        title_text="candidate token", tickmode="array", tickvals=list(range(n + 1)), ticktext=names,
        range=[n + 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    return figure


def choice_bar(
    step: Step, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
    most: int = 64, theme: ThemeName = "light",
) -> go.Figure:  # fmt: skip
    """The distribution as one bar from 0 to 1, the likeliest token first, and where the number drawn fell.

    `temperature`, `top_k` and `top_p` should be those that the step was made with: then the mark lies on its token.
    """
    look = find_theme(theme)
    chances = step.distribution.probabilities(temperature, top_k=top_k, top_p=top_p)[:most].tolist()
    texts = step.distribution.texts[: len(chances)]
    figure = go.Figure()
    start = 0.0
    shades = (look.sequential[2], look.sequential[3])
    for number, (chance, text) in enumerate(zip(chances, texts, strict=True)):
        chosen = int(step.distribution.tokens[number]) == step.token
        figure.add_trace(_piece(start, chance, text, look.lowers if chosen else shades[number % 2]))
        start += chance
    figure.add_trace(_piece(start, max(0.0, 1.0 - start), "all others", look.grid))
    if step.drawn is not None:
        figure.add_vline(x=step.drawn, line={"color": look.text, "width": 2})
        figure.add_annotation(
            x=step.drawn, y=1.0, yref="paper", yanchor="bottom", showarrow=False, font={"color": look.text},
            xanchor="left" if step.drawn < 0.5 else "right",
            text=f"drawn: {step.drawn:.4f}",
        )  # fmt: skip
    drawn = "temperature 0: nothing drawn" if step.drawn is None else f"chosen: '{token_label(step.text)}'"
    themed(figure, look, title=f"The number drawn ({drawn})", height=180)
    figure.update_layout(barmode="stack", showlegend=False, bargap=0.1, margin={"t": 78})
    figure.update_xaxes(title_text="cumulative probability, the likeliest token first", range=[0.0, 1.0])
    figure.update_yaxes(visible=False)
    return figure


def surprise_bars(scored: Generation | TextScores, *, prompt: int = 0, theme: ThemeName = "light") -> go.Figure:
    """How surprising each token was (nats), of a generation or of a given text; the likeliest ones are fainter.

    The line is the entropy before each token: the surprise to be expected.

    Raises:
        OutOfRange: no such prompt.
    """
    look = find_theme(theme)
    texts, surprise, entropy, ranks = _tokens_of(scored, prompt)
    places = list(range(len(texts)))
    figure = go.Figure(
        go.Bar(
            x=places, y=surprise, name="surprise",
            marker={"color": [look.sequential[2] if rank == 1 else look.lines[0] for rank in ranks]},
            customdata=list(zip(map(_whole, texts), ranks, strict=True)),
            hovertemplate="'%{customdata[0]}'<br>surprise %{y:.3f} nats<br>rank %{customdata[1]:,}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=places, y=entropy, name="entropy before it", mode="lines+markers", marker={"size": 4},
            line={"color": look.lines[1], "dash": "dot"}, hovertemplate="entropy %{y:.3f} nats<extra></extra>",
        )
    )  # fmt: skip
    themed(figure, look, title="How surprising each token was (faint: it was the likeliest)", height=380)
    legend_below(figure)
    figure.update_xaxes(token_axis(texts, title="token", tickangle=-60, range=[-0.6, len(texts) - 0.4]))
    figure.update_yaxes(title_text="nats", rangemode="tozero")
    return figure


def _bars_at(step: Step, n: int, temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    """The first n candidates, then all others."""
    chances = step.distribution.probabilities(temperature, top_k=top_k, top_p=top_p)[:n].tolist()
    return [*chances, max(0.0, 1.0 - sum(chances))]


def _piece(start: float, width: float, text: str, colour: str) -> go.Bar:
    return go.Bar(
        x=[width], base=start, y=[0], orientation="h", marker={"color": colour, "line": {"width": 0}},
        text=token_label(text) if width > 0.04 else "", textposition="inside", insidetextanchor="middle",
        hovertext=_whole(text), hovertemplate="'%{hovertext}'<br>probability %{x:.4f}<extra></extra>",
    )  # fmt: skip


def _tokens_of(
    scored: Generation | TextScores, prompt: int
) -> tuple[list[str], Sequence[float], Sequence[float], Sequence[int]]:
    """Texts, surprises, entropies and ranks of the tokens that were predicted."""
    if isinstance(scored, Generation):
        steps = scored.steps
        return (
            [step.text for step in steps], [step.surprise for step in steps], [step.entropy for step in steps],
            [step.rank for step in steps],
        )  # fmt: skip
    prompt = check_index("prompt", prompt, len(scored.str_tokens), owner="this text score")
    texts = scored.str_tokens[prompt][1:]
    kept = (prompt, slice(0, len(texts)))
    return texts, scored.surprise[kept].tolist(), scored.entropy[kept].tolist(), scored.rank[kept].tolist()


def _whole(text: str) -> str:
    return token_label(text, longest=None)
