"""Figures of `methods/ablation.py` and `methods/agreement.py`: which parts does the model need, by which measure?"""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from probe.errors import OutOfRange
from probe.figures._maps import NAMED as NAMED_CELLS
from probe.figures._maps import cell_tables, head_map
from probe.figures._marks import label_places, name_label
from probe.figures._noise import HATCH, evidence_of, is_noise, noise_lines, prompts_line, titled_below
from probe.figures._theme import Theme, ThemeName, find_theme
from probe.methods.ablation import AblationSweep
from probe.methods.agreement import Agreement
from probe.statistics import GridEvidence

_ONE = {
    "heads": "head",
    "MLPs": "MLP",
    "layers": "layer",
    "neurons": "neuron",
    "sets of heads": "set of heads",
    "listed units": "unit",
}
NAMED = 8
"""Units that a scatter names: those with the largest effects by size, where there is room."""
_CROWD = 60
"""Points that labels keep off, the largest by size: more takes seconds."""
_DRAWN = 460, 400
"""Width and height of a scatter (pixels), at least."""


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
    title = f"Effect on {name_label(sweep.metric)} of taking out each {_ONE[sweep.kind]} ({sweep.unit})"
    return _explained(figure, sweep, evidence, look, title, height=max(300, 120 + 16 * len(cells.layers)))


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
            x=values, y=list(range(len(names))), orientation="h", customdata=names,
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
    title = f"The {len(names)} largest of {len(means)} effects on {name_label(sweep.metric)} ({sweep.unit})"
    _explained(figure, sweep, evidence, look, title, height=100 + 22 * len(names))
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
    hover = [
        f"{unit.name}<br>total {a:+.4f}, direct {b:+.4f}, indirect {a - b:+.4f} {sweep.unit}<br>self-repair: "
        + ("direct effect too small to say" if math.isnan(share) else f"{share:.0%} of the direct effect")
        for unit, a, b, share in zip(sweep.units, total, direct, repaired, strict=True)
    ]
    figure = _scatter(look, direct, total, [unit.name for unit in sweep.units], hover, hollow=noise)
    figure.update_xaxes(title_text=f"direct effect ({sweep.unit})")
    figure.update_yaxes(title_text=f"total effect ({sweep.unit})")
    title = f"Total against direct effect on {name_label(sweep.metric)} ({sweep.unit})"
    line = "on the line: all of it goes straight to the logits; nearer zero: self-repair"
    return _explained(figure, sweep, evidence, look, title, height=490, more=[line], shown_as="open circles")


