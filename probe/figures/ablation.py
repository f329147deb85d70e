"""Figures of `methods/ablation.py`: which parts does the model need, and for what do later parts make up?"""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from probe.errors import OutOfRange
from probe.figures._maps import NAMED as NAMED_CELLS
from probe.figures._maps import cell_tables, head_map
from probe.figures._marks import label_places, name_label, titled
from probe.figures._noise import HATCH, evidence_of, is_noise, noise_lines, prompts_line
from probe.figures._theme import Theme, ThemeName, find_theme
from probe.methods.ablation import AblationSweep
from probe.statistics import GridEvidence

_ONE = {"heads": "head", "MLPs": "MLP", "layers": "layer", "neurons": "neuron", "sets of heads": "set of heads"}
NAMED = 8
"""Units that a scatter names: those with the largest effects by size, where there is room."""
_CROWD = 60
"""Points that labels keep off, the largest by size: more takes seconds."""


def ablation_map(sweep: AblationSweep, *, theme: ThemeName = "light") -> go.Figure:
    """Mean effect of every unit: layer by head, or by layer where a layer has one. Hatched: inside the noise.

    Raises:
        OutOfRange: neurons and sets of heads fit no map.
    """
    look = find_theme(theme)
    if sweep.kind not in ("heads", "MLPs", "layers"):
        raise OutOfRange(f"{sweep.kind} fit no map of layers: use ablation_bars(sweep)")
    evidence = evidence_of(sweep)
    places = [(unit.parts[0].layer, unit.index or 0) for unit in sweep.units]
    means = sweep.effects.mean(1).tolist()
    cells = cell_tables(places, means, is_noise(evidence, len(means)).tolist())
    heads = sweep.kind == "heads"
    figure = head_map(
        cells.values, look, title="", unit=f"effect ({sweep.unit})", signed=sweep.signed, layers=cells.layers,
        columns=[str(head) for head in cells.columns] if heads else [""], hatched=cells.hatched,
        across=_ONE[sweep.kind], hovered=[f"head {head}" for head in cells.columns] if heads else [_ONE[sweep.kind]],
        hover="%{z:+.4f} " + sweep.unit, named=NAMED_CELLS if heads else len(cells.layers),
    )  # fmt: skip
    return _explained(figure, sweep, evidence, look, height=max(300, 120 + 16 * len(cells.layers)))


