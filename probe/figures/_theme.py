"""One look for all figures, light and dark: colours, fonts, axes, and how tokens are written in them."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from probe.errors import check_choice
from probe.tokens import show_token

if TYPE_CHECKING:
    import plotly.graph_objects

ThemeName = Literal["light", "dark"]
LONGEST_LABEL = 14
"""Characters of a token on an axis or in a cell; hover shows it whole."""
TITLE_WIDTH = 60
"""Characters of a title that fit beside a sidebar in a window of 800 pixels; longer ones are broken."""
TITLE_LINE = 19
"""Height of a line of the title (pixels)."""


@dataclass(frozen=True)
class Theme:
    """The colours of one look. Text on background and on every colour of a scale has a contrast of at least 4.5:1."""

    background: str
    panel: str
    """Colour behind the data: what a masked cell shows."""
    text: str
    muted: str
    """Colour of secondary text."""
    grid: str
    sequential: tuple[str, ...]
    """Scale of unsigned values, from zero up: probabilities, weights, data."""
    diverging: tuple[str, ...]
    """Scale of signed values, centred at zero: orange lowers, blue raises."""
    raises: str
    lowers: str
    """Colours of bars of signed values."""
    lines: tuple[str, ...]
    """Colours of kinds (told apart by dashes too); safe for colour-blind readers. Source: Okabe and Ito (2008)."""
    shade: str
    """Colour of a region that is marked as doubtful."""


THEMES: dict[str, Theme] = {
    "light": Theme(
        background="#ffffff",
        panel="#f3f4f6",
        text="#1b1f24",
        muted="#57606a",
        grid="#d8dee4",
        sequential=("#ffffff", "#d6e6f4", "#9ecae1", "#4a98c9", "#2166ac", "#083a73"),
        diverging=("#b35806", "#f1a340", "#ffffff", "#92c5de", "#2166ac"),
        raises="#2166ac",
        lowers="#b35806",
        lines=("#0072b2", "#b34700", "#00795a", "#a3477f", "#7a5c00", "#4f5b66"),
        shade="rgba(179, 88, 6, 0.10)",
    ),
    "dark": Theme(
        background="#14171a",
        panel="#1d2125",
        text="#e8eaed",
        muted="#a2abb4",
        grid="#353b42",
        sequential=("#14171a", "#16324a", "#1d5282", "#3880bd", "#7db7de", "#d5e9f7"),
        diverging=("#f1a340", "#8a5212", "#14171a", "#1d5282", "#7db7de"),
        raises="#7db7de",
        lowers="#f1a340",
        lines=("#56b4e9", "#f0934e", "#3fc79a", "#e39ac4", "#e6c34a", "#b6c0ca"),
        shade="rgba(240, 147, 78, 0.14)",
    ),
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def find_theme(name: ThemeName) -> Theme:
    """The theme of this name.

    Raises:
        UnknownName: neither light nor dark.
    """
    check_choice("theme", name, get_args(ThemeName))
    return THEMES[name]


def themed(
    figure: "plotly.graph_objects.Figure", theme: Theme, *, title: str, height: int
) -> "plotly.graph_objects.Figure":
    """The figure with fonts, colours and margins of a theme. Titles are ours, so they may hold markup.

    A long title is broken and makes its own room; who sets the top margin later sees to that itself.
    """
    title, *below = title.split("<br>", 1)
    lines = broken(title, TITLE_WIDTH)
    text, more = "<br>".join([*lines, *below]), TITLE_LINE * (len(lines) - 1)
    axis = {
        "gridcolor": theme.grid, "linecolor": theme.grid, "zeroline": False, "automargin": True,
        "title": {"standoff": 12}, "ticks": "",
        "ticklabeloverflow": "allow",  # the margins make room; else plotly measures every label after every change
    }  # fmt: skip
    figure.update_layout(
        title={"text": text, "x": 0, "xref": "container", "pad": {"l": 16}, "font": {"size": 15}},
        height=height + more,
        margin={"l": 16, "r": 16, "t": 56 + more, "b": 16},
        paper_bgcolor=theme.background,
        plot_bgcolor=theme.panel,
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": theme.text},
        hoverlabel={"bgcolor": theme.panel, "bordercolor": theme.grid, "font": {"color": theme.text}},
        template=None,
    )
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    return figure


def broken(text: str, width: int) -> list[str]:
    """The lines that a text is broken into. What was escaped or marked up counts with its signs, so a little early."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def legend_below(figure: "plotly.graph_objects.Figure") -> None:
    """The legend under everything else: above, it would cover the title where the window is narrow."""
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    )


def colour_scale(colours: Sequence[str]) -> list[tuple[float, str]]:
    """Evenly spaced."""
    return [(index / (len(colours) - 1), colour) for index, colour in enumerate(colours)]


def coloured_texts(
    labels: Sequence[Sequence[str]], shares: np.ndarray, scale: Sequence[tuple[float, str]]
) -> list[list[str]]:
    """Each label in black or white, whichever stands out from its cell's colour; `shares` of the scale, 0 to 1.

    One of the two always has a contrast of at least 4.5:1, which plotly's own choice has not.
    """
    return [
        [f'<span style="color:{text_on(share, scale)}">{label}</span>' for label, share in zip(*row, strict=True)]
        for row in zip(labels, shares.tolist(), strict=True)
    ]


def text_on(share: float, scale: Sequence[tuple[float, str]]) -> str:
    """Black or white, for text on the colour at this share of a scale."""
    luminance = luminance_of(colour_at(share, scale))
    return "#000000" if luminance > 0.179 else "#ffffff"  # where both have the same contrast


def colour_at(share: float, scale: Sequence[tuple[float, str]]) -> tuple[float, ...]:
    """Red, green and blue, 0 to 1, as plotly interpolates."""
    share = min(max(share, 0.0), 1.0)
    upper = next(index for index in range(1, len(scale)) if share <= scale[index][0])
    (below, dark), (above, bright) = scale[upper - 1], scale[upper]
    part = (share - below) / (above - below)
    return tuple(a + (b - a) * part for a, b in zip(_channels(dark), _channels(bright), strict=True))


def luminance_of(colour: Sequence[float]) -> float:
    """Relative luminance. Source: WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def colour_bar(theme: Theme, title: str, **options: Any) -> dict[str, Any]:
    """The key of a heatmap, its title carrying the unit."""
    return {
        "title": {"text": title, "side": "right", "font": {"color": theme.muted}},
        "thickness": 12, "outlinewidth": 0, "tickfont": {"color": theme.muted}, **options,
    }  # fmt: skip


def token_label(text: str, *, longest: int | None = LONGEST_LABEL) -> str:
    """A token as a figure writes it: spaces visible, shortened, and never taken for markup."""
    shown = show_token(text)
    if longest is not None and len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    return html.escape(shown, quote=False)


def token_axis(texts: Sequence[str], *, title: str, **options: Any) -> dict[str, Any]:
    """An axis of tokens: numbers with texts beside them, since plotly merges labels that repeat."""
    return {
        "title": {"text": title, "standoff": 12},
        "tickmode": "array",
        "tickvals": list(range(len(texts))),
        "ticktext": [token_label(text) for text in texts],
        "showgrid": False,
        **options,
    }
