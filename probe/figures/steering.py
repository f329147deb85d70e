"""Figures of `methods/steering.py`: does the model use a direction?"""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.figures._marks import band, name_label, panel, titled, with_gaps
from probe.figures._theme import DASHES, ThemeName, find_theme, legend_below, token_label
from probe.methods.steering import DoseCurve, ErasureTest
from probe.statistics import CONFIDENCE, Estimate

_WHERE = {"last": "last position", "all": "all positions but 0"}


def dose_curve_lines(curve: DoseCurve, *, theme: ThemeName = "light") -> go.Figure:
    """What each dose does to the contrast and, below, to unrelated texts; random directions in grey."""
    look = find_theme(theme)
    doses = sorted([*curve.doses, 0.0])
    nothing = doses.index(0.0)  # nothing added, nothing changed: what the lines go through between the doses
    effects = [curve.effect(dose) if dose else Estimate(0.0, 0.0, 0.0) for dose in doses]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.62, 0.38])
    random_effects = curve.random_effects.mean(-1).tolist()
    random_damage = curve.random_damage.mean(-1).tolist()
    damage = curve.damage.mean(-1).tolist()
    for line in (*random_effects, *random_damage, damage):
        line.insert(nothing, 0.0)
    for row, lines in ((1, random_effects), (2, random_damage)):
        unit = "logits" if row == 1 else "nats"
        figure.add_trace(
            go.Scatter(
                x=with_gaps([doses] * len(lines)), y=with_gaps(lines), mode="lines", showlegend=row == 1,
                name=f"{len(lines)} random directions ({curve.random_kind})", opacity=0.55,
                line={"color": look.muted, "width": 1},
                customdata=[number for number in range(len(lines)) for _ in range(len(doses) + 1)],
                hovertemplate=f"random direction %{{customdata}}, dose %{{x:+g}}<br>%{{y:.4f}} {unit}<extra></extra>",
            ),
            **panel(row),
        )  # fmt: skip
    line = {"color": look.lines[0], "dash": DASHES[0], "width": 2}
    figure.add_trace(band(doses, effects, look.lines[0]), **panel(1))
    figure.add_trace(
        go.Scatter(
            x=doses, y=[one.value for one in effects], name=name_label(curve.direction, longest=30),
            mode="lines+markers", line=line, customdata=[
                [str(one), curve.p(dose) if dose else 1.0] for dose, one in zip(doses, effects, strict=True)
            ], hovertemplate="dose %{x:+g}<br>%{customdata[0]} logits, p = %{customdata[1]:.4f}<extra></extra>",
        ),
        **panel(1),
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=doses, y=damage, mode="lines+markers", line=line, showlegend=False,
            hovertemplate="dose %{x:+g}<br>damage %{y:.4f} nats<extra></extra>",
        ),
        **panel(2),
    )  # fmt: skip
    for row in (1, 2):
        figure.add_vline(x=curve.gap, line={"color": look.text, "width": 1, "dash": "dot"}, **panel(row))
    figure.add_annotation(
        x=curve.gap, y=1, xref="x", yref="y domain", text=f"one gap ({curve.gap:.3g})", showarrow=False,
        yanchor="top", font={"color": look.muted},
        **({"xanchor": "right", "xshift": -4} if curve.gap > max(doses) / 2 else {"xanchor": "left", "xshift": 4}),
    )  # fmt: skip
    at = curve.natural_dose
    titled(
        figure, look, f"Adding {name_label(curve.direction)}: {'used' if curve.used else 'not shown to be used'}",
        f"what it does to {name_label(curve.contrast)} in {name_label(curve.model)}",
        f"added at {curve.site}, {_WHERE[curve.positions]}; band: {CONFIDENCE:.0%} over {len(curve.prompts)} prompts",
        f"at dose {at:+g}, the nearest to one gap: {curve.effect(at)} logits, p = {curve.p(at):.4f}", height=600,
    )  # fmt: skip
    legend_below(figure)
    ends = [*doses, curve.gap, 0.0]
    margin = 0.05 * (max(ends) - min(ends))
    figure.update_xaxes(
        zeroline=True, zerolinecolor=look.muted, range=[min(ends) - margin, max(ends) + margin], showgrid=False
    )
    figure.update_xaxes(title_text="dose (norms of the residual stream there)", **panel(2))
    figure.update_yaxes(zeroline=True, zerolinecolor=look.muted)
    figure.update_yaxes(title_text="moves the contrast by (logits)", **panel(1))
    figure.update_yaxes(title_text="damage elsewhere,<br>KL (nats)", rangemode="tozero", **panel(2))
    return figure


