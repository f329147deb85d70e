"""Figures of `methods/lens.py`."""

import math
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go

from probe.errors import check_choice
from probe.figures._theme import (
    DASHES,
    Theme,
    ThemeName,
    colour_bar,
    colour_scale,
    coloured_texts,
    find_theme,
    legend_below,
    themed,
    token_axis,
    token_label,
)
from probe.methods.lens import LensDifference, LensReadout
from probe.sites import describe_site, split_name

Colour = Literal["rank", "probability", "entropy", "divergence"]
CELLS_WITH_TEXT = 2000
"""More annotated cells than this make a browser slow; beyond it only hover names the tokens."""


def lens_heatmap(
    readout: LensReadout, *, prompt: int = 0, colour: Colour = "rank", theme: ThemeName = "light"
) -> go.Figure:
    """Places down, positions across, the token that each would predict in the cell.

    Colour is the rank or the probability of the token that the whole model ends up with, or the entropy or the
    divergence KL(final || lens) of the cell in nats. Cells that predict worse than knowing
    nothing are hatched: read their ranks.
    """
    check_choice("colour", colour, get_args(Colour))
    look = find_theme(theme)
    prompt, last = readout.entry(prompt)
    kept = slice(0, last + 1)
    values, scale = _coloured(readout, prompt, kept, colour, look)
    top = readout.top_tokens[:, prompt, kept, 0].tolist()
    labels = [[token_label(readout.texts[token], longest=9) for token in row] for row in top]
    texts = coloured_texts(labels, values / (scale["zmax"] or 1.0), scale["colorscale"])
    figure = go.Figure(
        go.Heatmap(
            z=values,
            **scale,
            text=texts if values.size <= CELLS_WITH_TEXT else None,
            texttemplate="%{text}" if values.size <= CELLS_WITH_TEXT else None,
            textfont={"size": 10},
            customdata=_details(readout, prompt, kept),
            hovertemplate=_HOVER,
            xgap=1,
            ygap=1,
        )
    )
    figure.add_trace(_hatching(readout, prompt, kept, look))
    places = [place_label(place) for place in readout.places]
    step = 1 if len(places) <= 80 else 2
    tokens = [readout.str_tokens[prompt][position] for position in readout.positions[prompt, kept].tolist()]
    themed(
        figure,
        look,
        title=f"What each layer would say next, {_lens(readout)} (hatched: worse than knowing nothing)",
        height=170 + 16 * len(places),
    )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(token_axis(tokens, title="after this token", tickangle=-60, range=[-0.5, last + 0.5]))
    figure.update_yaxes(
        title_text="read after", tickmode="array", showgrid=False, range=[len(places) - 0.5, -0.5],
        tickvals=list(range(0, len(places), step)), ticktext=places[::step], tickfont={"size": 10},
    )  # fmt: skip
    return figure


def lens_lines(
    readout: LensReadout, *, prompt: int = 0, position: int = -1, most: int = 6, theme: ThemeName = "light"
) -> go.Figure:
    """The rank of the watched tokens from the embedding to the end, at one position. Rank 1 is at the top.

    `position` counts among those that the recording kept, as in `LensReadout.entry`; -1 is the last. Of more than
    `most` tokens those that end highest are drawn. Shaded: places where the lens predicts worse than knowing nothing.
    """
    look = find_theme(theme)
    prompt, column = readout.entry(prompt, position)
    places = [place_label(place) for place in readout.places]
    figure = go.Figure()
    watched = readout.watched_at(prompt, column)
    by_last_rank = sorted(range(len(watched)), key=lambda place: int(readout.watched_ranks[-1, prompt, column, place]))
    for number, place in enumerate(by_last_rank[:most]):
        token = watched[place]
        name = token_label(readout.texts[token])
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(places)),
                y=readout.watched_ranks[:, prompt, column, place].numpy(),
                name=f"'{name}'",
                mode="lines+markers",
                line={"color": look.lines[number % len(look.lines)], "dash": DASHES[number % len(DASHES)], "width": 2},
                marker={"size": 5},
                customdata=np.stack(
                    [np.array(places), readout.watched_log_probs[:, prompt, column, place].exp().numpy()], axis=-1
                ),
                hovertemplate=f"'{name}' after %{{customdata[0]}}<br>rank %{{y:,}}, "
                "probability %{customdata[1]:.6f}<extra></extra>",
            )
        )
    _shade(figure, readout.worse_than_uniform[:, prompt, column].tolist(), look)
    themed(figure, look, title=f"How the candidates climb, {_lens(readout)}", height=420)
    legend_below(figure)
    figure.update_xaxes(_place_axis(readout.places))
    decades = [10**power for power in range(math.ceil(math.log10(readout.d_vocab)) + 1)]
    figure.update_yaxes(
        title_text="rank among all tokens (1 = likeliest)", type="log", gridcolor=look.grid, tickvals=decades,
        ticktext=[f"{rank:,}" for rank in decades], range=[math.log10(readout.d_vocab * 1.2), -0.15],
    )  # fmt: skip
    return figure


