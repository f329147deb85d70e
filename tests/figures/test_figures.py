"""Every figure shows what stands in its result, in both themes, and takes no token for markup."""

import dataclasses
import json
import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from probe.errors import UnknownName
from probe.figures._marks import titled
from probe.figures._theme import THEMES, colour_at, colour_scale, find_theme, luminance_of, text_on, token_label
from probe.figures.attention import FAINTEST, attention_heatmap, attention_lines, row_in_every_head
from probe.figures.attribution import attribution_bars
from probe.figures.distribution import next_token_bars
from probe.figures.lens import lens_difference_heatmap, lens_heatmap, lens_lines, place_label
from probe.interventions import scale
from probe.methods.attention import read_pattern
from probe.methods.attribution import direct_logit_attribution
from probe.methods.distribution import next_tokens
from probe.methods.lens import lens_difference, logit_lens
from probe.recording import record
from tests.tiny import LetterTokenizer, tiny_model

PROMPTS = [[1, 2, 1, 4], [6, 7]]


class MarkupTokenizer(LetterTokenizer):
    """Tokens that would do harm if they were taken for markup."""

    def str_tokens(self, ids):
        return [f"<b>&{token}" for token in ids]


@pytest.fixture(scope="module")
def model():
    model = tiny_model(scale=30.0)
    model.tokenizer = MarkupTokenizer()
    return model


@pytest.fixture(scope="module")
def recording(model):
    return record(model, PROMPTS)


@pytest.fixture(scope="module")
def readout(model, recording):
    return logit_lens(model, recording, watch=[7, 3])


@pytest.fixture(scope="module")
def attribution(model, recording):
    return direct_logit_attribution(model, recording, token=7, against=3)


@pytest.fixture(scope="module")
def drawn(model, recording, readout, attribution):
    return {
        "lens_heatmap": lambda theme: lens_heatmap(readout, theme=theme),
        "lens_lines": lambda theme: lens_lines(readout, theme=theme),
        "attention_heatmap": lambda theme: attention_heatmap(read_pattern(recording, 1, 2), theme=theme),
        "attribution_bars": lambda theme: attribution_bars(attribution, theme=theme),
        "next_token_bars": lambda theme: next_token_bars(next_tokens(model, recording), theme=theme),
    }


FIGURES = ("lens_heatmap", "lens_lines", "attention_heatmap", "attribution_bars", "next_token_bars")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_has_a_title_and_no_token_is_markup(drawn, name, theme):
    figure = drawn[name](theme)
    assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text and figure.layout.title.text
    assert figure.layout.paper_bgcolor == THEMES[theme].background
    text = figure.to_json()
    assert "<b>" not in text.replace("\\u003c", "<") and "&lt;b&gt;&amp;" in text.replace("\\u0026", "&")


@pytest.mark.parametrize("name", FIGURES)
def test_an_unknown_theme_is_named(drawn, name, as_users_run_it):
    with pytest.raises(UnknownName, match="did you mean 'light'"):
        drawn[name]("ligth")


@pytest.mark.parametrize("prompt", [0, 1])
def test_the_lens_heatmap_shows_ranks_on_a_log_scale_from_one(readout, prompt):
    heatmap = lens_heatmap(readout, prompt=prompt).data[0]
    length = len(PROMPTS[prompt])
    assert isinstance(heatmap.z, np.ndarray) and heatmap.z.dtype == np.float32
    np.testing.assert_allclose(10**heatmap.z, readout.final_ranks[:, prompt, :length].numpy(), rtol=1e-5)
    assert (heatmap.zmin, heatmap.zmax) == (0.0, math.log10(50))
    assert heatmap.colorscale[0][1] == THEMES["light"].sequential[-1]  # rank 1 has the strongest colour
    first = readout.texts[int(readout.top_tokens[2, prompt, 1, 0])]
    assert token_label(first, longest=9) in heatmap.text[2][1]


