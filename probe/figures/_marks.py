"""What figures of directions share: bands of intervals, titles of two lines, labels that do not cover one another."""

import textwrap
from collections.abc import Sequence

import plotly.graph_objects as go

from probe.figures._theme import Theme, themed

Spot = tuple[float, float, float, float]
"""Left, bottom, right, top (pixels)."""
_LETTER, _LINE, _AWAY = 6.8, 15.0, 5.0
"""About the size of a letter at font size 11, and how far a label stands from its point (pixels)."""


def faded(colour: str, opacity: float) -> str:
    """A colour '#rrggbb' that lets what is behind it through."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def interval_band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> go.Scatter:
    """The area between the ends of intervals."""
    return go.Scatter(
        x=[*x, *reversed(x)], y=[*high, *reversed(low)], fill="toself", fillcolor=faded(colour, 0.2), mode="lines",
        line={"width": 0}, hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def titled(figure: go.Figure, look: Theme, *, title: str, below: str, height: int, room: int = 0) -> go.Figure:
    """`themed`, with small letters under the title, both broken into lines that fit half a page; a legend below all.

    `height`: of all but what lines beyond the first two take; `room`: between titles and drawing (pixels).
    """
    large, small = _lines(title, 64), _lines(below, 76)
    texts = [*large, f'<span style="font-size:12px;color:{look.muted}">{"<br>".join(small)}</span>']
    more = 20 * len(large) + 16 * len(small) - 36 + room
    themed(figure, look, title="<br>".join(texts), height=height + more)
    legend = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    figure.update_layout(
        margin={"t": 72 + more}, legend=legend,
        title={"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 18, "l": 16}},
    )  # fmt: skip
    return figure


def _lines(text: str, longest: int) -> list[str]:
    return textwrap.wrap(text, longest, break_long_words=False, break_on_hyphens=False)


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
