"""Layer by head (or by position, or one column), one number each: what every map of the kind shares."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from probe.figures._theme import Theme, colour_bar, colour_scale, text_on, themed

NAMED = 5
"""Heads that are named on a map: those with the largest values by size."""


class Cells(NamedTuple):
    """Values that stand in some layers and columns, as tables of those."""

    layers: list[int]
    columns: list[int]
    values: np.ndarray
    """(layer, column); NaN where there is none."""
    hatched: np.ndarray


def cell_tables(places: Sequence[tuple[int, int]], values: Sequence[float], hatched: Sequence[bool]) -> Cells:
    """Tables of what stands at each (layer, column)."""
    layers, columns = (sorted({place[which] for place in places}) for which in (0, 1))
    shape = len(layers), len(columns)
    found = Cells(layers, columns, np.full(shape, np.nan), np.zeros(shape, dtype=bool))
    for (layer, column), value, crossed in zip(places, values, hatched, strict=True):
        at = layers.index(layer), columns.index(column)
        found.values[at], found.hatched[at] = value, crossed
    return found


def head_map(
    values: np.ndarray, look: Theme, *, title: str, unit: str, signed: bool, largest: float | None = None,
    columns: Sequence[str] | None = None, hover: str = "%{z:.4f}", layers: Sequence[int] | None = None,
    across: str | None = None, hovered: Sequence[str] | None = None, hatched: np.ndarray | None = None,
    named: int = NAMED,
) -> go.Figure:  # fmt: skip
    """(layer, column) as a heatmap, layer 0 at the top; signed values on a diverging scale centred at zero.

    `columns` label what is not numbered heads, `across` says what they are, `hovered` is the same at length. `layers`:
    those of the rows, where they are not all. `hatched`: cells to cross out; the `named` largest of the others carry
    their value.
    """
    n_layers, n_columns = values.shape
    finite = np.abs(values[np.isfinite(values)])
    end = largest if largest is not None else float(finite.max()) if finite.size else 1.0
    end = end or 1.0
    scale = colour_scale(look.diverging if signed else look.sequential)
    low = -end if signed else 0.0
    rows = list(range(n_layers) if layers is None else layers)
    names = hovered or columns or [f"head {head}" for head in range(n_columns)]
    figure = go.Figure(
        go.Heatmap(
            z=values.astype(np.float32), zmin=low, zmax=end, colorscale=scale, colorbar=colour_bar(look, unit),
            xgap=1, ygap=1, hoverongaps=False,
            customdata=np.array([[[layer, name] for name in names] for layer in rows], dtype=object),
            hovertemplate="layer %{customdata[0]}, %{customdata[1]}<br>" + hover + "<extra></extra>",
        )
    )  # fmt: skip
    shown = np.nan_to_num(np.abs(values))
    if hatched is not None and hatched.any():
        figure.add_trace(_hatching(hatched, look))
        shown = np.where(hatched, 0.0, shown) if not hatched[np.isfinite(values)].all() else shown
    for place in np.argsort(-shown, axis=None, kind="stable")[:named].tolist():
        layer, column = divmod(place, n_columns)
        value = float(values[layer, column])
        if shown[layer, column] > 0.0:
            figure.add_annotation(
                x=column, y=layer, text=f"{value:.2f}", showarrow=False,
                font={"size": 9, "color": text_on((value - low) / (end - low), scale)},
            )  # fmt: skip
    themed(figure, look, title=title, height=max(300, 150 + 16 * n_layers))
    figure.update_xaxes(
        title_text=across if across is not None else "head" if columns is None else "",
        showgrid=False, tickmode="array", tickvals=list(range(n_columns)),
        ticktext=list(columns or [str(head) for head in range(n_columns)]), range=[-0.5, n_columns - 0.5],
    )  # fmt: skip
    figure.update_yaxes(title_text="layer", showgrid=False, range=[n_layers - 0.5, -0.5])
    if layers is None:
        figure.update_yaxes(dtick=max(1, n_layers // 15))
    else:
        every = list(range(0, n_layers, max(1, n_layers // 15)))
        figure.update_yaxes(tickmode="array", tickvals=every, ticktext=[str(rows[row]) for row in every])
    return figure


def _hatching(cells: np.ndarray, look: Theme) -> go.Scatter:
    """Slanted lines over cells, drawn as one trace: heatmaps have no patterns of their own."""
    n = max(1, round(_STROKES / cells.shape[1]))
    x: list[float | None] = []
    y: list[float | None] = []
    for row, column in np.argwhere(cells).tolist():
        for stroke in range(n):
            x += [column - 0.5 + (stroke + 0.15) / n, column - 0.5 + (stroke + 0.85) / n, None]
            y += [row + 0.4, row - 0.4, None]
    line = {"color": look.muted, "width": 1}
    return go.Scatter(x=x, y=y, mode="lines", line=line, opacity=0.7, hoverinfo="skip", showlegend=False)


_STROKES = 54
"""Across a whole row, about."""
