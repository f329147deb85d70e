"""Figures of sweeps: every number is the sweep's, noise looks like noise, and no name is taken for markup."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import probe
from probe.errors import OutOfRange, UnknownName
from probe.figures._theme import THEMES
from probe.figures.ablation import ablation_bars, ablation_map, agreement_plot, prompt_effects, total_against_direct
from tests.tiny import tiny_model

PROMPTS = [[(7 * row + 3 * place * place) % 50 for place in range(8)] for row in range(8)]
FIGURES = (ablation_map, ablation_bars, total_against_direct)


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2")


def run(model, prompts=PROMPTS, **arguments):
    metric = probe.logit_difference(5, 7)
    return probe.ablation_sweep(model, prompts, metric=metric, value="zero", progress=False, **arguments)


@pytest.fixture(scope="module")
def sweep(model):
    """Real but for one head, made to do the same to every prompt."""
    found = run(model, layers=[0, 2])
    effects = found.effects.clone()
    effects[6] = -9.0 - 0.01 * torch.arange(8.0)
    found = dataclasses.replace(found, effects=effects)
    assert found.units[6].name == "2.2" and found.evidence.marked[6] and not found.evidence.marked.all()
    return found


@pytest.fixture(scope="module")
def single(model):
    return run(model, PROMPTS[:1])


def below(figure) -> str:
    """Title and lines as they are read, however they are broken."""
    return " ".join(re.sub(r"<[^>]+>", " ", figure.layout.title.text).split())


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("theme", THEMES)
def test_themes_and_markup(sweep, draw, theme):
    named = dataclasses.replace(sweep, metric="'<b>&' - 'x'", positions="[<i>]")
    figure = draw(named, theme=theme)
    assert figure.layout.paper_bgcolor == THEMES[theme].background
    told = json.dumps(figure.to_plotly_json(), default=str)
    assert "<b>" not in told and "<i>" not in told and "&lt;b&gt;&amp;" in told


@pytest.mark.parametrize("draw", FIGURES)
def test_another_theme_is_refused(sweep, as_users_run_it, draw):
    with pytest.raises(UnknownName, match="no theme 'blue'"):
        draw(sweep, theme="blue")


@pytest.mark.parametrize("draw", FIGURES)
def test_a_title_says_what_was_measured_and_on_how_much(sweep, draw):
    shown = below(draw(sweep))
    for expected in (
        "5 - 7", "(logits)", "in its place: zero", "positions: after the first", "mean over 8 prompts",
        f"{float(sweep.clean.mean()):+.3f} logits with nothing taken out",
        f"{int(sweep.evidence.marked.sum())} of 8 are outside",
    ):  # fmt: skip
        assert expected in shown
    part = dataclasses.replace(sweep, complete=False)
    assert "8 prompts (interrupted" in below(draw(part))


def test_a_map_holds_the_layers_that_were_swept_and_hatches_what_is_noise(sweep):
    figure = ablation_map(sweep)
    heat, hatching = figure.data
    np.testing.assert_allclose(heat.z, sweep.effects.mean(1).reshape(2, 4).numpy(), rtol=1e-6)
    assert list(figure.layout.yaxis.ticktext) == ["0", "2"] and heat.customdata[1][2].tolist() == [2, "head 2"]
    crossed = {(round(y), round(x)) for x, y in zip(hatching.x, hatching.y, strict=True) if x is not None}
    noise = (~sweep.evidence.marked).reshape(2, 4).nonzero().tolist()
    assert crossed == {tuple(place) for place in noise} and (1, 2) not in crossed


def test_a_map_is_centred_at_zero_unless_effects_cannot_go_below(sweep, model):
    heat = ablation_map(sweep).data[0]
    assert heat.zmin == -heat.zmax == -sweep.effects.mean(1).abs().max()
    unsigned = probe.ablation_sweep(model, PROMPTS, metric=probe.kl_to_clean(), value="zero", progress=False)
    heat = ablation_map(unsigned).data[0]
    assert heat.zmin == 0.0 and heat.colorscale[0][1] == THEMES["light"].sequential[0]


@pytest.mark.parametrize("draw", FIGURES)
def test_one_prompt_is_said_to_have_no_interval_and_nothing_is_hatched(single, draw):
    figure = draw(single)
    assert "one prompt (or group of prompts) has no interval" in below(figure)
    assert "hatched" not in below(figure) and "open circles" not in below(figure)
    if draw is ablation_map:
        assert len(figure.data) == 1
    if draw is ablation_bars:
        assert set(figure.data[0].marker.pattern.shape) == {""} and figure.data[0].error_x.array is None


def test_too_few_prompts_are_said_to_be_too_few(model):
    assert "cannot give a p below 0.25" in below(ablation_map(run(model, PROMPTS[:3])))


@pytest.mark.parametrize("kind", ["MLPs", "layers"])
def test_a_map_of_one_unit_a_layer_has_one_column_and_names_all(model, kind):
    swept = run(model, units=kind)
    figure = ablation_map(swept)
    np.testing.assert_allclose(figure.data[0].z[:, 0], swept.effects.mean(1).numpy(), rtol=1e-6)
    labels = [f"{value:.2f}" for value in swept.effects.mean(1).tolist()]
    assert {note.text for note in figure.layout.annotations} <= set(labels)


def test_neurons_and_sets_of_heads_are_offered_bars(model, as_users_run_it):
    for arguments in ({"units": "neurons", "layers": 1}, {"units": [[(0, 1), (1, 2)], (2, 0)]}):
        swept = run(model, **arguments)
        with pytest.raises(OutOfRange, match="ablation_bars"):
            ablation_map(swept)
        assert len(ablation_bars(swept, n=2).data[0].x) == 2


def test_heads_that_were_not_swept_are_empty_cells(model):
    swept = run(model, units=[(0, 1), (2, 3)])
    heat = ablation_map(swept).data[0]
    assert heat.z.shape == (2, 2) and np.isnan(heat.z[0, 1]) and heat.customdata[0][0].tolist() == [0, "head 1"]


def test_bars_are_the_largest_with_intervals_and_hatched_where_noise(sweep):
    figure = ablation_bars(sweep, n=5)
    bars, found = figure.data[0], sweep.evidence
    order = found.mean.abs().argsort(descending=True)[:5].tolist()
    assert list(figure.layout.yaxis.ticktext) == [sweep.units[place].name for place in order] and order[0] == 6
    np.testing.assert_allclose(bars.x, found.mean[order].numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.add(bars.x, bars.error_x.array), found.high[order].numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.subtract(bars.x, bars.error_x.arrayminus), found.low[order].numpy(), rtol=1e-5)
    assert [shape == "" for shape in bars.marker.pattern.shape] == found.marked[order].tolist()
    assert bars.marker.color[0] == THEMES["light"].lowers


def test_total_stands_against_direct_and_hover_says_the_rest(sweep):
    figure = total_against_direct(sweep)
    line, points, names = figure.data
    assert list(line.x) == list(line.y)  # all direct
    np.testing.assert_allclose(points.y, sweep.effects.mean(1).numpy(), rtol=1e-6)
    np.testing.assert_allclose(points.x, sweep.direct.mean(1).numpy(), rtol=1e-6)
    assert "2.2" in names.text
    assert f"indirect {float(sweep.indirect[6].mean()):+.4f} logits" in points.hovertext[6]
    share = sweep.self_repair()
    for text, one in zip(points.hovertext, share.tolist(), strict=True):
        assert ("too small to say" if one != one else f"{one:.0%} of the direct") in text
    filled = [colour != THEMES["light"].panel for colour in points.marker.color]
    assert filled == sweep.evidence.marked.tolist()


def test_agreement_is_drawn_with_its_three_numbers(sweep, model):
    other = probe.ablation_sweep(
        model, PROMPTS, metric=probe.logit_difference(5, 7), value="mean", layers=[0, 2], progress=False
    )
    found = probe.agreement(sweep, other, k=3)
    figure = agreement_plot(found, theme="dark")
    line, points, names = figure.data
    np.testing.assert_allclose(points.x, sweep.effects.mean(1).numpy(), rtol=1e-6)
    np.testing.assert_allclose(points.y, other.effects.mean(1).numpy(), rtol=1e-6)
    assert list(line.x) == list(line.y) and figure.layout.paper_bgcolor == THEMES["dark"].background
    shown = below(figure)
    for said in (
        f"{len(found.shared)} of the 3 largest are the same", f": {found.pearson:.2f}", f": {found.spearman:.2f}",
        "in a unit's place: zero", "second: mean over all positions but 0",
    ):  # fmt: skip
        assert said in shown
    assert [colour != THEMES["dark"].panel for colour in points.marker.color] == found.above.tolist()
    assert ["among the 3 largest of both" in text for text in points.hovertext] == [
        unit.name in found.shared for unit in found.units
    ]
    assert set(names.text) <= {unit.name for unit in found.units}


def test_correlations_that_do_not_exist_are_said_not_to(sweep):
    found = dataclasses.replace(probe.agreement(sweep, sweep, k=3), pearson=float("nan"), spearman=float("nan"))
    shown = below(agreement_plot(found))
    assert ": nan" not in shown and "too few for one" in shown and "one does not vary" in shown


def test_every_prompt_is_a_point_with_the_mean_and_its_interval(sweep):
    figure = prompt_effects(sweep, "2.2", theme="dark")
    assert list(figure.data[0].x) == pytest.approx(sweep.effects[6].tolist())
    mean, zero = (shape for shape in figure.layout.shapes if shape.type == "line")
    assert (mean.x0, zero.x0) == (pytest.approx(sweep.effect("2.2")), 0.0)
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (band.x0, band.x1) == pytest.approx((float(sweep.evidence.low[6]), float(sweep.evidence.high[6])))
    with pytest.raises(UnknownName):
        prompt_effects(sweep, "9.9")


def test_one_prompt_is_a_point_without_a_band(single):
    figure = prompt_effects(single, "0.0")
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]