def ablation_bars(sweep: AblationSweep, *, n: int = 15, theme: ThemeName = "light") -> go.Figure:
    """The n units with the largest mean effect by size, with 95 % intervals. Hatched: inside the noise."""
    look = find_theme(theme)
    evidence = evidence_of(sweep)
    means = sweep.effects.mean(1)
    chosen = means.abs().argsort(descending=True, stable=True)[:n].tolist()
    values = [float(means[place]) for place in chosen]
    noise = is_noise(evidence, len(means))[chosen].tolist()
    ends = None if evidence is None else [(float(evidence.low[p]), float(evidence.high[p])) for p in chosen]
    names = [sweep.units[place].name for place in chosen]
    said = [
        "" if ends is None else f"<br>95 %: {ends[row][0]:+.4f} to {ends[row][1]:+.4f}" for row in range(len(names))
    ]
    figure = go.Figure(
        go.Bar(
            x=values, y=list(range(len(names))), orientation="h",
            marker={
                "color": [look.raises if value >= 0 else look.lowers for value in values],
                "pattern": {"shape": [HATCH if one else "" for one in noise], "fgcolor": look.panel, "size": 6},
            },
            error_x=None if ends is None else {
                "type": "data", "symmetric": False, "color": look.text, "thickness": 1.2, "width": 3,
                "array": [high - value for value, (_, high) in zip(values, ends, strict=True)],
                "arrayminus": [value - low for value, (low, _) in zip(values, ends, strict=True)],
            },
            hovertext=[f"{name}<br>{value:+.4f} {sweep.unit}{more}" for name, value, more in zip(
                names, values, said, strict=True
            )], hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    _explained(figure, sweep, evidence, look, height=100 + 22 * len(names), first=len(names))
    figure.update_xaxes(title_text=f"effect ({sweep.unit})", zeroline=True, zerolinecolor=look.muted)
    figure.update_yaxes(
        title_text="layer.head" if sweep.kind == "heads" else _ONE[sweep.kind],
        tickmode="array", tickvals=list(range(len(names))), ticktext=names, showgrid=False,
        range=[len(names) - 0.5, -0.5],
    )  # fmt: skip
    return figure


def total_against_direct(sweep: AblationSweep, *, theme: ThemeName = "light") -> go.Figure:
    """What taking out each unit does, against what its own path to the logits says; on the line, that is all of it."""
    look = find_theme(theme)
    evidence = evidence_of(sweep)
    total, direct = sweep.effects.mean(1).tolist(), sweep.direct.mean(1).tolist()
    noise, repaired = is_noise(evidence, len(total)).tolist(), sweep.self_repair().tolist()
    low, high = (end(*total, *direct, 0.0) for end in (min, max))
    margin = 0.06 * (high - low or 1.0)
    ends = [low - margin, high + margin]
    figure = go.Figure(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": look.muted, "width": 1, "dash": "dash"}, hoverinfo="skip",
            showlegend=False,
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=direct, y=total, mode="markers", showlegend=False,
            marker={
                "size": 8, "color": [look.panel if one else look.lines[0] for one in noise],
                "line": {"color": look.lines[0], "width": 1.2}, "opacity": [0.8 if one else 0.95 for one in noise],
            },
            hovertext=[
                f"{unit.name}<br>total {a:+.4f}, direct {b:+.4f}, indirect {a - b:+.4f} {sweep.unit}<br>self-repair: "
                + ("direct effect too small to say" if math.isnan(share) else f"{share:.0%} of the direct effect")
                for unit, a, b, share in zip(sweep.units, total, direct, repaired, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )  # fmt: skip
    order = np.argsort(-np.abs(total), kind="stable")[:_CROWD].tolist()
    _name_points(figure, look, [direct[p] for p in order], [total[p] for p in order],
                 [sweep.units[p].name for p in order], reach=ends[1] - ends[0])  # fmt: skip
    _explained(
        figure, sweep, evidence, look, height=520, shown_as="open circles",
        more=["on the line: all goes straight to the logits; nearer zero: later parts make up for it (self-repair)"],
    )  # fmt: skip
    axis = {"range": ends, "zeroline": True, "zerolinecolor": look.grid}
    figure.update_xaxes(axis, title_text=f"direct effect ({sweep.unit})")
    figure.update_yaxes(axis, title_text=f"total effect ({sweep.unit})")
    return figure


def _name_points(
    figure: go.Figure, look: Theme, x: list[float], y: list[float], names: list[str], *, reach: float
) -> None:
    """A label beside each of the first points, where there is room among all of them. `reach`: of both axes."""
    across, up = ((max(values) - min(values)) / reach for values in (x, y))
    places = label_places(x, y, names, width=900 * across, height=440 * up)
    shown = [row for row, place in enumerate(places[:NAMED]) if place is not None]
    figure.add_trace(
        go.Scatter(
            x=[x[row] for row in shown], y=[y[row] for row in shown], text=[names[row] for row in shown], mode="text",
            textposition=[places[row] for row in shown], textfont={"size": 11, "color": look.text}, hoverinfo="skip",
            showlegend=False,
        )
    )  # fmt: skip


def _explained(
    figure: go.Figure, sweep: AblationSweep, evidence: GridEvidence | None, look: Theme, *, height: int,
    first: int | None = None, more: Sequence[str] = (), shown_as: str = "hatched",
) -> go.Figure:  # fmt: skip
    """Title and the lines below it: what was measured, what stands in a unit's place, what is noise."""
    one = _ONE[sweep.kind]
    of = f"each {one}" if first is None else f"one {one} at a time, the largest {first} of {len(sweep.units)}"
    lines = [
        f"in its place: {sweep.replaced_by}; positions: {name_label(sweep.positions)}",
        f"mean over {prompts_line(sweep)}; {float(sweep.clean.mean()):+.3f} with nothing taken out; below zero: lower "
        "without it",
        *more,
        *noise_lines(evidence, sweep.unit, shown_as=shown_as),
    ]
    title = f"Effect on {name_label(sweep.metric)} ({sweep.unit}) of taking out {of}"
    return titled(figure, look, title, *lines, height=height + 17 * len(lines))
