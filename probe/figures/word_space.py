"""Words as points: the pairs of a direction as arrows, words on two directions, and a slice in three dimensions.

Each figure is a slice of a space of many more dimensions: words that stand together in it may be far apart in others.
"""

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from probe.contexts import WordsInContext
from probe.errors import OutOfRange, UnknownName
from probe.figures._marks import faded, label_places, titled
from probe.figures._theme import ThemeName, find_theme, themed, token_label
from probe.geometry import without
from probe.methods.directions import Direction
from probe.words import WordVectors

MOST_LABELS = 30
"""Pairs that are labelled, where there is room."""
FEWEST_WORDS = 4
"""In a slice of three dimensions: three words lie in a plane."""
_WIDTH = 420.0
"""Of a drawing, about (pixels), where two figures share the width of a page."""


def pair_arrows(direction: Direction, *, theme: ThemeName = "light") -> go.Figure:
    """An arrow from the negative to the positive word of every pair that the direction was fitted on.

    Across: the direction itself. Up: the first principal component of the pairs' midpoints with the direction removed,
    that is, what tells the pairs from one another most. Of the first 30 pairs those words are labelled that find room;
    hover names all.
    """
    look = find_theme(theme)
    pairs = direction.pairs
    upwards, share = _components(without(pairs.middle, direction.vector), 1)
    tails, tips = (
        (side @ torch.stack([direction.vector, upwards[0]]).T).tolist() for side in (pairs.negative, pairs.positive)
    )
    figure = go.Figure(
        go.Scatter(
            x=[x for tail, tip in zip(tails, tips, strict=True) for x in (tail[0], tip[0], None)],
            y=[y for tail, tip in zip(tails, tips, strict=True) for y in (tail[1], tip[1], None)],
            mode="lines+markers", line={"width": 1, "color": faded(look.muted, 0.7)}, hoverinfo="skip",
            showlegend=False,
            marker={"symbol": "arrow", "angleref": "previous", "size": [0, 9, 0] * len(pairs), "color": look.muted},
        )
    )  # fmt: skip
    n = min(MOST_LABELS, len(pairs))
    points = [point for both in zip(tails, tips, strict=True) for point in both]
    words = [word for positive, negative in pairs.words for word in (negative, positive)]
    labels = [token_label(word) if place < 2 * n else "" for place, word in enumerate(words)]
    places = label_places([a for a, _ in points], [b for _, b in points], labels, width=_WIDTH, height=400)
    for side, (name, colour, symbol) in enumerate(
        (("negative", look.lines[1], "diamond"), ("positive", look.lines[0], "circle"))
    ):
        own = range(side, len(words), 2)
        figure.add_scatter(
            x=[points[one][0] for one in own], y=[points[one][1] for one in own], name=f"{name} words",
            mode="markers+text", marker={"color": colour, "symbol": symbol, "size": 6},
            text=[labels[one] if places[one] else "" for one in own], textfont={"color": look.text, "size": 11},
            textposition=[places[one] or "top center" for one in own],
            hovertext=[" - ".join(token_label(word, longest=None) for word in pair) for pair in pairs.words],
            hovertemplate="%{hovertext}<br>along the direction %{x:+.4f}<br>upwards %{y:+.4f}<extra></extra>",
        )  # fmt: skip
    title = (
        f"{token_label(direction.name, longest=60)}: {len(pairs)} pairs, a slice of {len(direction.vector)} dimensions"
    )
    below = f"{token_label(direction.source.name, longest=60)}; the mean gap along the direction is {direction.gap:.4f}"
    titled(figure, look, title=title, below=below, height=600)
    figure.update_xaxes(title_text=f"along {token_label(direction.name, longest=40)} (units of the source)")
    figure.update_yaxes(
        title_text="first component of the midpoints, direction removed<br>"
        f"(units of the source; {share[0]:.0%} of their variance)"
    )
    return figure


