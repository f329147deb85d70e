"""Figures of `methods/directions.py` and of `methods/layer_profile.py`: the evidence for a direction."""

import math
from typing import get_args

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from probe.errors import check_choice
from probe.figures._marks import band, name_label, pair_label, panel, titled, with_gaps
from probe.figures._theme import DASHES, Theme, ThemeName, find_theme, legend_below, token_label
from probe.methods.analogies import Measure
from probe.methods.directions import Evaluation, Projections
from probe.methods.layer_profile import LayerProfile
from probe.statistics import CONFIDENCE, SIGNIFICANT, Estimate, sign_flips

NULLS = {
    "isotropic": "random directions, every way alike",
    "covariance-matched": "random directions, as unrelated words vary",
}
"""The kinds of random directions, in plain words."""
ROWS = ("negative", "positive")
"""Rows of a projection strip, from below."""
SYMBOLS = ("diamond", "circle")


def projection_strip(evaluation: Evaluation, *, theme: ThemeName = "light") -> go.Figure:
    """Where both groups of words stand on the direction, out of sample; thin lines join the words of a pair.

    The shaded band says where the mean of a group would stand if labels meant nothing: in 95 % of the ways to swap the
    members of pairs both means fall into it.
    """
    look = find_theme(theme)
    figure = go.Figure()
    scores = (evaluation.negative.tolist(), evaluation.positive.tolist())
    rising = [up > down for down, up in zip(*scores, strict=True)]
    for way, colour, name in ((True, look.muted, ""), (False, look.lowers, "pair that points the other way")):
        ends = [pair for pair, up in zip(zip(*scores, strict=True), rising, strict=True) if up is way]
        figure.add_trace(
            go.Scatter(
                x=with_gaps(ends), y=with_gaps([(0, 1)] * len(ends)), mode="lines", opacity=0.35 if way else 1.0,
                line={"color": colour, "width": 1 if way else 1.5}, hoverinfo="skip", name=name,
                showlegend=bool(name and ends),
            )
        )  # fmt: skip
    reach = max([abs(score) for group in scores for score in group], default=1.0) or 1.0
    for row, (group, values) in enumerate(zip(ROWS, scores, strict=True)):
        words = [pair[1 - row] for pair in evaluation.words]
        colour = look.lines[1 - row]
        shown = _labelled(values, rising, 0.25 * reach)
        figure.add_trace(
            go.Scatter(
                x=values, y=[row] * len(values), mode="markers+text", name=f"{group} words", showlegend=False,
                marker={"color": colour, "symbol": SYMBOLS[row], "size": 9, "opacity": 0.8},
                text=[token_label(word) if place in shown else "" for place, word in enumerate(words)],
                textposition="top center" if row else "bottom center", textfont={"size": 11}, cliponaxis=False,
                customdata=[
                    [token_label(word, longest=None), pair_label(pair)]
                    for word, pair in zip(words, evaluation.words, strict=True)
                ],
                hovertemplate="%{customdata[0]}: %{x:+.4f}<br>of the pair %{customdata[1]}<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[sum(values) / len(values)] * 2, y=[row, 0.82 if row else 0.18], mode="lines",
                line={"color": look.text, "width": 3}, showlegend=row == 0, name="mean of a group",
                hovertemplate=f"mean of the {group} words: %{{x:+.4f}}<extra></extra>",
            )
        )  # fmt: skip
    middle, half = _null_band(evaluation)
    figure.add_vrect(x0=middle - half, x1=middle + half, fillcolor=look.shade, line_width=0, layer="below")
    titled(
        figure, look, f"{name_label(evaluation.direction)}: {evaluation.verdict}",
        f"AUROC {evaluation.auroc}, p = {evaluation.p:.4f}; {name_label(evaluation.how, longest=90)}",
        f"shaded: where both means are in {CONFIDENCE:.0%} of the ways to swap the words of pairs", height=380,
    )  # fmt: skip
    legend_below(figure)
    figure.update_xaxes(
        title_text="score along the direction, from the<br>middle of the fitted pairs (units of the vectors)",
        zeroline=True, zerolinecolor=look.muted, range=[-1.12 * reach, 1.12 * reach],
    )  # fmt: skip
    figure.update_yaxes(
        title_text="group of words", tickmode="array", tickvals=[0, 1], showgrid=False, range=[-0.6, 1.6],
        ticktext=[_group(evaluation, row) for row in (0, 1)],
    )  # fmt: skip
    return figure


