"""Figures of `methods/directions.py` and `methods/layer_profile.py`: the evidence for a direction, pair by pair."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.figures._marks import faded, interval_band, titled
from probe.figures._theme import Theme, ThemeName, find_theme, themed, token_label
from probe.methods.directions import Evaluation
from probe.methods.layer_profile import LayerProfile, Place

LABELLED = 2
"""Words named at each end of a group."""
MOST_BARS = 40
MOST_TICKS = 16
NULLS = {"isotropic": "random directions, isotropic", "covariance-matched": "random directions, covariance-matched"}


def projection_strip(evaluation: Evaluation, *, theme: ThemeName = "light") -> go.Figure:
    """Where both words of every pair stand on a direction fitted without them; thin lines join the pairs.

    Vertical marks: the means of both groups. The band says where they would be if pairs were swapped at random.
    """
    look = find_theme(theme)
    up, down, n = evaluation.positive, evaluation.negative, len(evaluation.words)
    # Swapping pair i turns the sign of its difference d_i. The difference of the two means, sum(+-d_i) / n, then has a
    # standard deviation of sqrt(sum(d_i^2)) / n, and each mean is half of that difference away from the middle of both.
    # The scores are taken as they are: the p of the evaluation also fits again after every swap.
    half = 1.96 * float((up - down).square().sum().sqrt()) / n / 2
    middle = float(up.mean() + down.mean()) / 2
    # Dots of one row side by side in height, so that they can be told apart; both words of a pair alike.
    heights = [0.36 * ((0.618 * number) % 1 - 0.5) for number in range(n)]
    figure = go.Figure()
    figure.add_scatter(
        x=[middle - half, middle + half, middle + half, middle - half], y=[-0.45, -0.45, 1.45, 1.45], fill="toself",
        fillcolor=faded(look.muted, 0.25), line={"width": 0}, mode="lines", hoverinfo="skip",
        name="where both means would be if pairs were swapped at random (95 %)",
    )  # fmt: skip
    figure.add_scatter(
        x=[x for a, b in zip(down.tolist(), up.tolist(), strict=True) for x in (a, b, None)],
        y=[y for height in heights for y in (height, 1 + height, None)],
        mode="lines", line={"width": 0.6, "color": faded(look.muted, 0.45)}, hoverinfo="skip", name="pairs",
    )  # fmt: skip
    for row, (side, scores) in enumerate((("negative", down), ("positive", up))):
        words = [pair[1 - row] for pair in evaluation.words]
        colour, values = look.lines[1 - row], scores.tolist()
        mean = float(scores.mean())
        figure.add_scatter(
            x=values, y=[row + height for height in heights], mode="markers", name=f"{side} words",
            marker={"color": colour, "symbol": ("diamond", "circle")[row], "size": 7},
            hovertext=[token_label(word, longest=None) for word in words], showlegend=False,
            hovertemplate="%{hovertext}<br>%{x:+.4f} along the direction<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[mean, mean], y=[row - 0.3, row + 0.3], mode="lines", line={"color": colour, "width": 4},
            name=f"mean of the {side} words", hovertemplate="mean %{x:+.4f}<extra></extra>",
        )  # fmt: skip
        _name_extremes(figure, look, words, values, [row + height for height in heights], above=bool(row))
    title = f"{token_label(evaluation.direction, longest=60)}: AUROC {evaluation.auroc}, {evaluation.verdict}"
    titled(
        figure, look, title=title, below=token_label(f"{evaluation.how}; {evaluation.source}", longest=110), height=440
    )
    figure.add_vline(x=0, line={"color": look.muted, "width": 1, "dash": "dot"})
    low, high = float(min(up.min(), down.min())), float(max(up.max(), down.max()))
    figure.update_xaxes(
        title_text="score along the direction<br>(units of the source; 0: middle of the pairs fitted on)",
        range=[low - 0.08 * (high - low), high + 0.08 * (high - low)],
    )
    figure.update_yaxes(
        title_text="group of words", tickmode="array", tickvals=[0, 1], showgrid=False, range=[-1.0, 2.0],
        ticktext=[_group(evaluation, 1), _group(evaluation, 0)],
    )  # fmt: skip
    return figure


def _group(evaluation: Evaluation, side: int) -> str:
    """With an example, since a direction's own name may be any text."""
    return f"{('positive', 'negative')[side]}<br>({token_label(evaluation.words[0][side])}, …)"


