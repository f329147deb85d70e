"""Figures of directions, of words as points, and of steering: the numbers of the result, no word taken for markup."""

import dataclasses
import html
import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from probe.errors import DifferentModel, OutOfRange, UnknownName
from probe.figures._marks import label_places
from probe.figures._theme import THEMES
from probe.figures.directions import layer_profile_lines, pair_differences, permutation_histogram, projection_strip
from probe.figures.steering import dose_curve_lines, erasure_bars
from probe.figures.word_space import pair_arrows, two_directions, word_space_3d
from probe.methods.directions import evaluate_direction, fit_direction
from probe.methods.layer_profile import LayerProfile, Place
from probe.methods.steering import DoseCurve, ErasureTest
from probe.statistics import Estimate
from probe.words import from_arrays

N = 12
EVIL = "<b>x</b>"


def named(n: int) -> list[tuple[str, str]]:
    """Pairs whose words are markup."""
    return [(f"<b>p{number}</b>", f"<i>n{number}") for number in range(n)]


def planted(n: int, strength: float = 3.0, others: int = 40):
    """Words that stand `strength` apart along the first axis."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(2 * n + others, 6, generator=generator)
    vectors[0 : 2 * n : 2, 0] += strength / 2
    vectors[1 : 2 * n : 2, 0] -= strength / 2
    words = [word for pair in named(n) for word in pair] + [f"<u>{number}" for number in range(others)]
    return from_arrays(f"planted {EVIL}", words, vectors)


def evaluated(n: int = N, strength: float = 3.0):
    direction = fit_direction(planted(n, strength), named(n), name=f"up {EVIL} - down")
    return evaluate_direction(
        direction, n_permutations=49, n_random=20, n_unrelated=20, twin=False, progress=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def words():
    return planted(N)


@pytest.fixture(scope="module")
def direction(words):
    return fit_direction(words, named(N), name=f"up {EVIL} - down")


@pytest.fixture(scope="module")
def second(words):
    return fit_direction(words, [("<u>1", "<u>2"), ("<u>3", "<u>4")], name="other")


@pytest.fixture(scope="module")
def evaluation():
    return evaluated()


@pytest.fixture(scope="module")
def profile():
    names = ["embedding", "layer 0", "layer 1", "unembedding"]
    places = tuple(
        Place(
            name, number - 1 if "layer" in name else None, N + number, Estimate(0.7 + number / 50, 0.6, 0.9),
            Estimate(0.7, 0.6, 0.9), Estimate(1.0 + number, 0.5 + number, 2.0 + number), 0.01, 0.02 + number / 100,
            Estimate(0.5 + number / 100, 0.4, 0.61),
        )
        for number, name in enumerate(names)
    )  # fmt: skip
    return LayerProfile(f"up {EVIL}", f"model {EVIL}", places, torch.eye(4), tuple(named(N)), {})


@pytest.fixture(scope="module")
def curve():
    effects = torch.tensor([[-3.0, -1.0], [1.0, 2.0], [2.0, 4.0]])
    random = torch.linspace(-0.5, 0.5, 20 * 3 * 2).view(20, 3, 2)
    damage = torch.tensor([[0.3], [0.1], [0.4]])
    return DoseCurve(
        direction=f"up {EVIL}", model="m", site="blocks.1.hook_resid_post", positions="last",
        contrast=f"' a' - '{EVIL}'", prompts=("one", "two"), doses=(-0.2, 0.1, 0.2), norm=5.0, gap=0.13,
        clean=torch.zeros(2), effects=effects,
        random_effects=random, random_kind="isotropic", damage=damage,
        random_damage=torch.stack([damage / 2, damage / 3, damage / 4]), seed=0, manifest={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def erasure():
    clean = torch.tensor([4.0, 6.0, 5.0])
    return ErasureTest(
        direction=f"up {EVIL}", model="m", sites=("blocks.1.hook_resid_post",), positions="last", erasure="project out",
        contrast=f"' a' - '{EVIL}'", clean=clean, erased=clean / 4, random_erased=torch.stack([clean * 0.9] * 10),
        damage=torch.tensor([0.25]), seed=0,
        manifest={"method_arguments": {"prompts": [[f"{EVIL} {n}", f"the {n}"] for n in range(3)]}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(evaluation, profile, direction, second, words, curve, erasure):
    some = [word for pair in named(4) for word in pair]
    return {
        "projection_strip": lambda theme: projection_strip(evaluation, theme=theme),
        "permutation_histogram": lambda theme: permutation_histogram(evaluation, theme=theme),
        "pair_differences": lambda theme: pair_differences(evaluation, theme=theme),
        "layer_profile_lines": lambda theme: layer_profile_lines(profile, theme=theme),
        "pair_arrows": lambda theme: pair_arrows(direction, theme=theme),
        "two_directions": lambda theme: two_directions(direction, second, some, theme=theme),
        "word_space_3d": lambda theme: word_space_3d(words, some, theme=theme),
        "dose_curve_lines": lambda theme: dose_curve_lines(curve, theme=theme),
        "erasure_bars": lambda theme: erasure_bars(erasure, theme=theme),
    }


NAMES = [
    "projection_strip", "permutation_histogram", "pair_differences", "layer_profile_lines", "pair_arrows",
    "two_directions", "word_space_3d", "dose_curve_lines", "erasure_bars",
]  # fmt: skip


def trace(figure, name, **has):
    """The one trace of this name."""
    found = [one for one in figure.data if one.name == name and all(one[key] == has[key] for key in has)]
    assert len(found) == 1, [one.name for one in figure.data]
    return found[0]


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_words_are_never_markup_in_any_theme(drawn, name, theme):
    figure = drawn[name](theme)
    assert figure.layout.paper_bgcolor == THEMES[theme].background
    written = json.dumps(figure.to_plotly_json(), default=str)
    assert not any(tag in written for tag in ("<b>", "</b>", "<i>", "<u>")) and "&lt;" in written


@pytest.mark.parametrize("name", NAMES)
def test_themes_differ_in_more_than_the_background(drawn, name):
    light, dark = (drawn[name](theme).to_plotly_json()["data"] for theme in ("light", "dark"))
    assert json.dumps(light, default=str) != json.dumps(dark, default=str)


@pytest.mark.parametrize("name", NAMES)
def test_another_theme_is_refused(drawn, as_users_run_it, name):
    with pytest.raises(UnknownName, match="no theme 'blue'"):
        drawn[name]("blue")


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_titles_on_its_axes(drawn, name):
    figure = drawn[name]("light")
    layout = figure.layout
    if name == "word_space_3d":
        axes = [layout.scene.xaxis, layout.scene.yaxis, layout.scene.zaxis]
    else:  # of axes that are the same for several panels the lowest has the title
        axes = [*figure.select_yaxes(), *(axis for axis in figure.select_xaxes() if not axis.matches)]
    assert len(axes) >= 2 and all(axis.title.text for axis in axes) and layout.title.text


def test_a_strip_holds_every_score_and_joins_the_pairs(evaluation):
    figure = projection_strip(evaluation)
    up, down = evaluation.positive.tolist(), evaluation.negative.tolist()
    assert list(trace(figure, "positive words").x) == up and list(trace(figure, "negative words").x) == down
    joined = trace(figure, "pairs").x
    assert list(joined[0::3]) == down and list(joined[1::3]) == up and set(joined[2::3]) == {None}
    heights = trace(figure, "pairs").y
    assert list(heights[1::3]) == list(trace(figure, "positive words").y)
    for side, scores in (("positive", evaluation.positive), ("negative", evaluation.negative)):
        assert trace(figure, f"mean of the {side} words").x[0] == pytest.approx(float(scores.mean()))
    assert f"AUROC {evaluation.auroc}" in figure.layout.title.text.replace("<br>", " ")
    assert evaluation.verdict in figure.layout.title.text
    symbols = {trace(figure, f"{side} words").marker.symbol for side in ("positive", "negative")}
    assert len(symbols) == 2


def test_the_band_holds_the_means_of_95_of_100_swappings(evaluation):
    """Against swaps drawn here: 4,000 of them, whose share has a standard error of 0.35 %."""
    band = next(one for one in projection_strip(evaluation).data if "swapped at random" in (one.name or ""))
    signs = torch.randint(0, 2, (4000, N), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    half = (evaluation.positive - evaluation.negative) / 2
    means = ((evaluation.positive + evaluation.negative) / 2 + signs * half).mean(-1)
    inside = ((means > min(band.x)) & (means < max(band.x))).double().mean()
    assert float(inside) == pytest.approx(0.95, abs=0.02)


def test_the_most_extreme_words_are_named(evaluation):
    figure = projection_strip(evaluation)
    texts = [note.text for note in figure.layout.annotations]
    best = evaluation.words[int(evaluation.positive.argmax())][0]
    worst = evaluation.words[int(evaluation.negative.argmin())][1]
    assert html.escape(best) in texts and html.escape(worst) in texts and len(texts) == len({*texts}) == 8


def test_histograms_hold_every_null_and_the_observed_area(evaluation):
    figure = permutation_histogram(evaluation)
    assert [list(one.x) for one in figure.data] == [
        values.tolist() for values in (evaluation.null, *evaluation.random.values())
    ]
    lines = [shape.x0 for shape in figure.layout.shapes]
    assert lines == [evaluation.auroc.value] * 3
    written = " ".join(note.text for note in figure.layout.annotations)
    for p in (evaluation.p, *evaluation.p_special.values()):
        assert f"p = {p:.4f}" in written


def test_pairs_are_ranked_and_those_that_point_the_other_way_stand_out():
    evaluation = evaluated(strength=0.3)
    bars = pair_differences(evaluation).data[0]
    values = (evaluation.positive - evaluation.negative).sort(descending=True).values.tolist()
    assert list(bars.x) == values and min(values) < 0 < max(values)
    light = THEMES["light"]
    assert list(bars.marker.color) == [light.raises if value >= 0 else light.lowers for value in values]
    first = evaluation.words[int((evaluation.positive - evaluation.negative).argmax())]
    assert bars.hovertext[0] == html.escape(" - ".join(first))


def test_of_many_pairs_the_ends_are_shown_with_a_gap_that_counts_the_rest():
    evaluation = evaluated(n=47)
    figure = pair_differences(evaluation)
    values = (evaluation.positive - evaluation.negative).sort(descending=True).values.tolist()
    assert list(figure.data[0].x) == values[:20] + values[-20:]
    axis = dict(zip(figure.layout.yaxis.tickvals, figure.layout.yaxis.ticktext, strict=True))
    assert axis[20] == "… 7 more …" and 20 not in figure.data[0].y


def test_a_profile_has_every_place_with_its_intervals(profile):
    figure = layer_profile_lines(profile)
    for name, of in (("trained", "auroc"), ("untrained twin", "twin"), ("effect size", "effect_size")):
        found = [getattr(one, of) for one in profile.places]
        line = trace(figure, name)
        assert list(line.y) == [one.value for one in found]
        band = figure.data[figure.data.index(line) - 1]
        assert list(band.y) == [one.high for one in found] + [one.low for one in found][::-1]
    assert [list(row)[1:] for row in trace(figure, "trained").customdata] == [
        [one.n, one.p_adjusted] for one in profile.places
    ]
    assert [text.removeprefix("<br>") for text in figure.layout.xaxis.ticktext] == [
        "embedding",
        "0",
        "1",
        "unembedding",
    ]
    assert [shape.y0 for shape in figure.layout.shapes if shape.yref == "y"] == [0.5]


def test_a_profile_without_a_twin_has_none(profile):
    places = tuple(dataclasses.replace(one, twin=None) for one in profile.places)
    names = [one.name for one in layer_profile_lines(dataclasses.replace(profile, places=places)).data]
    assert "trained" in names and "untrained twin" not in names


def test_arrows_go_along_the_direction_from_the_negative_to_the_positive_word(direction):
    figure = pair_arrows(direction)
    arrows = figure.data[0]
    tails, tips = (side @ direction.vector for side in (direction.pairs.negative, direction.pairs.positive))
    np.testing.assert_allclose(np.array(arrows.x[0::3], dtype=float), tails)
    np.testing.assert_allclose(np.array(arrows.x[1::3], dtype=float), tips)
    assert list(trace(figure, "positive words").x) == list(arrows.x[1::3])
    assert list(arrows.marker.size[:3]) == [0, 9, 0]


def test_upwards_is_the_first_component_of_the_midpoints_without_the_direction(direction):
    figure = pair_arrows(direction)
    middle = direction.pairs.middle
    flat = middle - (middle @ direction.vector)[:, None] * direction.vector
    covariance = np.cov(flat.numpy().T)
    shown = (np.array(figure.data[0].y[0::3], dtype=float) + np.array(figure.data[0].y[1::3], dtype=float)) / 2
    values = np.linalg.eigvalsh(covariance)
    assert shown.var(ddof=1) == pytest.approx(values[-1])
    assert f"{values[-1] / values.sum():.0%}" in figure.layout.yaxis.title.text


def test_no_more_than_30_pairs_are_labelled():
    many = 45
    figure = pair_arrows(fit_direction(planted(many), named(many)))
    shown = trace(figure, "positive words")
    assert not any(shown.text[30:]) and any(shown.text[:30]) and len(shown.hovertext) == many


def test_words_stand_on_both_directions_with_their_cosine_in_the_title(direction, second, words):
    some = ["<u>7", "<u>8", "<b>p1</b>"]
    figure = two_directions(direction, second, some)
    vectors = words.vectors_of(some).double()
    np.testing.assert_allclose(figure.data[0].x, vectors @ direction.vector)
    np.testing.assert_allclose(figure.data[0].y, vectors @ second.vector)
    assert list(figure.data[0].text) == [html.escape(word) for word in some]
    assert f"cosine {float(direction.vector @ second.vector):+.3f}" in figure.layout.title.text.replace("<br>", " ")


def test_directions_of_other_spaces_and_missing_words_are_refused(direction, words):
    other = fit_direction(words.twin(), named(3))
    with pytest.raises(DifferentModel, match="means nothing in"):
        two_directions(direction, other, ["<u>7"])
    with pytest.raises(OutOfRange, match="no words"):
        two_directions(direction, direction, [])
    with pytest.raises(UnknownName, match="'xyz'"):
        word_space_3d(words, ["<u>1", "<u>2", "<u>3", "xyz"])
    with pytest.raises(OutOfRange, match="3 words"):
        word_space_3d(words, ["<u>1", "<u>2", "<u>3"])


def test_three_components_carry_the_variance_that_their_titles_say(words):
    some = [f"<u>{number}" for number in range(10)]
    figure = word_space_3d(words, some)
    values = np.linalg.eigvalsh(np.cov(words.vectors_of(some).double().numpy().T))[::-1]
    scene = figure.layout.scene
    for number, (points, axis) in enumerate(
        zip(
            (figure.data[0].x, figure.data[0].y, figure.data[0].z), (scene.xaxis, scene.yaxis, scene.zaxis), strict=True
        )
    ):
        assert np.var(points, ddof=1) == pytest.approx(values[number])
        assert f"{values[number] / values.sum():.0%} of variance" in axis.title.text


def test_a_dose_curve_shows_effects_damage_and_every_random_direction(curve):
    figure = dose_curve_lines(curve)
    upper, lower = (trace(figure, html.escape(curve.direction, quote=False), yaxis=axis) for axis in ("y", "y2"))
    assert list(upper.x) == [-0.2, 0.0, 0.1, 0.2] and list(upper.y) == [-2.0, 0.0, 1.5, 3.0]
    assert list(lower.y) == pytest.approx([0.3, 0.0, 0.1, 0.4])
    grey = [
        [one for one in figure.data if one.name == "random directions" and one.yaxis == axis] for axis in ("y", "y2")
    ]
    assert [len(lines) for lines in grey] == [20, 3]
    assert list(grey[0][7].y)[2:] == pytest.approx(curve.random_effects[7].mean(-1).tolist()[1:])
    band = next(one for one in figure.data if one.fill == "toself")
    ends = curve.effect(-0.2)
    assert band.y[0] == ends.high and band.y[-1] == ends.low
    assert {shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1} == {curve.gap}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_title_of_a_dose_curve_says_contrast_place_and_verdict(curve, sign):
    shown = dataclasses.replace(curve, effects=sign * curve.effects)
    title = dose_curve_lines(shown).layout.title.text.replace("<br>", " ")
    assert shown.used == (sign == 1) and title.split("<span")[0].rstrip().endswith(
        ": used" if sign == 1 else ": not used"
    )
    assert html.escape(curve.contrast, quote=False) in title and "layer 1, resid_post" in title


def test_erasure_shows_means_as_bars_and_every_pair_as_a_dot(erasure):
    figure = erasure_bars(erasure)
    expected = {"clean": erasure.clean, "erased": erasure.erased, "random erased": erasure.random_erased.mean(0)}
    for name, values in expected.items():
        assert trace(figure, name, type="bar").y[0] == pytest.approx(float(values.mean()))
        dots = trace(figure, name, type="scatter")
        assert list(dots.y) == values.tolist() and html.escape(f"{EVIL} 1 / the 1", quote=False) == dots.hovertext[1]
    title = figure.layout.title.text.replace("<br>", " ")
    assert f"{erasure.left.value:.0%} is left" in title and f"p = {erasure.p:.4f}" in title and "0.2500 nats" in title
    without = erasure_bars(dataclasses.replace(erasure, manifest={}))
    assert list(trace(without, "clean", type="scatter").hovertext) == ["pair 0", "pair 1", "pair 2"]


def test_labels_stand_apart_or_are_left_out():
    free = label_places([0.0, 0.5, 1.0], [0.0, 0.5, 1.0], ["a", "b", "c"], width=400, height=400)
    assert free == ["top center"] * 3
    crowded = label_places(
        [0.0] * 40 + [1.0], [0.0] * 40 + [1.0], ["word"] * 41, width=400, height=400, all_points=False
    )
    assert None in crowded and crowded[-1] == "top center"
    placed = [place for place in crowded[:-1] if place]
    assert all(one != other for one, other in pairwise(placed))
