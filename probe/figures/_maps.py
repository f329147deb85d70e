"""Layer by head, one number each: what every map of heads shares."""

import numpy as np
import plotly.graph_objects as go

from probe.figures._theme import Theme, colour_bar, colour_scale, text_on, themed

NAMED = 5
"""Heads that are named on a map: those with the largest values by size."""


def head_map(
    values: np.ndarray, look: Theme, *, title: str, unit: str, signed: bool, largest: float | None = None,
    columns: list[str] | None = None, hover: str = "%{z:.4f}",
) -> go.Figure:  # fmt: skip
    """(layer, column) as a heatmap, layer 0 at the top; signed values on a diverging scale centred at zero.

    `columns` name what is not numbered heads. The largest few are named in their cells.
    """
    n_layers, n_columns = values.shape
    finite = np.abs(values[np.isfinite(values)])
    end = largest if largest is not None else float(finite.max()) if finite.size else 1.0
    end = end or 1.0
    scale = colour_scale(look.diverging if signed else look.sequential)
    low = -end if signed else 0.0
    names = columns or [f"head {head}" for head in range(n_columns)]
    figure = go.Figure(
        go.Heatmap(
            z=values.astype(np.float32), zmin=low, zmax=end, colorscale=scale, colorbar=colour_bar(look, unit),
            xgap=1, ygap=1, hoverongaps=False,
            customdata=np.array([[name for name in names] for _ in range(n_layers)]),
            hovertemplate="layer %{y}, %{customdata}<br>" + hover + "<extra></extra>",
        )
    )  # fmt: skip
    order = np.argsort(-np.nan_to_num(np.abs(values)), axis=None, kind="stable")[:NAMED]
    for place in order.tolist():
        layer, column = divmod(place, n_columns)
        value = float(values[layer, column])
        if np.isfinite(value) and value != 0.0:
            figure.add_annotation(
                x=column, y=layer, text=f"{value:.2f}", showarrow=False,
                font={"size": 9, "color": text_on((value - low) / (end - low), scale)},
            )  # fmt: skip
    themed(figure, look, title=title, height=max(300, 150 + 16 * n_layers))
    figure.update_xaxes(
        title_text="head" if columns is None else "", showgrid=False, tickmode="array",
        tickvals=list(range(n_columns)),
        ticktext=columns or [str(head) for head in range(n_columns)], range=[-0.5, n_columns - 0.5],
    )  # fmt: skip
    figure.update_yaxes(title_text="layer", showgrid=False, range=[n_layers - 0.5, -0.5], dtick=max(1, n_layers // 15))
    return figure