def prompt_effects(sweep: AblationSweep, unit: str, *, theme: ThemeName = "light") -> go.Figure:
    """The effect of one unit on every prompt, template by template, with the mean and its 95 % interval.

    Raises:
        UnknownName: the unit was not swept.
    """
    look = find_theme(theme)
    mean = sweep.effect(unit)
    place = [one.name for one in sweep.units].index(unit)
    kind, rows = next(iter(sweep.groups.items()), ("prompt", [0] * sweep.effects.shape[1]))
    values = sweep.effects[place].tolist()
    figure = go.Figure(
        go.Scatter(
            x=values, y=[str(row) for row in rows], mode="markers",
            marker={"size": 8, "opacity": 0.75, "color": [look.raises if v >= 0 else look.lowers for v in values]},
            hovertext=[f"prompt {number}, {kind} {row}" for number, row in enumerate(rows)],
            hovertemplate="%{hovertext}<br>%{x:+.4f} " + sweep.unit + "<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    evidence = evidence_of(sweep)
    if evidence is not None:
        figure.add_vrect(
            x0=float(evidence.low[place]), x1=float(evidence.high[place]), fillcolor=look.muted, opacity=0.2,
            line_width=0, layer="below",
        )  # fmt: skip
    figure.add_vline(x=mean, line={"color": look.text, "width": 2})
    figure.add_vline(x=0.0, line={"color": look.muted, "width": 1, "dash": "dot"})
    title = f"{unit} on every prompt: effect on {name_label(sweep.metric)} ({sweep.unit})"
    lines = [f"line: mean {mean:+.3f}, of {prompts_line(sweep)}; band: its 95 % interval"]
    titled_below(figure, look, title, lines, height=150 + 22 * len(set(rows)))
    figure.update_xaxes(title_text=f"effect ({sweep.unit})")
    figure.update_yaxes(title_text=kind, type="category", autorange="reversed")
    return figure


def agreement_plot(found: Agreement, *, theme: ThemeName = "light") -> go.Figure:
    """The effects of each unit measured in two ways; on the line, both say the same."""
    look = find_theme(theme)
    first, second = found.effects.tolist()
    names = [unit.name for unit in found.units]
    hover = [
        f"{name}<br>first {a:+.4f}, second {b:+.4f} {found.unit}"
        + (f"<br>among the {found.k} largest of both" if name in found.shared else "")
        for name, a, b in zip(names, first, second, strict=True)
    ]
    figure = _scatter(look, first, second, names, hover, hollow=(~found.above).tolist())
    figure.update_xaxes(title_text=f"effect in the first ({found.unit})")
    figure.update_yaxes(title_text=f"effect in the second ({found.unit})")
    n, least = int(found.above.sum()), f"{found.smallest_effect:.2g} {found.unit}"
    pearson = "too few for one" if math.isnan(found.pearson) else f"{found.pearson:.2f}"
    spearman = "none, one does not vary" if math.isnan(found.spearman) else f"{found.spearman:.2f}"
    lines = [
        f"first, in a unit's place: {found.names[0]}",
        f"second: {found.names[1]}",
        f"{len(found.shared)} of the {found.k} largest are the same",
        f"Pearson correlation over the {n} with an effect of at least {least}: {pearson}",
        f"Spearman (rank) correlation over all {len(names)}, most of which do little: {spearman}",
        f"on the dashed line both say the same; open circles: below {least} in both",
    ]
    return titled_below(figure, look, f"Do two measurements of {name_label(found.metric)} agree?", lines, height=490)


def _scatter(
    look: Theme, x: list[float], y: list[float], names: list[str], hover: list[str], *, hollow: list[bool]
) -> go.Figure:
    """Units as points beside a diagonal, on two axes of one range; those that are largest by y are named."""
    low, high = (end(*x, *y, 0.0) for end in (min, max))
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
            x=x, y=y, mode="markers", showlegend=False, hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
            marker={
                "size": 8, "color": [look.panel if one else look.lines[0] for one in hollow],
                "line": {"color": look.lines[0], "width": 1.2}, "opacity": [0.8 if one else 0.95 for one in hollow],
            },
        )
    )  # fmt: skip
    crowd = np.argsort(-np.abs(y), kind="stable")[:_CROWD].tolist()
    x, y, names = ([values[place] for place in crowd] for values in (x, y, names))
    width, height = (
        (max(values) - min(values)) / (ends[1] - ends[0]) * size for values, size in ((x, _DRAWN[0]), (y, _DRAWN[1]))
    )
    places = label_places(x, y, names, width=width, height=height)
    shown = [row for row, place in enumerate(places[:NAMED]) if place is not None]
    figure.add_trace(
        go.Scatter(
            x=[x[row] for row in shown], y=[y[row] for row in shown], text=[names[row] for row in shown],
            textposition=[places[row] for row in shown], textfont={"size": 11, "color": look.text}, hoverinfo="skip",
            mode="markers+text", marker={"size": 8, "opacity": 0}, showlegend=False,
        )
    )  # fmt: skip
    axis = {"range": ends, "zeroline": True, "zerolinecolor": look.grid}
    figure.update_layout(xaxis=axis, yaxis=axis)
    return figure


def _explained(
    figure: go.Figure, sweep: AblationSweep, evidence: GridEvidence | None, look: Theme, title: str, *, height: int,
    more: Sequence[str] = (), shown_as: str = "hatched",
) -> go.Figure:  # fmt: skip
    """Title and the lines below it: what was measured, what stands in a unit's place, what is noise."""
    lines = [
        f"in its place: {sweep.replaced_by}; positions: {name_label(sweep.positions)}",
        f"mean over {prompts_line(sweep)}; {float(sweep.clean.mean()):+.3f} {sweep.unit} with nothing taken out",
        "below zero: lower without it",
        *more,
        *noise_lines(evidence, sweep.unit, shown_as=shown_as),
    ]
    return titled_below(figure, look, title, lines, height=height)