def lens_difference_heatmap(difference: LensDifference, *, prompt: int = 0, theme: ThemeName = "light") -> go.Figure:
    """Places down, positions across: how much the second run says otherwise, and the token that it raises most.

    Colour is KL(before || after) of the two readouts of a cell, in nats.

    Raises:
        OutOfRange: no such prompt.
    """
    look = find_theme(theme)
    after = difference.after
    prompt, last = after.entry(prompt)
    kept = slice(0, last + 1)
    at = (slice(None), prompt, kept)
    values = difference.divergence[at].numpy().astype(np.float32)
    end = float(values.max()) or 1.0
    scale = colour_scale(look.sequential)
    top = difference.raised_tokens[at][..., 0].tolist()
    grew = (difference.raised_by[at][..., 0] > 0).tolist()
    labels = [
        [token_label(difference.texts[token], longest=9) if more else "" for token, more in zip(*row, strict=True)]
        for row in zip(top, grew, strict=True)
    ]
    shown = values.size <= CELLS_WITH_TEXT
    figure = go.Figure(
        go.Heatmap(
            z=values, zmin=0.0, zmax=end, colorscale=scale, xgap=1, ygap=1,
            colorbar=colour_bar(look, "KL(before || after) (nats)"),
            text=coloured_texts(labels, values / end, scale) if shown else None,
            texttemplate="%{text}" if shown else None, textfont={"size": 10},
            customdata=_change_details(difference, prompt, kept), hovertemplate=_CHANGE_HOVER,
        )
    )  # fmt: skip
    places = [place_label(place) for place in after.places]
    step = 1 if len(places) <= 80 else 2
    tokens = [after.str_tokens[prompt][position] for position in after.positions[prompt, kept].tolist()]
    title = f"What each layer says otherwise, {_lens(after)} (in the cell: the token raised most)"
    themed(figure, look, title=title, height=170 + 16 * len(places))
    figure.update_xaxes(token_axis(tokens, title="after this token", tickangle=-60, range=[-0.5, last + 0.5]))
    figure.update_yaxes(
        title_text="read after", tickmode="array", showgrid=False, range=[len(places) - 0.5, -0.5],
        tickvals=list(range(0, len(places), step)), ticktext=places[::step], tickfont={"size": 10},
    )  # fmt: skip
    return figure


def place_label(place: str) -> str:
    """A place in the residual stream in plain words: 'embedding', 'layer 3, attention', 'layer 3' (its end)."""
    layer, _ = split_name(place)
    short = describe_site(place).short
    return "embedding" if short == "resid_pre" else f"layer {layer}" + (", attention" if short == "resid_mid" else "")


def _lens(readout: LensReadout) -> str:
    return "tuned lens" if readout.tuned else "raw lens"


_CHANGE_HOVER = (
    "after '%{customdata[0]}' [%{customdata[1]}], read after %{customdata[2]}<br>"
    "KL(before || after) %{z:.4f} nats<br>"
    "raised most: '%{customdata[3]}' by %{customdata[4]:.4f}<br>"
    "lowered most: '%{customdata[5]}' by %{customdata[6]:.4f}<extra></extra>"
)


def _change_details(difference: LensDifference, prompt: int, kept: slice) -> np.ndarray:
    """(place, pos, 7): what hover shows of each cell."""
    after = difference.after

    def name(token: int) -> str:
        return token_label(difference.texts[token], longest=None)

    rows = []
    for index, place in enumerate(after.places):
        at = (index, prompt, kept)
        cells = zip(
            after.positions[prompt, kept].tolist(),
            difference.raised_tokens[at][:, 0].tolist(),
            difference.raised_by[at][:, 0].tolist(),
            difference.lowered_tokens[at][:, 0].tolist(),
            difference.lowered_by[at][:, 0].tolist(),
            strict=True,
        )
        rows.append([
            [
                token_label(after.str_tokens[prompt][position], longest=None), position, place_label(place),
                name(up), more, name(down), less,
            ]
            for position, up, more, down, less in cells
        ])  # fmt: skip
    return np.array(rows, dtype=object)


