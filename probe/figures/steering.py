"""Figures of `methods/steering.py`: what adding a direction does, and what is left without it."""

from typing import TypeVar

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.figures._marks import faded, interval_band, titled
from probe.figures._theme import ThemeName, find_theme, token_label
from probe.methods.steering import DoseCurve, ErasureTest
from probe.sites import split_name

Value = TypeVar("Value")
UNITS = ("logits", "nats")
"""Of the upper and the lower panel."""


def dose_curve_lines(curve: DoseCurve, *, theme: ThemeName = "light") -> go.Figure:
    """How far each dose moves the contrast, and what else it breaks; grey: random directions of the same length.

    Dose 0, which moves and breaks nothing, is drawn too.
    """
    look = find_theme(theme)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.62, 0.38])
    found = [curve.effect(dose) for dose in curve.doses]
    x = _with_zero(curve, list(curve.doses), 0.0)
    for row, lines in ((1, curve.random_effects.mean(-1)), (2, curve.random_damage.mean(-1))):
        for number, values in enumerate(lines.tolist()):
            figure.add_scatter(
                x=x, y=_with_zero(curve, values, 0.0), mode="lines", row=row, col=1, name="random directions",
                line={"color": faded(look.muted, 0.5), "width": 1}, showlegend=row == 1 and number == 0,
                hovertemplate=f"random {number}, dose %{{x:g}}<br>%{{y:+.4f}} {UNITS[row - 1]}<extra></extra>",
            )  # fmt: skip
    low, high = (_with_zero(curve, [getattr(one, end) for one in found], 0.0) for end in ("low", "high"))
    figure.add_trace(interval_band(x, low, high, look.lines[0]), row=1, col=1)
    spread = [
        f" ({one.low:.4f} to {one.high:.4f})<br>p = {curve.p(dose):.4f}"
        for one, dose in zip(found, curve.doses, strict=True)
    ]
    own = (([one.value for one in found], spread), (curve.damage.mean(-1).tolist(), [""] * len(found)))
    name = token_label(curve.direction, longest=60)
    for row, (unit, (values, more)) in enumerate(zip(UNITS, own, strict=True), 1):
        figure.add_scatter(
            x=x, y=_with_zero(curve, values, 0.0), customdata=_with_zero(curve, more, ""), mode="lines+markers",
            line={"color": look.lines[0], "width": 2.5}, name=name, showlegend=row == 1, row=row, col=1,
            hovertemplate=f"%{{fullData.name}}, dose %{{x:g}}<br>%{{y:+.4f}} {unit}%{{customdata}}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=curve.gap, line={"color": look.lines[1], "width": 1.5, "dash": "dash"})  # in both panels
    figure.add_hline(y=0, line={"color": look.muted, "width": 1})
    figure.add_annotation(
        x=curve.gap, y=1, xref="x", yref="y domain", text=f"one gap ({curve.gap:.3g})", showarrow=False,
        yanchor="bottom", font={"color": look.lines[1]},
    )  # fmt: skip
    title = f"Adding {name} moves {token_label(curve.contrast, longest=60)}: {'used' if curve.used else 'not used'}"
    below = (
        f"At {_site(curve.site)}, {_where(curve.positions)}; {len(curve.prompts)} prompts; by the dose "
        f"{curve.natural_dose:g}: p = {curve.p(curve.natural_dose):.4f} against {len(curve.random_effects)} "
        f"{curve.random_kind} random directions; band: 95 % interval"
    )
    titled(figure, look, title=title, below=below, height=560, room=20)
    figure.update_xaxes(range=_reach([*x, curve.gap]))
    figure.update_xaxes(title_text="dose (norms of the residual stream)", row=2, col=1)
    figure.update_yaxes(title_text="effect on the contrast (logits)", row=1, col=1)
    figure.update_yaxes(title_text="damage, KL (nats)", rangemode="tozero", row=2, col=1)
    return figure


def _with_zero(curve: DoseCurve, values: list[Value], zero: Value) -> list[Value]:
    """Of each dose, with what dose 0 gives in its place."""
    place = sum(dose < 0 for dose in curve.doses)
    return [*values[:place], zero, *values[place:]]


def _reach(doses: list[float]) -> list[float]:
    room = 0.05 * (max(doses) - min(doses))
    return [min(doses) - room, max(doses) + room]


def erasure_bars(test: ErasureTest, *, theme: ThemeName = "light") -> go.Figure:
    """The contrast between pairs of prompts: as it is, without the direction, without random ones; a dot per pair."""
    look = find_theme(theme)
    columns = {"clean": test.clean, "erased": test.erased, "random erased": test.random_erased.mean(0)}
    colours = (look.lines[0], look.lines[1], look.muted)
    n, names = len(test.clean), _pairs(test)
    figure = go.Figure()
    for column, (name, values) in enumerate(columns.items()):
        mean = float(values.mean())
        figure.add_bar(
            x=[column], y=[mean], width=0.6, marker={"color": faded(colours[column], 0.45)},
            name=name, showlegend=False, hovertemplate=f"{name}, mean<br>%{{y:+.4f}} logits<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[column + 0.4 * ((0.618 * pair) % 1 - 0.5) for pair in range(n)], y=values.tolist(), mode="markers",
            marker={"color": colours[column], "size": 6, "line": {"color": look.background, "width": 0.5}},
            hovertext=names, hovertemplate=f"%{{hovertext}}<br>{name} %{{y:+.4f}} logits<extra></extra>", name=name,
            showlegend=False,
        )  # fmt: skip
    name = token_label(test.direction, longest=60)
    left = test.left
    title = f"{token_label(test.contrast, longest=60)} without {name}: {left.value:.0%} is left"
    below = (
        f"Left {left.value:.3f} ({left.low:.3f} to {left.high:.3f}) of the clean difference, p = {test.p:.4f}; "
        f"{test.erasure} at {_site(test.sites[0])}{' and later' if len(test.sites) > 1 else ''}, "
        f"{_where(test.positions)}; damage {float(test.damage.mean()):.4f} nats"
    )
    titled(figure, look, title=title, below=below, height=460)
    figure.add_hline(y=0, line={"color": look.muted, "width": 1})
    removed = [
        "nothing",
        token_label(test.direction, longest=26),
        f"a random direction<br>(mean of {len(test.random_erased)})",
    ]
    figure.update_xaxes(
        title_text="what was taken out of the residual stream", tickmode="array", tickvals=[0, 1, 2], showgrid=False,
        ticktext=removed, range=[-0.5, 2.5],
    )  # fmt: skip
    figure.update_yaxes(title_text="contrast after the positive<br>minus after the negative prompt (logits)")
    return figure


def _pairs(test: ErasureTest) -> list[str]:
    """The prompts of each pair, of which the manifest keeps a record."""
    prompts = test.manifest.get("method_arguments", {}).get("prompts")
    if prompts is None:
        return [f"pair {number}" for number in range(len(test.clean))]
    return [" / ".join(token_label(text, longest=80) for text in pair) for pair in prompts]


def _site(name: str) -> str:
    layer, suffix = split_name(name)
    return f"layer {layer}, {suffix.removeprefix('hook_')}"


def _where(positions: str) -> str:
    return "last position" if positions == "last" else "all positions but the first"