@pytest.mark.parametrize(
    ("colour", "values"),
    [
        ("probability", lambda r: r.final_log_probs.exp()),
        ("entropy", lambda r: r.entropy),
        ("divergence", lambda r: r.kl_to_final),
    ],
)
def test_the_lens_heatmap_colours_by_what_is_asked(readout, colour, values):
    heatmap = lens_heatmap(readout, colour=colour).data[0]
    np.testing.assert_array_equal(heatmap.z, values(readout)[:, 0].numpy())
    assert heatmap.zmin == 0 and heatmap.zmax >= heatmap.z.max()


def test_an_unknown_colour_is_named(readout, as_users_run_it):
    with pytest.raises(UnknownName, match="did you mean 'probability'"):
        lens_heatmap(readout, colour="probabilty")


def test_hover_tells_the_cells_own_numbers(readout):
    heatmap = lens_heatmap(readout).data[0]
    after, position, place, top, probability, final, rank, _, entropy, divergence = heatmap.customdata[3][2]
    assert (after, position, place) == ("&lt;b&gt;&amp;1", 2, "layer 1, attention")
    assert top == token_label(readout.texts[int(readout.top_tokens[3, 0, 2, 0])], longest=None)
    assert final == token_label(readout.texts[int(readout.final_tokens[0, 2])], longest=None)
    assert probability == pytest.approx(float(readout.top_log_probs[3, 0, 2, 0].exp()))
    assert (rank, entropy) == (int(readout.final_ranks[3, 0, 2]), float(readout.entropy[3, 0, 2]))
    assert divergence == float(readout.kl_to_final[3, 0, 2])


def test_cells_worse_than_uniform_are_hatched_and_no_others(readout):
    strokes = lens_heatmap(readout).data[1]
    marked = {(int(place), round(position + 0.4)) for place, position in zip(strokes.y, strokes.x, strict=True)}
    expected = {(place, position) for place, position in readout.worse_than_uniform[:, 0].nonzero().tolist()}
    assert expected and marked == expected


def test_a_heatmap_of_too_many_cells_leaves_the_words_to_hover(readout, monkeypatch):
    monkeypatch.setattr("probe.figures.lens.CELLS_WITH_TEXT", 10)
    assert lens_heatmap(readout).data[0].text is None


def test_lines_show_ranks_with_the_first_at_the_top(readout):
    figure = lens_lines(readout, prompt=1)
    last = readout.watched_ranks[-1, 1, 1].argsort().tolist()  # the one that ends highest first
    for number, line in zip(last, figure.data, strict=True):
        assert list(line.y) == readout.watched_ranks[:, 1, 1, number].tolist()
        assert len(line.x) == len(readout.places)
    assert len(figure.data) == 2 and figure.data[0].line.dash != figure.data[1].line.dash
    bottom, top = figure.layout.yaxis.range
    assert bottom > math.log10(50) and top < 0 and figure.layout.yaxis.type == "log"


def test_bands_cover_exactly_the_doubtful_places(readout):
    figure = lens_lines(readout)
    doubtful = readout.worse_than_uniform[:, 0, -1].tolist()
    shaded = [any(band.x0 < place < band.x1 for band in figure.layout.shapes) for place in range(len(readout.places))]
    assert any(doubtful) and shaded == doubtful
    assert bool(figure.layout.annotations)


def test_without_doubtful_places_there_is_no_band():
    model = tiny_model(scale=1.0)
    assert not lens_lines(logit_lens(model, record(model, PROMPTS), watch=[1])).layout.shapes


def test_attention_hides_what_cannot_be_seen_and_tells_repeated_tokens_apart(recording):
    head = read_pattern(recording, 1, 2)
    figure = attention_heatmap(head)
    heatmap = figure.data[0]
    seen = np.tri(4, dtype=bool)
    np.testing.assert_array_equal(heatmap.z[seen], head.pattern.numpy()[seen])
    assert np.isnan(heatmap.z[~seen]).all() and (heatmap.zmin, heatmap.zmax) == (0, 1)
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3]
    assert figure.layout.xaxis.ticktext[0] == figure.layout.xaxis.ticktext[2]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # position 0 at the top
    assert heatmap.customdata[2][0].tolist() == ["&lt;b&gt;&amp;1 [2]", "&lt;b&gt;&amp;1 [0]"]