def _name_extremes(
    figure: go.Figure, look: Theme, words: list[str], values: list[float], heights: list[float], *, above: bool
) -> None:
    """The lowest and the highest few; at each end one level further out for each, so that none covers another."""
    order = sorted(range(len(words)), key=values.__getitem__)
    few = min(LABELLED, len(words) // 4)
    for end, places in (("left", order[:few]), ("right", order[::-1][:few])):
        for number, place in enumerate(places):
            level = number if end == "left" else few - 1 - number  # where the two ends meet, their labels do not
            figure.add_annotation(
                x=values[place], y=heights[place], text=token_label(words[place]), font={"size": 11}, align=end,
                ax=values[place], ay=(1.5 + 0.26 * level) if above else (-0.5 - 0.26 * level), axref="x", ayref="y",
                xanchor=end, arrowhead=0, arrowwidth=0.6, arrowcolor=look.muted,
            )  # fmt: skip


def permutation_histogram(evaluation: Evaluation, *, theme: ThemeName = "light") -> go.Figure:
    """The observed AUROC beside what swapped pairs, and what random directions of both kinds, reach."""
    look = find_theme(theme)
    areas = {"pairs swapped at random, fitted again": (evaluation.null, evaluation.p)}
    areas |= {NULLS.get(kind, kind): (values, evaluation.p_special[kind]) for kind, values in evaluation.random.items()}
    figure = make_subplots(rows=len(areas), cols=1, shared_xaxes=True, vertical_spacing=0.09)
    observed = evaluation.auroc.value
    for row, (name, (values, p)) in enumerate(areas.items(), 1):
        figure.add_histogram(
            x=values.tolist(), xbins={"start": 0.0, "end": 1.0 + 1e-6, "size": 0.02}, histnorm="percent", name=name,
            marker={"color": look.lines[row % len(look.lines)]}, row=row, col=1,
            hovertemplate="AUROC %{x}<br>%{y:.2f} %<extra></extra>",
        )  # fmt: skip
        figure.add_annotation(
            x=0, y=1, xref="x domain", yref="y domain", xanchor="left", yanchor="bottom", showarrow=False,
            text=f"{name} (n = {len(values):,}): p = {p:.4f}", font={"color": look.muted, "size": 12}, row=row, col=1,
        )  # fmt: skip
    figure.add_vline(x=observed, line={"color": look.text, "width": 2})  # in every panel
    title = f"{token_label(evaluation.direction, longest=60)}: is an AUROC of {observed:.3f} more than chance?"
    below = "Upright line: observed; p: share of swappings or directions that reach it"
    titled(figure, look, title=title, below=below, height=150 * len(areas) + 130, room=20)
    figure.update_layout(showlegend=False, bargap=0.05)
    figure.update_xaxes(range=[0, 1.01])
    figure.update_xaxes(title_text="AUROC (0.5: chance)", row=len(areas), col=1)
    figure.update_yaxes(title_text="share (%)", rangemode="tozero")
    return figure


def pair_differences(evaluation: Evaluation, *, theme: ThemeName = "light") -> go.Figure:
    """How far apart the words of each scored pair are along the direction, the largest difference at the top.

    At most 40 pairs, the 20 largest and the 20 smallest differences; those left of zero point the other way.
    """
    look = find_theme(theme)
    values = (evaluation.positive - evaluation.negative).tolist()
    order = sorted(range(len(values)), key=lambda number: -values[number])
    half = MOST_BARS // 2
    cut = len(order) > MOST_BARS
    shown = order[:half] + order[-half:] if cut else order
    rows = [row + (cut and row >= half) for row in range(len(shown))]  # an empty row where pairs are left out
    lengths = [values[number] for number in shown]
    figure = go.Figure(
        go.Bar(
            x=lengths, y=rows, orientation="h",
            marker={"color": [look.raises if length >= 0 else look.lowers for length in lengths]},
            hovertext=[" - ".join(token_label(word, longest=None) for word in evaluation.words[one]) for one in shown],
            hovertemplate="%{hovertext}<br>%{x:+.4f} along the direction<extra></extra>",
        )
    )  # fmt: skip
    other_way = sum(value < 0 for value in values)
    title = f"{token_label(evaluation.direction, longest=60)}: {other_way} of {len(values)} pairs point the other way"
    themed(figure, look, title=title, height=130 + 17 * (len(rows) + cut))
    figure.add_vline(x=0, line={"color": look.muted, "width": 1})
    figure.update_xaxes(title_text="positive minus negative word<br>along the direction (units of the source)")
    names = [" - ".join(token_label(word) for word in evaluation.words[number]) for number in shown]
    left_out = {half: f"… {len(order) - MOST_BARS} more …"} if cut else {}
    figure.update_yaxes(
        title_text="pair of words", tickmode="array", tickvals=[*rows, *left_out],
        ticktext=[*names, *left_out.values()], range=[max(rows) + 0.5, -0.5], showgrid=False, tickfont={"size": 11},
    )  # fmt: skip
    return figure


def layer_profile_lines(profile: LayerProfile, *, theme: ThemeName = "light") -> go.Figure:
    """AUROC and effect size at every place of the model with 95 % intervals, the untrained twin beside the AUROC."""
    look = find_theme(theme)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    x = list(range(len(profile.places)))
    facts = [(token_label(one.name), one.n, one.p_adjusted) for one in profile.places]
    twins = [(place, one.twin) for place, one in enumerate(profile.places) if one.twin is not None]
    curves = [
        ("trained", 1, x, [one.auroc for one in profile.places], look.lines[0], "circle", "AUROC"),
        (
            "untrained twin",
            1,
            [place for place, _ in twins],
            [one for _, one in twins],
            look.lines[1],
            "diamond",
            "AUROC",
        ),
        ("effect size", 2, x, [one.effect_size for one in profile.places], look.lines[0], "circle", "Cohen's d"),
    ]
    for name, row, places, found, colour, symbol, unit in curves:
        if not found:
            continue
        low, high = [one.low for one in found], [one.high for one in found]
        figure.add_trace(interval_band(places, low, high, colour), row=row, col=1)
        extra = "" if name == "untrained twin" else "<br>n = %{customdata[1]} pairs, adjusted p = %{customdata[2]:.4f}"
        figure.add_scatter(
            x=places, y=[one.value for one in found], mode="lines+markers", name=name, showlegend=row == 1,
            line={"color": colour, "dash": "dash" if name == "untrained twin" else "solid"}, row=row, col=1,
            marker={"symbol": symbol, "size": 7}, text=[f"{a:.4f} to {b:.4f}" for a, b in zip(low, high, strict=True)],
            customdata=[facts[place] for place in places],
            hovertemplate=f"{name}, %{{customdata[0]}}<br>{unit} %{{y:.4f}} (%{{text}}){extra}<extra></extra>",
        )  # fmt: skip
    for row, chance in ((1, 0.5), (2, 0.0)):
        figure.add_shape(
            type="line", x0=0, x1=1, xref="x domain", y0=chance, y1=chance, row=row, col=1,
            line={"color": look.muted, "width": 1, "dash": "dot"},
        )  # fmt: skip
    title = f"{token_label(profile.direction, longest=60)} along {token_label(profile.model, longest=40)}"
    below = f"{len(profile.pairs)} pairs, cross-validated; bands: 95 % intervals over pairs; dotted: chance"
    titled(figure, look, title=title, below=below, height=520)
    figure.update_layout(margin={"r": 44})  # for the name of the last place, which plotly hides where it has no room
    step = -(-len(x) // MOST_TICKS)
    shown = [place for place, one in enumerate(profile.places) if one.layer is None or one.layer % step == 0]
    figure.update_xaxes(
        tickmode="array", tickvals=shown, ticktext=[_tick(profile.places[place]) for place in shown], tickangle=0,
        showgrid=False, range=[-0.6, len(x) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(title_text="place (numbers: after that layer)", row=2, col=1)
    figure.update_yaxes(title_text="AUROC, out of sample", row=1, col=1)
    figure.update_yaxes(title_text="Cohen's d (s.d.)", row=2, col=1)
    return figure


def _tick(place: Place) -> str:
    """The ends one line lower, since their names are long."""
    return f"<br>{token_label(place.name)}" if place.layer is None else str(place.layer)
