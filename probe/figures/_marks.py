"""What figures of directions share: titles with the finding below, bands, lines with gaps, labels that stay apart."""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import plotly.graph_objects as go

from probe.figures._theme import TITLE_LINE, TITLE_WIDTH, Theme, broken, themed, token_label
from probe.statistics import Estimate

Spot = tuple[float, float, float, float]
"""Left, bottom, right, top (pixels)."""
_SMALL_WIDTH = 70
"""Characters of a smaller line that fit where `TITLE_WIDTH` of the title do."""
_LETTER, _LINE, _AWAY = 6.8, 15.0, 5.0
"""About the size of a letter at font size 11, and how far a label stands from its point (pixels)."""


def titled(figure: go.Figure, theme: Theme, title: str, *below: str, height: int) -> go.Figure:
    """The figure themed, with smaller lines under its title. Titles are ours: names in them go through `name_label`."""
    lines = [line for one in below for line in broken(one, _SMALL_WIDTH)]
    small = "".join(f'<br><span style="font-size:12px;color:{theme.muted}">{line}</span>' for line in lines)
    themed(figure, theme, title=title + small, height=height)
    top = 52 + TITLE_LINE * (len(broken(title, TITLE_WIDTH)) - 1) + 17 * len(lines)
    figure.update_layout(margin={"t": top}, title={"y": 1 - 14 / height, "yanchor": "top"})
    return figure


def name_label(text: str, *, longest: int | None = 48) -> str:
    """A direction's, a model's or a word's name as it stands in a title: shortened, and never taken for markup."""
    return token_label(text, longest=longest)


def pair_label(pair: tuple[str, str], *, longest: int | None = None) -> str:
    """'cats - cat'."""
    return " - ".join(token_label(word, longest=longest) for word in pair)


def faded(colour: str, share: float) -> str:
    """A colour of the theme, of which only a share covers what is behind it."""
    channels = ", ".join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))
    return f"rgba({channels}, {share:g})"


def band(places: Sequence[float], estimates: Iterable[Estimate], colour: str) -> go.Scatter:
    """The intervals of a line as one area; places without an interval are left out."""
    kept = [
        (place, one.low, one.high)
        for place, one in zip(places, estimates, strict=True)
        if isfinite(one.low) and isfinite(one.high)
    ]
    x, low, high = ([row[column] for row in kept] for column in range(3))
    return go.Scatter(
        x=[*x, *reversed(x)], y=[*high, *reversed(low)], mode="lines", fill="toself", fillcolor=faded(colour, 0.18),
        line={"width": 0}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def with_gaps(rows: Iterable[Sequence[float]]) -> list[float | None]:
    """Several lines in one trace: a gap after each."""
    return [value for row in rows for value in (*row, None)]


def panel(row: int) -> dict[str, Any]:
    """Where something is drawn in a figure of several panels, one below the other."""
    return {"row": row, "col": 1}


def label_places(
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    *,
    width: float,
    height: float,
    all_points: bool = True,
) -> list[str | None]:
    """Where each label stands beside its point: a plotly textposition; None where it would cover another.

    Earlier points choose first. `width`, `height`: of the drawing (pixels), about; `all_points`: labels keep off the
    points too.
    """
    across, up = _pixels(x, width), _pixels(y, height)
    taken: list[Spot] = [(a - 3, b - 3, a + 3, b + 3) for a, b in zip(across, up, strict=True)] if all_points else []
    found: list[str | None] = []
    for number, (a, b, text) in enumerate(zip(across, up, texts, strict=True)):
        spots = _spots(a, b, _LETTER * len(text))
        others = [spot for place, spot in enumerate(taken) if not all_points or place != number]
        free = [name for name, spot in spots.items() if not any(_meet(spot, other) for other in others)]
        found.append(free[0] if free else None)
        if free:
            taken.append(spots[free[0]])
    return found


def _pixels(values: Sequence[float], size: float) -> list[float]:
    least, reach = min(values), (max(values) - min(values)) or 1.0
    return [(value - least) / reach * size for value in values]


def _spots(a: float, b: float, width: float) -> dict[str, Spot]:
    """Around a point, the best place first."""
    half, near, far = width / 2, _AWAY, _AWAY + _LINE
    return {
        "top center": (a - half, b + near, a + half, b + far),
        "bottom center": (a - half, b - far, a + half, b - near),
        "middle right": (a + near, b - _LINE / 2, a + near + width, b + _LINE / 2),
        "middle left": (a - near - width, b - _LINE / 2, a - near, b + _LINE / 2),
        "top right": (a + near, b + near, a + near + width, b + far),
        "top left": (a - near - width, b + near, a - near, b + far),
        "bottom right": (a + near, b - far, a + near + width, b - near),
        "bottom left": (a - near - width, b - far, a - near, b - near),
    }


def _meet(one: Spot, other: Spot) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