_HOVER = (
    "after '%{customdata[0]}' [%{customdata[1]}], read after %{customdata[2]}<br>"
    "says '%{customdata[3]}' (%{customdata[4]:.4f})<br>"
    "'%{customdata[5]}', the final choice: rank %{customdata[6]:,}, probability %{customdata[7]:.6f}<br>"
    "entropy %{customdata[8]:.3f} nats, KL(final || lens) %{customdata[9]:.3f} nats<extra></extra>"
)


def _details(readout: LensReadout, prompt: int, kept: slice) -> np.ndarray:
    """(place, pos, 10): what hover shows of each cell."""
    final = readout.final_tokens[prompt, kept].tolist()
    columns = []
    for index, place in enumerate(readout.places):
        at = (index, prompt, kept)
        cells = zip(
            readout.positions[prompt, kept].tolist(),
            readout.top_tokens[at][:, 0].tolist(),
            readout.top_log_probs[at][:, 0].exp().tolist(),
            final,
            readout.final_ranks[at].tolist(),
            readout.final_log_probs[at].exp().tolist(),
            readout.entropy[at].tolist(),
            readout.kl_to_final[at].tolist(),
            strict=True,
        )
        columns.append([_detail(readout, prompt, place, *cell) for cell in cells])
    return np.array(columns, dtype=object)


def _detail(readout: LensReadout, prompt: int, place: str, position, top, top_probability, final, *numbers) -> list:
    def name(token: int) -> str:
        return token_label(readout.texts[token], longest=None)

    after = token_label(readout.str_tokens[prompt][position], longest=None)
    return [after, position, place_label(place), name(top), top_probability, name(final), *numbers]


def _coloured(
    readout: LensReadout, prompt: int, kept: slice, colour: Colour, look: Theme
) -> tuple[np.ndarray, dict[str, Any]]:
    """The number behind each cell's colour, and the scale: strong where the final choice is near or the number big."""
    at = (slice(None), prompt, kept)
    if colour == "rank":
        end = math.log10(readout.d_vocab)
        ticks = list(range(math.floor(end) + 1))
        bar = colour_bar(look, "rank of the final choice", tickvals=ticks, ticktext=[f"{10**tick:,}" for tick in ticks])
        scale = {"zmin": 0.0, "zmax": end, "colorscale": colour_scale(look.sequential[::-1]), "colorbar": bar}
        return np.log10(readout.final_ranks[at].numpy()).astype(np.float32), scale
    values, title, largest = {
        "probability": (readout.final_log_probs[at].exp(), "probability of the final choice", 1.0),
        "entropy": (readout.entropy[at], "entropy (nats)", math.log(readout.d_vocab)),
        "divergence": (readout.kl_to_final[at], "KL(final || lens) (nats)", float(readout.kl_to_final[at].max())),
    }[colour]
    bar = colour_bar(look, title)
    return values.numpy(), {"zmin": 0.0, "zmax": largest, "colorscale": colour_scale(look.sequential), "colorbar": bar}


def _hatching(readout: LensReadout, prompt: int, kept: slice, look: Theme) -> go.Scatter:
    """A stroke at the left of every cell that predicts worse than knowing nothing."""
    place, position = readout.worse_than_uniform[:, prompt, kept].nonzero(as_tuple=True)
    line = {"color": look.muted, "width": 1}
    return go.Scatter(
        x=position.numpy() - 0.4, y=place.numpy(), mode="markers", hoverinfo="skip", opacity=0.8,
        marker={"symbol": "line-ne-open", "size": 9, "color": look.muted, "line": line},
    )  # fmt: skip


def _shade(figure: go.Figure, doubtful: list[bool], look: Theme) -> None:
    """A band behind every run of doubtful places; the first says what it means."""
    bounded = [False, *doubtful, False]
    edges = [index for index in range(len(doubtful) + 1) if bounded[index] != bounded[index + 1]]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        figure.add_vrect(x0=start - 0.5, x1=end - 0.5, fillcolor=look.shade, line_width=0, layer="below")
    if edges:
        figure.add_annotation(
            text="shaded: as a prediction worse than knowing nothing", showarrow=False, font={"color": look.muted},
            xref="paper", yref="paper", x=0.01, y=0.02, xanchor="left", yanchor="bottom",
        )  # fmt: skip


def _place_axis(places: tuple[str, ...]) -> dict:
    """Numbers with plain names beside them, at most about sixteen."""
    ends = [index for index, place in enumerate(places) if describe_site(place).short != "resid_mid"]
    step = max(1, math.ceil(len(ends) / 16))
    shown = ends[::-1][::step][::-1]
    return {
        "title": {"text": "read after", "standoff": 12},
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [place_label(places[index]) for index in shown],
        "tickangle": -45,
        "showgrid": False,
        "range": [-0.5, len(places) - 0.5],
    }