def test_bars_are_the_probabilities_in_order(model, recording):
    found = next_tokens(model, recording, top=5)
    bar = next_token_bars(found).data[0]
    np.testing.assert_array_equal(bar.x, found.probabilities.numpy())
    np.testing.assert_array_equal(bar.customdata, found.logits.numpy())


def test_labels_keep_spaces_visible_and_long_tokens_short():
    assert token_label(" Mary") == "·Mary"
    assert token_label("a" * 40) == "a" * 13 + "…"
    assert token_label("<script>&", longest=None) == "&lt;script&gt;&amp;"


def test_places_have_plain_names():
    names = ["blocks.0.hook_resid_pre", "blocks.4.hook_resid_mid", "blocks.4.hook_resid_post"]
    assert [place_label(name) for name in names] == ["embedding", "layer 4, attention", "layer 4"]


def contrast(one: float, other: float) -> float:
    """Source: WCAG 2.1."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("share", np.linspace(0, 1, 41))
def test_words_in_cells_stand_out_from_every_colour(theme, share):
    scale = colour_scale(THEMES[theme].sequential)
    written = luminance_of([int(text_on(share, scale)[1:3], 16) / 255] * 3)
    assert contrast(written, luminance_of(colour_at(share, scale))) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_words_beside_figures_stand_out_from_the_background(theme):
    look = THEMES[theme]
    for colour in (look.text, look.muted, *look.lines):
        for ground in (look.background, look.panel):
            rgb = [colour_at(0.0, [(0.0, c), (1.0, c)]) for c in (colour, ground)]
            least = 3.0 if colour in look.lines else 4.5  # lines are no text
            assert contrast(*map(luminance_of, rgb)) >= least, (colour, ground)


def test_figures_survive_the_way_to_json(drawn):
    for draw in drawn.values():
        assert json.loads(draw("light").to_json())["data"]


def test_attribution_bars_are_the_largest_parts_and_the_sum_of_the_others(attribution):
    bar = attribution_bars(attribution, prompt=1, top=4).data[0]
    values = attribution.contributions[:, 1]
    assert list(bar.x[:4]) == values[values.abs().argsort(descending=True)[:4]].tolist()
    assert sum(bar.x) == pytest.approx(float(attribution.logit[1]), abs=1e-3)
    assert bar.hovertext[-1] == f"{len(values) - 4} others" and not bar.error_x.visible
    assert [colour == THEMES["light"].raises for colour in bar.marker.color] == [value >= 0 for value in bar.x]


def test_attribution_of_several_prompts_has_error_bars(attribution):
    bar = attribution_bars(attribution, top=3).data[0]
    order = attribution.mean.abs().argsort(descending=True)[:3]
    assert list(bar.error_x.array[:3]) == attribution.standard_error[order].tolist() and bar.error_x.visible


def test_no_two_lines_of_a_lens_look_alike_and_the_best_at_the_end_are_drawn(model, recording):
    readout = logit_lens(model, recording, watch=list(range(20)))
    lines = lens_lines(readout).data
    assert len({(line.line.color, line.line.dash) for line in lines}) == len(lines) == 6
    ends = sorted(readout.watched_ranks[-1, 0, -1].tolist())
    assert [int(line.y[-1]) for line in lines] == ends[:6]


@pytest.fixture(scope="module")
def difference(model, recording):
    edited = record(model, PROMPTS, interventions=scale("mlp_out", 3.0, layer=1))
    return lens_difference(model, recording, edited)


@pytest.mark.parametrize("theme", THEMES)
def test_a_lens_difference_shows_how_much_changed_and_what_was_raised(difference, theme):
    figure = lens_difference_heatmap(difference, theme=theme)
    heatmap = figure.data[0]
    np.testing.assert_allclose(heatmap.z, difference.divergence[:, 0, :4].numpy(), atol=1e-6)
    assert heatmap.zmin == 0.0 and heatmap.zmax == pytest.approx(float(difference.divergence[:, 0, :4].max()))
    raised = int(difference.raised_tokens[-1, 0, 3, 0])
    assert heatmap.customdata[-1][3][3] == token_label(difference.texts[raised], longest=None)
    assert heatmap.customdata[-1][3][4] == pytest.approx(float(difference.raised_by[-1, 0, 3, 0]))
    assert (heatmap.z[0] == 0.0).all() and (heatmap.z[-1] > 0.0).all()  # the embedding is the same
    assert "<b>" not in json.dumps(figure.to_plotly_json(), default=str).replace("<br>", "")


def test_a_run_against_itself_differs_nowhere(model, recording):
    figure = lens_difference_heatmap(lens_difference(model, recording, recording))
    assert (figure.data[0].z == 0.0).all() and figure.data[0].zmax == 1.0
    assert not re.sub("<[^>]*>", "", "".join(np.ravel(figure.data[0].text)))  # no token where nothing was raised


def test_lens_figures_say_which_lens_it_is(readout):
    assert "raw lens" in lens_heatmap(readout).layout.title.text
    tuned = dataclasses.replace(readout, tuned=True)
    assert "tuned lens" in lens_lines(tuned).layout.title.text


def test_a_line_for_every_look_that_is_not_faint(model, recording):
    head = read_pattern(recording, 1, 2)
    weights = head.pattern
    every = [trace for trace in attention_lines(head).data if trace.x]
    drawn = {(trace.y[place], trace.y[place + 1]) for trace in every for place in range(0, len(trace.y), 3)}
    n = len(weights)
    assert drawn == {(q, k) for q in range(n) for k in range(q + 1) if float(weights[q, k]) >= FAINTEST}
    widths = [trace.line.width for trace in attention_lines(head).data if trace.line.width]
    assert widths == sorted(widths)
    last = [trace for trace in attention_lines(head, query=n - 1).data if trace.x]
    assert {trace.y[place] for trace in last for place in range(0, len(trace.y), 3)} == {n - 1}


def test_the_chosen_pair_is_crossed(recording):
    row, column = attention_heatmap(read_pattern(recording, 1, 2), crossed=(2, 1)).layout.shapes
    assert (row.y0, row.y1) == (1.5, 2.5) and (column.x0, column.x1) == (0.5, 1.5)


@pytest.mark.parametrize(
    "title", ["short", "a title so long that a window of 800 pixels would cut off its last words " * 2]
)
def test_long_titles_and_the_lines_below_them_are_broken_and_make_room(title):
    plain = titled(go.Figure(), find_theme("light"), "short", height=300)
    figure = titled(go.Figure(), find_theme("light"), title, "below " * 30, height=300)
    first, *below = figure.layout.title.text.split("<br><span")
    assert all(len(line) <= 60 for line in first.split("<br>"))
    n_lines = len(first.split("<br>")) - 1 + len(below)
    assert len(below) == 3 and figure.layout.margin.t - plain.layout.margin.t >= 17 * n_lines


@pytest.mark.parametrize("theme", THEMES)
def test_one_row_of_every_head_hides_what_comes_after_it(theme):
    rows = np.random.default_rng(0).random((2, 3, 5))
    figure = row_in_every_head(rows, ["<b>", " a", " a", " c", " d"], 2, theme=theme)
    drawn = figure.data[0]
    assert np.allclose(drawn.z[:, :3], rows.reshape(6, 5)[:, :3], atol=1e-6) and np.isnan(drawn.z[:, 3:]).all()
    assert (drawn.zmin, drawn.zmax) == (0.0, 1.0)
    assert list(drawn.customdata[4, 2]) == ["layer 1, head 1", f"{token_label(' a', longest=None)} [2]"]
    assert list(figure.layout.yaxis.tickvals) == [0, 3] and list(figure.layout.yaxis.ticktext) == ["0", "1"]
    assert "<b>" not in json.dumps(figure.to_plotly_json(), default=str)
    assert rows[0, 0, 4] > 0  # what was handed in is as it was
