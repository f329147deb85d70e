"""Figures of directions: the numbers of the result, both themes, no word taken for markup, few pairs."""

import json
import math

import pytest
import torch

from probe.errors import BadShape, DifferentModel, OutOfRange, UnknownName
from probe.figures._marks import band, faded, with_gaps
from probe.figures._theme import THEMES
from probe.figures.directions import (
    layer_profile_lines,
    pair_differences,
    permutation_histogram,
    projection_strip,
    word_bars,
)  # fmt: skip
from probe.figures.steering import dose_curve_lines, erasure_bars
from probe.figures.word_space import LABELLED_PAIRS, _pointing_up, pair_arrows, two_directions, word_space_3d
from probe.methods.directions import evaluate_direction, fit_direction
from probe.methods.layer_profile import LayerProfile, Place
from probe.methods.steering import DoseCurve, ErasureTest
from probe.statistics import Estimate
from probe.words import from_arrays

LIGHT = THEMES["light"]
N = 48
MARKUP = "<b>x</b>"
PAIRS = [(f"up{n}" if n else MARKUP, f"down{n}") for n in range(N)]


def plant(size=2.0, seed=0, name="planted"):
    """48 pairs in 8 dimensions whose first dimension tells them apart; the last pair points the other way."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2 * N + 40, 8, generator=generator) * 0.5
    vectors[:N, 0] += size
    vectors[N - 1, 0] -= 3 * size
    words = [pair[0] for pair in PAIRS] + [pair[1] for pair in PAIRS] + [f"other{n}" for n in range(40)]
    return from_arrays(name, words, vectors)


@pytest.fixture(scope="module")
def source():
    return plant()


def evaluated(source, pairs, held_out=None, **options):
    direction = fit_direction(source, pairs, **options)
    return evaluate_direction(direction, held_out, n_permutations=49, n_random=20, n_unrelated=30, progress=False)


@pytest.fixture(scope="module")
def direction(source):
    return fit_direction(source, PAIRS, name="<b>up</b> - down")


@pytest.fixture(scope="module")
def across(source):
    """Another direction of the same words."""
    return fit_direction(source, [("other1", "other2"), ("other3", "other4")])


@pytest.fixture(scope="module")
def validated(source):
    return evaluated(source, PAIRS)


@pytest.fixture(scope="module")
def held_out(source):
    return evaluated(source, PAIRS[:20], PAIRS[20:])


def profile_of(n_layers, *, twin=True):
    names = ["embedding", *(f"layer {layer}" for layer in range(n_layers)), "unembedding"]
    places = [
        Place(
            name, None if "embedding" in name else number - 1, 5 if "embedding" in name else 9,
            Estimate(0.5 + number / 100, 0.45, 0.9), Estimate(0.6, 0.5, 0.7),
            Estimate(number / 10, number / 10 - 0.3, number / 10 + 0.4), 0.01, 0.04 if number % 2 else 0.2,
            Estimate(0.48 + number / 200, 0.3, 0.6) if twin else None,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    return LayerProfile(
        "<b>up</b> - down", "<b>tiny</b>", tuple(places), torch.zeros(len(names), 4), tuple(PAIRS[:9]), {}
    )


def curve_of(doses=(-0.2, -0.1, 0.1, 0.2), gap=0.15):
    towards = torch.tensor(doses, dtype=torch.float64)[:, None]
    generator = torch.Generator().manual_seed(0)
    return DoseCurve(
        direction="<b>up</b> - down", model="tiny", site="blocks.1.hook_resid_post", positions="last",
        contrast="' <b>' - ' is'", prompts=("a b", "c d", "e f"), doses=tuple(doses), norm=10.0, gap=gap,
        clean=torch.zeros(3).double(), effects=towards * torch.tensor([9.0, 10.0, 11.0]).double(),
        random_effects=torch.randn(20, len(doses), 3, generator=generator).double() * 0.1,
        random_kind="isotropic", damage=towards.abs() * torch.tensor([1.0, 3.0]).double(),
        random_damage=towards.abs() * torch.rand(3, len(doses), 2, generator=generator).double(), seed=0, manifest={},
    )  # fmt: skip


def erasure_of(**manifest):
    generator = torch.Generator().manual_seed(0)
    return ErasureTest(
        direction="<b>up</b> - down", model="tiny", sites=("blocks.1.hook_resid_post", "blocks.2.hook_resid_post"),
        positions="all", erasure="project out", contrast="' are' - ' is'", clean=torch.tensor([4.0, 6.0]),
        erased=torch.tensor([1.0, 2.0]), random_erased=4 + torch.rand(12, 2, generator=generator),
        damage=torch.tensor([0.25, 0.75]), seed=0, manifest=manifest,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(source, direction, across, validated):
    names = [MARKUP, "up1", "down1", "other1", "down2"]
    return {
        "projection_strip": lambda theme: projection_strip(validated, theme=theme),
        "permutation_histogram": lambda theme: permutation_histogram(validated, theme=theme),
        "pair_differences": lambda theme: pair_differences(validated, theme=theme),
        "word_bars": lambda theme: word_bars(direction.project(names), theme=theme),
        "layer_profile_lines": lambda theme: layer_profile_lines(profile_of(3), theme=theme),
        "pair_arrows": lambda theme: pair_arrows(direction, names, theme=theme),
        "two_directions": lambda theme: two_directions(direction, across, names, theme=theme),
        "word_space_3d": lambda theme: word_space_3d(source, names, theme=theme),
        "word_space_3d, axes": lambda theme: word_space_3d(source, names, (direction, across, direction), theme=theme),
        "dose_curve_lines": lambda theme: dose_curve_lines(curve_of(), theme=theme),
        "erasure_bars": lambda theme: erasure_bars(
            erasure_of(method_arguments={"prompts": [["<b>a", "b"], ["c", "d"]]}), theme=theme
        ),
    }  # fmt: skip


NAMES = [
    "projection_strip", "permutation_histogram", "pair_differences", "word_bars", "layer_profile_lines", "pair_arrows",
    "two_directions", "word_space_3d", "word_space_3d, axes", "dose_curve_lines", "erasure_bars",
]  # fmt: skip


def text_of(figure):
    return json.dumps(figure.to_plotly_json(), default=str, ensure_ascii=False)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", NAMES)
def test_themes_differ_and_no_word_is_markup(drawn, name, theme):
    figure = drawn[name](theme)
    assert figure.layout.paper_bgcolor == THEMES[theme].background
    assert figure.layout.font.color == THEMES[theme].text
    other = THEMES["dark" if theme == "light" else "light"]
    text = text_of(figure)
    for colour in (other.background, other.panel, other.text, *other.lines):
        assert colour not in text
    assert "<b>" not in text and "&lt;b&gt;" in text.replace("‹b›", "&lt;b&gt;")


@pytest.mark.parametrize("name", NAMES)
def test_another_theme_is_refused(drawn, as_users_run_it, name):
    with pytest.raises(UnknownName, match="no theme 'blue'"):
        drawn[name]("blue")


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_has_a_title(drawn, name):
    layout = drawn[name]("light").layout
    if name.startswith("word_space_3d"):
        titles = [layout.scene[f"{letter}axis"].title.text for letter in "xyz"]
    else:
        titles = [
            layout.xaxis.title.text or layout.xaxis2.title.text or layout.xaxis3.title.text,
            layout.yaxis.title.text,
        ]
        if name == "permutation_histogram":
            titles[1] = next(one.text for one in layout.annotations if one.text == "% of draws")
    assert all(titles)


# projection strip


def dots(figure):
    return {trace.name: trace for trace in figure.data if trace.mode == "markers+text"}


def test_a_strip_holds_every_score_with_its_word(validated):
    found = dots(projection_strip(validated))
    for row, (group, scores) in enumerate((("negative", validated.negative), ("positive", validated.positive))):
        trace = found[f"{group} words"]
        assert list(trace.x) == scores.tolist() and set(trace.y) == {row}
        words = [pair[1 - row].replace("<", "&lt;").replace(">", "&gt;") for pair in validated.words]
        assert [one[0] for one in trace.customdata] == words
    assert found["negative words"].marker.symbol != found["positive words"].marker.symbol
    assert found["negative words"].marker.color != found["positive words"].marker.color


def test_lines_join_the_words_of_a_pair_and_mark_those_the_other_way(validated):
    right, wrong = projection_strip(validated).data[:2]
    other = [pair for pair, up, down in zip(*ends_of(validated), strict=True) if up <= down]
    assert other and len(wrong.x) == 3 * len(other) and len(right.x) == 3 * (N - len(other))
    assert wrong.line.color == LIGHT.lowers and wrong.showlegend
    place = validated.words.index(other[0])
    assert list(wrong.x[:3]) == [float(validated.negative[place]), float(validated.positive[place]), None]


def ends_of(evaluation):
    return evaluation.words, evaluation.positive.tolist(), evaluation.negative.tolist()


def test_a_strip_names_the_extreme_words_and_few_others(validated):
    for trace in dots(projection_strip(validated)).values():
        named = [place for place, text in enumerate(trace.text) if text]
        order = sorted(range(N), key=trace.x.__getitem__)
        assert 2 <= len(named) <= 8
        # The pair that points the other way comes first, and may stand where the extreme word would.
        assert {order[0], order[-1]} & {*named} and N - 1 in named


def test_the_title_says_the_verdict_and_the_area(validated):
    title = projection_strip(validated).layout.title.text
    assert validated.verdict in title and str(validated.auroc) in title and f"p = {validated.p:.4f}" in title


def test_means_are_in_the_null_band_of_noise_and_outside_that_of_structure(source, validated):
    noise = evaluated(source, [(f"other{2 * n}", f"other{2 * n + 1}") for n in range(20)])
    for evaluation, inside in ((validated, False), (noise, True)):
        figure = projection_strip(evaluation)
        shape = figure.layout.shapes[0]
        means = [float(evaluation.negative.mean()), float(evaluation.positive.mean())]
        assert [trace.x[0] for trace in figure.data if "mean of the" in (trace.hovertemplate or "")] == pytest.approx(
            means
        )
        assert shape.x0 + shape.x1 == pytest.approx(sum(means))
        assert all(shape.x0 <= mean <= shape.x1 for mean in means) == inside


def test_the_null_band_of_four_pairs_is_that_of_all_ways_to_swap_them(source):
    evaluation = evaluated(source, PAIRS[1:5])
    shape = projection_strip(evaluation).layout.shapes[0]
    difference = evaluation.positive - evaluation.negative
    ways = torch.cartesian_prod(*[torch.tensor([1.0, -1.0]).double()] * 4)
    reach = (ways @ difference).abs().div(8).quantile(0.95)
    # All 16 ways hold each distance twice, so their quantile lies between the same two numbers, but not at one place.
    assert (shape.x1 - shape.x0) / 2 == pytest.approx(float(reach), rel=0.1)


# histograms


def test_histograms_hold_every_draw_and_the_observed_area(validated):
    figure = permutation_histogram(validated)
    drawn = [validated.null, validated.random["isotropic"], validated.random["covariance-matched"]]
    assert [list(trace.x) for trace in figure.data] == [areas.tolist() for areas in drawn]
    solid = [shape for shape in figure.layout.shapes if shape.line.dash is None]
    assert [shape.x0 for shape in solid] == [validated.auroc.value] * 3
    texts = " ".join(one.text for one in figure.layout.annotations)
    assert f"observed {validated.auroc.value:.3f}" in texts
    for p in (validated.p, *validated.p_special.values()):
        assert f"p = {p:.4f}" in texts


def test_every_bin_is_centred_at_what_an_area_can_be(validated):
    for trace in permutation_histogram(validated).data:
        assert (trace.xbins.start, trace.xbins.end, trace.xbins.size) == (-0.01, 1.01, 0.02)  # holds 0 and 1
        assert len({trace.marker.color for trace in permutation_histogram(validated).data}) == 3


# pairs


def test_bars_are_the_left_out_differences_ranked(validated):
    bars = pair_differences(validated, most=100).data[0]
    assert list(bars.x) == sorted(validated.left_out.tolist(), reverse=True)
    assert bars.marker.color[0] == LIGHT.raises and bars.marker.color[-1] == LIGHT.lowers
    other = sum(colour == LIGHT.lowers for colour in bars.marker.color)
    assert other == len(validated.opposite) > 0
    assert f"the other way: {other} of {N} pairs" in pair_differences(validated).layout.title.text


def test_bars_of_held_out_pairs_are_their_own_differences(held_out):
    figure = pair_differences(held_out)
    expected = (held_out.positive - held_out.negative).tolist()
    assert list(figure.data[0].x) == sorted(expected, reverse=True)
    assert "28 held-out pairs" in figure.layout.title.text
    assert f"the other way: {len(held_out.opposite)} of 28" in figure.layout.title.text


def test_what_is_not_shown_is_summed_up(validated):
    figure = pair_differences(validated, most=11)
    ranked = sorted(validated.left_out.tolist(), reverse=True)
    assert list(figure.data[0].x) == [*ranked[:6], None, *ranked[-5:]]
    hidden = ranked[6:-5]
    expected = f"{N - 11} more, {hidden[0]:+.2f} to {hidden[-1]:+.2f}, mean {sum(hidden) / len(hidden):+.2f}"
    assert figure.layout.annotations[0].text.startswith(expected)
    assert len(pair_differences(validated).data[0].x) == 41  # 40 and the line that sums up


# words


@pytest.mark.parametrize("measure", ["dot", "cosine"])
def test_words_stand_in_order_before_what_random_directions_give(direction, measure):
    found = direction.project(["up1", "down1", "other1", "down2"])
    values = getattr(found, measure).tolist()
    band, bars = word_bars(found, measure=measure).data
    assert list(bars.x) == sorted(values)
    order = sorted(range(4), key=values.__getitem__)
    assert list(bars.hovertext) == [found.words[place] for place in order]
    chance = found.chance_dot.tolist() if measure == "dot" else [found.chance_cosine] * 4
    assert list(band.x) == [2 * chance[place] for place in order] and list(band.base) == [
        -chance[place] for place in order
    ]
    assert {LIGHT.raises if x >= 0 else LIGHT.lowers for x in bars.x} == {*bars.marker.color}


def test_another_measure_is_refused(direction, as_users_run_it):
    with pytest.raises(UnknownName, match="measure"):
        word_bars(direction.project("up1"), measure="euclid")


# layers


def test_a_profile_draws_every_place_with_its_twin_and_bands():
    profile = profile_of(3)
    figure = layer_profile_lines(profile)
    lines = {(trace.name, trace.yaxis): trace for trace in figure.data if trace.mode == "lines+markers"}
    trained, twin, size = lines["trained model", "y"], lines["untrained twin", "y"], lines["effect size", "y2"]
    assert list(trained.y) == [place.auroc.value for place in profile.places]
    assert list(twin.y) == [place.twin.value for place in profile.places]
    assert list(size.y) == [place.effect_size.value for place in profile.places]
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    effect = next(trace for trace in bands if trace.yaxis == "y2")
    assert list(effect.y[:5]) == [place.effect_size.high for place in profile.places]
    assert list(effect.y[5:]) == [place.effect_size.low for place in profile.places][::-1]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.5, 0.0]
    assert list(figure.layout.xaxis2.ticktext) == ["embedding", "0", "1", "2", "unembedding"]


def test_hover_says_n_where_it_differs_and_the_adjusted_p():
    figure = layer_profile_lines(profile_of(3))
    details = next(trace for trace in figure.data if trace.name == "trained model").customdata
    assert "5 of 9 pairs" in details[0][2] and "adjusted 0.2000" in details[0][2]
    assert "9 pairs" in details[1][2] and " of " not in details[1][2] and "adjusted 0.0400" in details[1][2]


def test_open_markers_are_places_that_do_not_count():
    figure = layer_profile_lines(profile_of(3))
    trained = next(trace for trace in figure.data if trace.name == "trained model")
    assert list(trained.marker.symbol) == ["circle-open", "circle", "circle-open", "circle", "circle-open"]


def test_a_profile_without_a_twin_has_no_line_for_it():
    figure = layer_profile_lines(profile_of(3, twin=False))
    assert {trace.name for trace in figure.data if trace.name} == {"trained model", "effect size"}


def test_many_layers_name_both_ends_and_some_between():
    ticks = layer_profile_lines(profile_of(48)).layout.xaxis2.ticktext
    assert ticks[0] == "embedding" and ticks[1] == "0" and ticks[-1] == "unembedding" and len(ticks) < 20


# slices of the space


def test_an_arrow_leads_from_the_negative_to_the_positive_word(direction):
    figure = pair_arrows(direction)
    arrows = figure.layout.annotations
    assert len(arrows) == N
    table = direction.to_dataframe()
    assert [arrow.ax for arrow in arrows] == pytest.approx(table.negative_along.tolist())
    assert [arrow.x for arrow in arrows] == pytest.approx(table.positive_along.tolist())
    assert [arrow.arrowcolor == LIGHT.lowers for arrow in arrows] == [gap <= 0 for gap in table.difference]
    assert "first principal component of the pairs' midpoints" in figure.layout.yaxis.title.text
    assert "the other way: 1" in figure.layout.title.text


def test_the_axis_up_is_at_a_right_angle_to_the_direction_and_the_longest_there(direction):
    negative, positive = pair_arrows(direction).data
    middle = direction.pairs.middle
    middle = middle - middle.mean(0)
    rest = middle - (middle @ direction.vector)[:, None] * direction.vector
    longest = torch.linalg.svdvals(rest)[0].square()
    up = (torch.tensor(negative.y) + torch.tensor(positive.y)).double() / 2
    assert float((up - up.mean()).square().sum()) == pytest.approx(float(longest))


def test_few_pairs_are_named_and_those_the_other_way_first(direction):
    for trace in pair_arrows(direction).data:
        named = [text for text in trace.text if text]
        assert 2 <= len(named) <= LABELLED_PAIRS and trace.text[N - 1]


def test_other_words_stand_beside_the_pairs(direction):
    others = pair_arrows(direction, ["other3", "up4"]).data[-1]
    assert list(others.text) == ["other3", "up4"]
    assert list(others.x) == pytest.approx(direction.project(["other3", "up4"]).along.tolist())
    with pytest.raises(UnknownName, match="othr3"):
        pair_arrows(direction, ["othr3"])


def test_one_pair_is_an_arrow(source):
    figure = pair_arrows(fit_direction(source, PAIRS[1:2]))
    arrow = figure.layout.annotations[0]
    middle = (source["up1"] + source["down1"]) / 2
    along = source["up1"] - source["down1"]
    along = along / along.norm()
    assert arrow.y == pytest.approx(float((middle - (middle @ along) * along).norm()), abs=1e-5)
    assert arrow.y == pytest.approx(arrow.ay, abs=1e-5) and "midpoint of the pair" in figure.layout.yaxis.title.text


def test_words_stand_where_both_directions_say(direction, across):
    names = ["up1", "down1", "other1"]
    figure = two_directions(direction, across, names)
    assert list(figure.data[0].x) == direction.project(names).along.tolist()
    assert list(figure.data[0].y) == across.project(names).along.tolist()
    assert list(figure.data[0].text) == names
    assert f"{float(direction.vector @ across.vector):+.3f}" in figure.layout.title.text


def test_one_word_is_placed_and_none_is_refused(direction, across):
    assert list(two_directions(direction, across, ["up1"]).data[0].text) == ["up1"]
    with pytest.raises(OutOfRange, match="no words"):
        two_directions(direction, across, [])


def test_directions_of_two_sources_are_refused(direction, source):
    stranger = fit_direction(plant(seed=1, name="elsewhere"), PAIRS)
    with pytest.raises(DifferentModel, match="elsewhere"):
        two_directions(direction, stranger, ["up1"])
    with pytest.raises(DifferentModel, match="elsewhere"):
        word_space_3d(source, ["up1"], (direction, direction, stranger))


def test_three_directions_are_three_axes(source, direction, across):
    names = ["up1", "down1"]
    third = fit_direction(source, [("other5", "other6")])
    trace = word_space_3d(source, names, (direction, across, third)).data[0]
    for letter, axis in zip("xyz", (direction, across, third), strict=True):
        assert list(trace[letter]) == axis.project(names).along.tolist()


def test_principal_components_say_their_share_of_the_variance(source):
    names = [f"up{n}" for n in range(1, 9)]
    figure = word_space_3d(source, names)
    centred = source.vectors_of(names).double()
    centred = centred - centred.mean(0)
    sizes = torch.linalg.svdvals(centred).square()
    for number, letter in enumerate("xyz"):
        values = torch.tensor(figure.data[0][letter]).double()
        assert float(values.square().sum()) == pytest.approx(float(sizes[number]))
        expected = f"component {number + 1} ({float(sizes[number] / sizes.sum()):.0%} of the variance)"
        assert figure.layout.scene[f"{letter}axis"].title.text == expected
    assert list(figure.data[0].text) == names


def test_an_axis_has_the_same_sign_every_time():
    for sign in (1.0, -1.0):
        assert _pointing_up(sign * torch.tensor([0.5, -2.0, 1.0])).tolist() == [-0.5, 2.0, -1.0]


def test_too_few_words_for_three_components_are_refused(source, direction, as_users_run_it):
    with pytest.raises(OutOfRange, match="3 words"):
        word_space_3d(source, ["up1", "up2", "up3"])
    with pytest.raises(OutOfRange, match="2 axes"):
        word_space_3d(source, ["up1"], (direction, direction))  # type: ignore[arg-type]
    with pytest.raises(OutOfRange, match="0 words"):
        word_space_3d(source, [], (direction, direction, direction))
    flat = from_arrays("flat", ["a", "b", "c", "d"], torch.tensor([[0.0, 1, 0], [1, 0, 0], [1, 1, 0], [2, 1, 0]]))
    with pytest.raises(BadShape, match="in a plane"):
        word_space_3d(flat, ["a", "b", "c", "d"])


# steering


def test_a_dose_curve_holds_effects_intervals_and_every_random_direction():
    curve = curve_of()
    figure = dose_curve_lines(curve)
    effect = next(trace for trace in figure.data if trace.mode == "lines+markers" and trace.yaxis == "y")
    doses = sorted([*curve.doses, 0.0])  # where nothing is added, nothing changes
    assert list(effect.x) == doses
    nothing = doses.index(0.0)
    assert list(effect.y) == pytest.approx([10 * dose for dose in doses])
    random, below = [trace for trace in figure.data if trace.line.width == 1]
    rows = [[*row[:nothing], 0.0, *row[nothing:], None] for row in curve.random_effects.mean(-1).tolist()]
    assert list(random.y) == sum(rows, []) and len(below.y) == 3 * (len(doses) + 1)
    area = next(trace for trace in figure.data if trace.fill == "toself")
    assert list(area.y[: len(doses)]) == [curve.effect(dose).high if dose else 0.0 for dose in doses]
    damage = next(trace for trace in figure.data if trace.mode == "lines+markers" and trace.yaxis == "y2")
    assert list(damage.y) == pytest.approx([2 * abs(dose) for dose in doses])


@pytest.mark.parametrize("gap", [0.05, 0.15, 0.9])
def test_one_gap_is_marked_inside_the_axis(gap):
    figure = dose_curve_lines(curve_of(gap=gap))
    assert [shape.x0 for shape in figure.layout.shapes] == [gap, gap]
    low, high = figure.layout.xaxis.range
    assert low < gap < high and f"one gap ({gap:.3g})" in figure.layout.annotations[0].text


def test_the_title_says_contrast_site_and_whether_it_is_used():
    curve = curve_of()
    assert curve.used
    title = dose_curve_lines(curve).layout.title.text
    assert ": used" in title and "' &lt;b&gt;' - ' is'" in title and "blocks.1.hook_resid_post" in title
    idle = curve_of(doses=(-0.2,))
    assert not DoseCurve(**{**vars(idle), "effects": -idle.effects}).used
    assert (
        "not shown to be used"
        in dose_curve_lines(DoseCurve(**{**vars(idle), "effects": -idle.effects})).layout.title.text
    )


def test_one_dose_is_drawn():
    effect = next(t for t in dose_curve_lines(curve_of(doses=(0.1,))).data if t.mode == "lines+markers")
    assert list(effect.y) == pytest.approx([0.0, 1.0])


def test_erasure_bars_are_means_and_dots_are_pairs_or_random_directions():
    test = erasure_of()
    figure = erasure_bars(test)
    bars, clean, erased, random = figure.data
    assert list(bars.y) == pytest.approx([5.0, 1.5, float(test.random_erased.mean())])
    assert list(clean.y) == [4.0, 6.0] and list(erased.y) == [1.0, 2.0]
    assert list(random.y) == pytest.approx(test.random_erased.mean(-1).tolist())
    title = figure.layout.title.text.replace("<br>", " ")
    assert "30% of the contrast is left" in title and "0.5 nats" in title and f"p = {test.p:.4f}" in title
    assert "at blocks.1.hook_resid_post and at 1 later layers" in title


def test_hover_of_an_erasure_shows_the_prompts_that_it_was_given():
    figure = erasure_bars(erasure_of(method_arguments={"prompts": [["The cats", "The cat"], ["a<b>", "b"]]}))
    assert list(figure.data[1].hovertext) == ["'The cats' / 'The cat'", "'a&lt;b&gt;' / 'b'"]
    assert list(erasure_bars(erasure_of()).data[1].hovertext) == ["pair 0", "pair 1"]


# shared


def test_a_band_leaves_out_places_without_an_interval():
    nan = math.nan
    area = band([0, 1, 2], [Estimate(1.0, 0.0, 2.0), Estimate(nan, nan, nan), Estimate(1.0, 0.5, 3.0)], "#102030")
    assert list(area.x) == [0, 2, 2, 0] and list(area.y) == [2.0, 3.0, 0.5, 0.0]
    assert area.fillcolor == "rgba(16, 32, 48, 0.18)" == faded("#102030", 0.18)
    assert with_gaps([(1.0, 2.0), (3.0,)]) == [1.0, 2.0, None, 3.0, None]


def test_four_pairs_are_enough_for_every_figure_of_an_evaluation(source):
    evaluation = evaluated(source, PAIRS[1:5])
    assert len(dots(projection_strip(evaluation))["positive words"].x) == 4
    assert len(permutation_histogram(evaluation).data[0].x) == len(evaluation.null) == 7
    assert len(pair_differences(evaluation).data[0].x) == 4