def erasure_bars(test: ErasureTest, *, theme: ThemeName = "light") -> go.Figure:
    """The contrast between pairs of prompts: clean, with the direction taken out, with random ones taken out.

    Bars are means. Dots are pairs of prompts; in the last column, random directions, each the mean over the pairs.
    """
    look = find_theme(theme)
    n = len(test.clean)
    pairs = [f"pair {number}" for number in range(n)]
    if given := test.manifest.get("method_arguments", {}).get("prompts"):
        pairs = [" / ".join(f"'{token_label(text, longest=None)}'" for text in both) for both in given]
    of_random = test.random_erased.mean(-1).tolist()
    columns = [
        ("clean", test.clean.tolist(), pairs),
        ("without the direction", test.erased.tolist(), pairs),
        ("without a random one", of_random, [f"random direction {number}" for number in range(len(of_random))]),
    ]
    means = [sum(values) / len(values) for _, values, _ in columns]
    figure = go.Figure(
        go.Bar(
            x=[0, 1, 2], y=means, width=0.6, opacity=0.75, showlegend=False,
            marker={"color": [look.lines[place] for place in (0, 1, 5)]},
            hovertext=[name for name, _, _ in columns],
            hovertemplate="%{hovertext}<br>mean %{y:+.4f} logits<extra></extra>",
        )
    )  # fmt: skip
    for place, (name, values, labels) in enumerate(columns):
        figure.add_trace(
            go.Scatter(
                x=_spread(place, len(values)), y=values, mode="markers", showlegend=False, name=name,
                marker={
                    "size": 7, "color": look.panel, "symbol": "diamond" if place == 2 else "circle",
                    "line": {"color": look.text, "width": 1.2},
                },
                hovertext=labels, hovertemplate=f"{name}<br>%{{hovertext}}<br>%{{y:+.4f}} logits<extra></extra>",
            )
        )  # fmt: skip
    left, sites = test.left, test.sites
    where = f"at {sites[0]}" + (f" and at {len(sites) - 1} later layers" if len(sites) > 1 else "")
    titled(
        figure, look, f"Taking out {name_label(test.direction)}: {left.value:.0%} of the contrast is left",
        f"{name_label(test.contrast)} in {name_label(test.model)}; damage elsewhere "
        f"{float(test.damage.mean()):.3g} nats",
        f"{test.erasure}, {where}, {_WHERE[test.positions]}",
        f"left: {left.low:.0%} to {left.high:.0%} ({CONFIDENCE:.0%} interval over {n} pairs of prompts), "
        f"p = {test.p:.4f}",
        height=470,
    )  # fmt: skip
    figure.update_xaxes(
        tickmode="array", tickvals=[0, 1, 2], showgrid=False, range=[-0.5, 2.5], title_text="what is taken out",
        ticktext=[f"{name}<br>{mean:+.2f}" for (name, _, _), mean in zip(columns, means, strict=True)],
    )  # fmt: skip
    figure.update_yaxes(
        title_text="contrast, positive minus<br>negative prompt (logits)", zeroline=True, zerolinecolor=look.muted
    )
    return figure


def _spread(place: int, n: int) -> list[float]:
    """Side by side in a column, so that dots do not hide one another."""
    return [place + 0.4 * ((number + 0.5) / n - 0.5) for number in range(n)]
