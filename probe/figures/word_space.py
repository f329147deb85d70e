"""Slices of a space of words along directions that mean something: two or three axes out of many."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import BadShape, OutOfRange, UnknownName
from probe.figures._marks import label_places, name_label, pair_label, titled
from probe.figures._theme import Theme, ThemeName, find_theme, legend_below, token_label
from probe.geometry import cosine, principal_direction, unit, without
from probe.methods.directions import Direction, Source

Point = tuple[float, float]
LABELLED_PAIRS = 12
"""More labelled arrows than this hide one another; beyond it, hover names the others."""


def pair_arrows(direction: Direction, words: Sequence[str] | None = None, *, theme: ThemeName = "light") -> go.Figure:
    """An arrow from the negative to the positive word of each pair: across the direction, up what tells pairs apart.

    Parallel arrows of one length are what a direction promises. `words`: others, placed beside the pairs.

    Raises:
        UnknownName: a word without a vector.
    """
    look = find_theme(theme)
    pairs = direction.pairs
    up, upward = _across(direction)
    ends = [(side @ direction.vector, side @ up) for side in (pairs.negative, pairs.positive)]
    tails, heads = (list(zip(x.tolist(), y.tolist(), strict=True)) for x, y in ends)
    others = _vectors(direction.source, words) if words else pairs.middle[:0]
    beside = list(zip((others @ direction.vector).tolist(), (others @ up).tolist(), strict=True))
    figure = go.Figure()
    rows = _labelled(tails, heads, beside)
    for side, (points, name) in enumerate(((tails, "negative words"), (heads, "positive words"))):
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in points], y=[y for _, y in points], name=name, mode="markers+text", cliponaxis=False,
                marker={"color": look.lines[1 - side], "size": 6, "symbol": ("diamond", "circle")[side],
                        "opacity": [1.0 if row in rows else 0.4 for row in range(len(points))]},
                text=[token_label(both[1 - side]) if row in rows else "" for row, both in enumerate(pairs.words)],
                textposition=[
                    "middle right" if (head[0] > tail[0]) == bool(side) else "middle left"
                    for tail, head in zip(tails, heads, strict=True)
                ], textfont={"size": 11},
                customdata=[
                    [token_label(both[1 - side], longest=None), pair_label(both)] for both in pairs.words
                ],
                hovertemplate="%{customdata[0]}, of the pair %{customdata[1]}<br>"
                "along the direction %{x:+.4f}, up %{y:+.4f}<extra></extra>",
            )
        )  # fmt: skip
    for row, (tail, head) in enumerate(zip(tails, heads, strict=True)):
        other = head[0] <= tail[0]
        figure.add_annotation(
            x=head[0], y=head[1], ax=tail[0], ay=tail[1], xref="x", yref="y", axref="x", ayref="y", text="",
            showarrow=True, arrowhead=2, arrowwidth=1.6 if row in rows else 1.0, standoff=4, startstandoff=4,
            arrowcolor=look.lowers if other else look.muted, opacity=1.0 if other or row in rows else 0.4,
        )  # fmt: skip
    if words:
        figure.add_trace(_words(words, [x for x, _ in beside], [y for _, y in beside], look, "other words"))
    n_other = sum(head[0] <= tail[0] for tail, head in zip(tails, heads, strict=True))
    below = f"{direction.estimator} of {len(pairs)} pair{'s' if len(pairs) > 1 else ''}; the other way: {n_other}"
    titled(figure, look, f"{name_label(direction.name)} in {name_label(direction.source.name)}", below, height=560)
    legend_below(figure)
    figure.update_xaxes(title_text=f"along {name_label(direction.name)} (units of the vectors)")
    figure.update_yaxes(title_text=upward)
    return figure


def _across(direction: Direction) -> tuple[Float[Tensor, " d"], str]:
    """The axis up, at a right angle to the direction, and its title. One pair has a midpoint but no spread of them."""
    middle = without(direction.pairs.middle, direction.vector)
    if len(middle) == 1:
        return unit(middle[0]), "along the midpoint of the pair, direction removed<br>(units of the vectors)"
    up = _pointing_up(principal_direction(middle - middle.mean(0)))
    return up, "first principal component of the pairs' midpoints,<br>direction removed (units of the vectors)"


def _pointing_up(axis: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """One of the two signs, the same every time: the largest number is positive."""
    return axis * axis[axis.abs().argmax()].sign()


def _labelled(tails: list[Point], heads: list[Point], taken: list[Point]) -> set[int]:
    """The pairs whose words are written: those that point the other way first, then where there is room."""
    across, up = (max(values) - min(values) or 1.0 for values in zip(*tails, *heads, *taken, strict=True))
    order = sorted(range(len(tails)), key=lambda row: heads[row][0] > tails[row][0])
    kept: set[int] = set()
    taken = [*taken]
    for row in order:
        near = any(
            abs(x - a) < 0.2 * across and abs(y - b) < 0.06 * up for x, y in (tails[row], heads[row]) for a, b in taken
        )
        if not near and len(kept) < LABELLED_PAIRS:
            kept.add(row)
            taken += [tails[row], heads[row]]
    return kept


def two_directions(
    first: Direction, second: Direction, words: Sequence[str], *, theme: ThemeName = "light"
) -> go.Figure:
    """Words by where they stand on two directions of one source, drawn at a right angle whatever their cosine.

    Raises:
        OutOfRange: no words.
        UnknownName: a word without a vector.
        DifferentModel: directions of two sources.
    """
    look = find_theme(theme)
    if not words:
        raise OutOfRange("no words to place on the two directions")
    x, y = (direction.project(words, source=first.source).along.tolist() for direction in (first, second))
    figure = go.Figure(_words(words, x, y, look, "words"))
    figure.update_traces(
        hovertemplate="%{customdata}<br>across %{x:+.4f}, up %{y:+.4f}<extra></extra>", showlegend=False
    )
    titled(
        figure, look, f"{name_label(first.name)} and {name_label(second.name)}",
        f"cosine between the two directions {float(cosine(first.vector, second.vector)):+.3f}; "
        f"{name_label(first.source.name, longest=90)}",
        height=560,
    )  # fmt: skip
    for update, direction in ((figure.update_xaxes, first), (figure.update_yaxes, second)):
        update(
            title_text=f"along {name_label(direction.name)} (units of the vectors)", zeroline=True,
            zerolinecolor=look.muted,
        )  # fmt: skip
    return figure


def _words(words: Sequence[str], x: list[float], y: list[float], look: Theme, name: str) -> go.Scatter:
    """Points with their words."""
    return go.Scatter(
        x=x, y=y, mode="markers+text", name=name, cliponaxis=False, text=[token_label(word) for word in words],
        textposition=_beside(x, y, words), textfont={"size": 11},
        marker={"color": look.lines[2], "size": 7, "symbol": "square"},
        customdata=[token_label(word, longest=None) for word in words],
        hovertemplate="%{customdata}<br>along the direction %{x:+.4f}, up %{y:+.4f}<extra></extra>",
    )  # fmt: skip


def _beside(x: list[float], y: list[float], words: Sequence[str]) -> list[str]:
    """Where each label stands; every word keeps its label, also where none of the places around it is free."""
    places = label_places(x, y, [token_label(word) for word in words], width=900.0, height=420.0)
    return [place or "top center" for place in places]


def word_space_3d(
    words: Source,
    names: Sequence[str],
    axes: tuple[Direction, Direction, Direction] | None = None,
    *,
    theme: ThemeName = "light",
) -> go.Figure:
    """Named words in three dimensions: along three directions, or along the principal components of these very words.

    Raises:
        OutOfRange: not three axes; without axes, fewer than 4 words, which have no three principal components.
        BadShape: without axes, words whose vectors lie in a plane.
        UnknownName: a word without a vector.
        DifferentModel: an axis of another source.
    """
    look = find_theme(theme)
    if axes is None:
        points, titles = _principal(_vectors(words, names))
        title = f"{len(names)} words along their own principal components"
    else:
        if len(axes) != 3 or not names:
            raise OutOfRange(f"{len(axes)} axes, {len(names)} words: expected 3 and at least 1")
        points = torch.stack([axis.project(names, source=words).along for axis in axes], dim=-1)
        titles = [name_label(axis.name, longest=24) for axis in axes]
        title = f"{len(names)} words along three directions (units of the vectors)"
    x, y, z = points.T.tolist()
    figure = go.Figure(
        go.Scatter3d(
            x=x, y=y, z=z, mode="markers+text", text=[_label_3d(token_label(word)) for word in names],
            marker={"size": 4, "color": look.lines[0]}, textfont={"size": 11, "color": look.text},
            customdata=[token_label(word, longest=None) for word in names],
            hovertemplate="%{customdata}<br>%{x:+.4f}, %{y:+.4f}, %{z:+.4f}<extra></extra>",
        )
    )  # fmt: skip
    titled(figure, look, title, name_label(words.name, longest=90), height=620)
    shown = {
        "backgroundcolor": look.panel, "gridcolor": look.grid, "zerolinecolor": look.muted, "color": look.text,
        "showspikes": False, "tickfont": {"size": 10, "color": look.muted},
    }  # fmt: skip
    sides = {
        f"{letter}axis": {**shown, "title": {"text": _label_3d(text), "font": {"size": 11}}}
        for letter, text in zip("xyz", titles, strict=True)
    }
    camera = {"eye": {"x": 1.55, "y": 1.55, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.1}}
    figure.update_layout(scene={**sides, "bgcolor": look.background, "aspectmode": "cube", "camera": camera})
    return figure


def _label_3d(text: str) -> str:
    """An escaped text as it can stand in a scene, where plotly knows tags but not entities: ‹ for <."""
    return html.unescape(text.replace("&lt;", "‹").replace("&gt;", "›"))


def _principal(vectors: Float[Tensor, "word d"]) -> tuple[Float[Tensor, "word 3"], list[str]]:
    """Where words stand from their middle on their first three components, and what share of the variance each has."""
    if len(vectors) < 4:
        raise OutOfRange(f"{len(vectors)} words: three principal components need at least 4; or give three directions")
    centred = vectors - vectors.mean(0)
    _, sizes, components = torch.linalg.svd(centred, full_matrices=False)
    if len(sizes) < 3 or float(sizes[2]) <= 1e-9 * float(sizes[0]):
        raise BadShape(f"the vectors of these {len(vectors)} words lie in a plane: give three directions as axes")
    shares = sizes.square() / sizes.square().sum()
    axes = torch.stack([_pointing_up(axis) for axis in components[:3]], dim=-1)
    return centred @ axes, [f"component {n + 1} ({float(shares[n]):.0%} of the variance)" for n in range(3)]


def _vectors(source: Source, words: Sequence[str]) -> Float[Tensor, "word d"]:
    if missing := source.missing(words):
        raise UnknownName(next(iter(missing.values())))
    return source.vectors_of(words).double()