def two_directions(
    first: Direction, second: Direction, words: Sequence[str], *, theme: ThemeName = "light"
) -> go.Figure:
    """Where words stand on two directions of one source. The axes are drawn square, whatever their real angle: the
    title has its cosine.

    Raises:
        UnknownName: a word without a vector.
        DifferentModel: directions that were found in different sources.
        OutOfRange: no words.
    """
    look = find_theme(theme)
    if not words:
        raise OutOfRange("no words to place on the two directions")
    across = first.project(words).along.tolist()
    up = second.project(words, source=first.source).along.tolist()
    labels = [token_label(word) for word in words]
    places = label_places(across, up, labels, width=0.8 * _WIDTH, height=330)
    figure = go.Figure(
        go.Scatter(
            x=across, y=up, mode="markers+text", text=labels, textposition=[place or "top center" for place in places],
            marker={"color": look.lines[0], "size": 7}, textfont={"color": look.text, "size": 12},
            hovertext=[token_label(word, longest=None) for word in words], cliponaxis=False,
            hovertemplate="%{hovertext}<br>across %{x:+.4f}<br>up %{y:+.4f}<extra></extra>",
        )
    )  # fmt: skip
    names = [token_label(one.name, longest=40) for one in (first, second)]
    title = f"{names[0]} and {names[1]}: cosine {float(first.vector @ second.vector):+.3f}"
    below = f"{token_label(first.source.name, longest=60)}; two of {len(first.vector)} dimensions"
    titled(figure, look, title=title, below=below, height=560)
    figure.update_xaxes(title_text=f"along {names[0]} (units of the source)", range=_wide(across))
    figure.update_yaxes(title_text=f"along {names[1]} (units of the source)", range=_wide(up))
    return figure


def word_space_3d(
    source: WordVectors | WordsInContext, names: Sequence[str], *, theme: ThemeName = "light"
) -> go.Figure:
    """Words on the first three principal components of their own vectors.

    Raises:
        UnknownName: a word without a vector.
        OutOfRange: fewer than 4 words.
    """
    look = find_theme(theme)
    if len(names) < FEWEST_WORDS:
        raise OutOfRange(f"{len(names)} words: a slice of three dimensions needs {FEWEST_WORDS}")
    if missing := source.missing(names):
        raise UnknownName(next(iter(missing.values())))
    vectors = source.vectors_of(list(names)).double()
    axes, shares = _components(vectors, 3)
    points = ((vectors - vectors.mean(0)) @ axes.T).T.tolist()
    figure = go.Figure(
        go.Scatter3d(
            x=points[0], y=points[1], z=points[2], mode="markers+text", text=[token_label(name) for name in names],
            marker={"color": look.lines[0], "size": 4}, textfont={"color": look.text, "size": 11},
            hovertext=[token_label(name, longest=None) for name in names],
            hovertemplate="%{hovertext}<br>%{x:+.4f}, %{y:+.4f}, %{z:+.4f}<extra></extra>",
        )
    )  # fmt: skip
    title = f"{len(names)} words in {token_label(source.name, longest=60)}: {sum(shares):.0%} of their variance"
    themed(figure, look, title=title, height=620)
    axis = {"gridcolor": look.grid, "zerolinecolor": look.muted, "color": look.text}
    scene = {
        f"{name}axis": {
            **axis,
            "title": {"text": f"component {number} ({share:.0%} of variance)", "font": {"size": 11}},
        }
        for number, (name, share) in enumerate(zip("xyz", shares, strict=True), 1)
    }
    figure.update_layout(
        scene={
            **scene,
            "bgcolor": look.background,
            "camera": {"eye": {"x": 1.2, "y": 2.0, "z": 1.0}},
            "domain": {"x": [0.05, 1.0]},
        }
    )
    return figure


def _components(vectors: Float[Tensor, "word d"], n: int) -> tuple[Float[Tensor, "n d"], list[float]]:
    """Principal components, each with its largest entry positive, since their sign is arbitrary; shares of variance."""
    _, lengths, axes = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    axes = axes[:n]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variances = lengths.square()
    return axes * signs, (variances[:n] / variances.sum()).nan_to_num().tolist()


def _wide(values: Sequence[float]) -> list[float]:
    """The range of an axis with room for labels beside the outermost points."""
    room = 0.12 * (max(values) - min(values)) or 1.0
    return [min(values) - room, max(values) + room]