def _null_band(evaluation: Evaluation) -> tuple[float, float]:
    """The middle of all scores, and how far from it the mean of a group is in 95 % of the ways to swap members.

    It is made of the very scores that are drawn, so it lies on their axis. The direction is not fitted again, as it is
    for `evaluation.null`, whose AUROCs have no place on this axis: the p of the title is the test.
    """
    difference = evaluation.positive - evaluation.negative
    signs = sign_flips(len(difference), 2000, seed=0).signs
    signs = torch.cat([torch.ones(1, len(difference), dtype=torch.float64), signs])
    means = (signs @ difference.double()).abs() / (2 * len(difference))
    middle = (evaluation.positive.mean() + evaluation.negative.mean()) / 2
    return float(middle), float(means.quantile(CONFIDENCE))


def _labelled(values: list[float], rising: list[bool], distance: float) -> set[int]:
    """Which words of a group to name: of pairs that point the other way, then two of each end; none too near others."""
    order = sorted(range(len(values)), key=values.__getitem__)
    kept: list[int] = []
    end = max(2, len(order) // 4)
    other_way = [place for place in order if not rising[place]]
    for candidates, most in ((other_way, 4), (order[:end], 2), (order[::-1][:end], 2)):
        own: list[int] = []
        for place in candidates:
            near = any(abs(values[place] - values[other]) < distance for other in [*kept, *own])
            if len(own) < most and not near:
                own.append(place)
        kept += own
    return set(kept)


def _group(evaluation: Evaluation, row: int) -> str:
    example = f"<br>such as {token_label(evaluation.words[0][1 - row])}" if evaluation.words else ""
    return ROWS[row] + example


def permutation_histogram(evaluation: Evaluation, *, theme: ThemeName = "light") -> go.Figure:
    """The observed AUROC among those of swapped pairs, and among those of both kinds of random directions."""
    look = find_theme(theme)
    kinds = [("words of pairs swapped, all fitted again", evaluation.null, evaluation.p)]
    kinds += [(NULLS[kind], areas, evaluation.p_special[kind]) for kind, areas in evaluation.random.items()]
    headings = [f"{name} (n = {len(areas):,}): p = {p:.4f}" for name, areas, p in kinds]
    figure = make_subplots(
        rows=len(kinds), cols=1, shared_xaxes=True, vertical_spacing=0.11, subplot_titles=headings,
        y_title="% of draws",
    )  # fmt: skip
    for row, (name, areas, _) in enumerate(kinds, start=1):
        figure.add_trace(
            go.Histogram(
                x=areas.tolist(), histnorm="percent", xbins={"start": -0.01, "end": 1.01, "size": 0.02}, name=name,
                marker={"color": look.lines[row - 1], "line": {"width": 0.5, "color": look.panel}}, showlegend=False,
                hovertemplate=f"{name}<br>%{{y:.2f}} % have an AUROC of %{{x}}<extra></extra>",
            ),
            **panel(row),
        )  # fmt: skip
        figure.add_vline(x=evaluation.auroc.value, line={"color": look.text, "width": 2}, **panel(row))
        figure.add_vline(x=0.5, line={"color": look.muted, "width": 1, "dash": "dot"}, **panel(row))
    titled(
        figure, look, f"Could chance do it? {name_label(evaluation.direction)}",
        f"solid line: observed AUROC {evaluation.auroc.value:.3f}, {evaluation.verdict}; dotted: knows nothing",
        "of each random direction the better end counts, so that none is below 0.5", height=120 + 130 * len(kinds),
    )  # fmt: skip
    figure.update_layout(margin={"t": 108, "l": 64}, bargap=0)
    figure.update_annotations(font={"size": 12, "color": look.muted})
    left = evaluation.auroc.value > 0.5
    figure.add_annotation(
        x=evaluation.auroc.value, y=1, yref="y domain", text=f"observed {evaluation.auroc.value:.3f}", showarrow=False,
        xanchor="right" if left else "left", yanchor="top", xshift=-4 if left else 4, **panel(1),
    )  # fmt: skip
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_xaxes(title_text="AUROC (0.5 knows nothing, 1 tells all words apart)", **panel(len(kinds)))
    return figure


def pair_differences(evaluation: Evaluation, *, most: int = 40, theme: ThemeName = "light") -> go.Figure:
    """By how much each pair points along the direction that was fitted without it; other ways in the other colour.

    Of more than `most` pairs the largest and the smallest are shown, and a line says what the others are.
    """
    look = find_theme(theme)
    differences, left_out = _differences(evaluation)
    order = sorted(range(len(differences)), key=lambda place: -differences[place])
    n_top = most - most // 2
    hidden = order[n_top : len(order) - most // 2] if len(order) > most else []
    shown: list[int | None] = [place for place in order if place not in {*hidden}]
    if hidden:
        shown.insert(n_top, None)
    values = [None if place is None else differences[place] for place in shown]
    figure = go.Figure(
        go.Bar(
            x=values, y=list(range(len(shown))), orientation="h", showlegend=False,
            marker={"color": [look.raises if value is None or value >= 0 else look.lowers for value in values]},
            hovertext=["" if place is None else pair_label(evaluation.words[place]) for place in shown],
            hovertemplate="%{hovertext}<br>%{x:+.4f}<extra></extra>",
        )
    )  # fmt: skip
    if hidden:
        figure.add_annotation(
            x=0, y=n_top, xanchor="left", showarrow=False, font={"color": look.muted}, text=_summed_up(
                [differences[place] for place in hidden]
            ),
        )  # fmt: skip
    other = sum(value < 0 for value in differences)
    titled(
        figure, look, f"Pair by pair: {name_label(evaluation.direction)}",
        f"pointing the other way: {other} of {len(differences)} pairs; "
        + ("each left out of the fit" if left_out else name_label(evaluation.how, longest=90)),
        height=130 + 18 * len(shown),
    )  # fmt: skip
    figure.update_xaxes(
        title_text="positive minus negative word<br>along the direction (units of the vectors)", zeroline=True,
        zerolinecolor=look.muted,
    )  # fmt: skip
    figure.update_yaxes(
        title_text="pair", tickmode="array", tickvals=list(range(len(shown))), showgrid=False, tickfont={"size": 11},
        ticktext=["…" if place is None else pair_label(evaluation.words[place], longest=14) for place in shown],
        range=[len(shown) - 0.5, -0.5],
    )  # fmt: skip
    return figure


def _differences(evaluation: Evaluation) -> tuple[list[float], bool]:
    """Difference of each pair scored, and whether these are `left_out`: the numbers behind `evaluation.opposite`."""
    fitted = [tuple(pair) for pair in evaluation.manifest["method_arguments"]["pairs"]]
    if evaluation.selectivity is None and fitted == list(evaluation.words):
        return evaluation.left_out.tolist(), True
    return (evaluation.positive - evaluation.negative).tolist(), False


def _summed_up(values: list[float]) -> str:
    other = sum(value < 0 for value in values)
    return f"{len(values)} more, {values[0]:+.2f} to {values[-1]:+.2f}, mean {sum(values) / len(values):+.2f}" + (
        f"; pointing the other way: {other}" if other else ""
    )


def word_bars(projections: Projections, *, measure: Measure = "dot", theme: ThemeName = "light") -> go.Figure:
    """Words along a direction, the lowest at the top; grey behind each: where random directions would put it.

    Raises:
        UnknownName: a measure that is neither "dot" nor "cosine".
    """
    check_choice("measure", measure, get_args(Measure))
    look = find_theme(theme)
    values = (projections.dot if measure == "dot" else projections.cosine).tolist()
    chance = projections.chance_dot.tolist() if measure == "dot" else [projections.chance_cosine] * len(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    rows = list(range(len(order)))
    half = [chance[place] for place in order]
    shown = [values[place] for place in order]
    figure = go.Figure([
        go.Bar(
            x=[2 * reach for reach in half], base=[-reach for reach in half], y=rows, orientation="h", width=0.9,
            marker={"color": look.muted, "opacity": 0.25}, customdata=half,
            hovertemplate=f"{CONFIDENCE:.0%} of random directions: within ±%{{customdata:.4f}}<extra></extra>",
        ),
        go.Bar(
            x=shown, y=rows, orientation="h", width=0.5, showlegend=False,
            marker={"color": [look.raises if value >= 0 else look.lowers for value in shown]},
            hovertext=[token_label(projections.words[place], longest=None) for place in order],
            hovertemplate="%{hovertext}<br>%{x:+.4f}<extra></extra>",
        ),
    ])  # fmt: skip
    name = name_label(projections.direction)
    titled(
        figure, look, f"Words along {name}", f"grey: where {CONFIDENCE:.0%} of random directions would put each word",
        height=130 + 24 * len(rows),
    )  # fmt: skip
    figure.update_layout(barmode="overlay", showlegend=False)
    title = f"dot product with {name} (raw)" if measure == "dot" else f"cosine with {name}"
    figure.update_xaxes(title_text=title, zeroline=True, zerolinecolor=look.muted)
    figure.update_yaxes(
        title_text="word", tickmode="array", tickvals=rows, showgrid=False, range=[len(rows) - 0.5, -0.5],
        ticktext=[token_label(projections.words[place]) for place in order],
    )  # fmt: skip
    return figure


def layer_profile_lines(profile: LayerProfile, *, theme: ThemeName = "light") -> go.Figure:
    """AUROC and effect size from the embedding to the unembedding, beside the AUROC in the untrained twin.

    Open markers are places whose adjusted p is above 0.05.
    """
    look = find_theme(theme)
    places = profile.places
    at = list(range(len(places)))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.6, 0.4])
    twins = [place.twin for place in places if place.twin is not None]
    if len(twins) == len(places):
        _add_line(figure, profile, twins, "untrained twin", 1, look, row=1)
    _add_line(figure, profile, [place.auroc for place in places], "trained model", 0, look, row=1)
    _add_line(figure, profile, [place.effect_size for place in places], "effect size", 0, look, row=2)
    figure.add_hline(y=0.5, line={"color": look.muted, "width": 1, "dash": "dot"}, **panel(1))
    figure.add_hline(y=0.0, line={"color": look.muted, "width": 1, "dash": "dot"}, **panel(2))
    titled(
        figure, look, f"{name_label(profile.direction)}, all along {name_label(profile.model)}",
        f"bands: {CONFIDENCE:.0%} intervals over pairs; open markers: adjusted p above {SIGNIFICANT}",
        height=560,
    )  # fmt: skip
    legend_below(figure)
    figure.update_xaxes(showgrid=False, range=[-0.5, len(places) - 0.5])
    step = max(1, math.ceil(len(at) / 16))
    shown = [place for place in at if (places[place].layer or 0) % step == 0]
    figure.update_xaxes(
        title_text="read after (layer)", tickmode="array", tickvals=shown, **panel(2), tickangle=-45,
        ticktext=[places[place].name.removeprefix("layer ") for place in shown],
    )  # fmt: skip
    lowest = min(one.low for one in [*twins, *(place.auroc for place in places)])
    figure.update_yaxes(title_text="AUROC", range=[min(0.4, lowest) - 0.03, 1.03], **panel(1))
    figure.update_yaxes(title_text="Cohen's d (pooled<br>standard deviations)", **panel(2))
    return figure


def _add_line(
    figure: go.Figure, profile: LayerProfile, estimates: list[Estimate], name: str, number: int, look: Theme, *,
    row: int,
) -> None:  # fmt: skip
    """A line with its band; the hover of the trained model's has n and p."""
    at = list(range(len(estimates)))
    twin = name == "untrained twin"
    details = [
        [place.name, str(one), ""] if twin else
        [place.name, str(one), f"<br>p = {place.p:.4f}, adjusted {place.p_adjusted:.4f}; {_pairs(profile, place.n)}"]
        for place, one in zip(profile.places, estimates, strict=True)
    ]  # fmt: skip
    symbols = ["circle" if twin or place.p_adjusted <= SIGNIFICANT else "circle-open" for place in profile.places]
    colour = look.lines[number]
    figure.add_trace(band(at, estimates, colour), **panel(row))
    figure.add_trace(
        go.Scatter(
            x=at, y=[one.value for one in estimates], name=name, mode="lines+markers", showlegend=row == 1,
            line={"color": colour, "dash": DASHES[number], "width": 2}, marker={"size": 7, "symbol": symbols},
            customdata=details, hovertemplate=f"{name} after %{{customdata[0]}}<br>"
            f"{'AUROC' if row == 1 else 'd'} %{{customdata[1]}}%{{customdata[2]}}<extra></extra>",
        ),
        **panel(row),
    )  # fmt: skip


def _pairs(profile: LayerProfile, n: int) -> str:
    whole = len(profile.pairs)
    return f"{n} pairs" if n == whole else f"{n} of {whole} pairs, whose words are tokens of their own"
