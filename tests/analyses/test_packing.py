"""The arithmetic of packing.py against what is known, and its figure."""

import math

import pytest
import torch
from _packing import (
    Packing,
    best_limit,
    built_count,
    cosines,
    count_before_failure,
    directions_of,
    even_chance,
    hadamard,
    largest_between,
    optimised_count,
    pair_chance,
    push_apart,
    share_within,
    sure_count,
    unbiased_bases,
    welch_limit,
)
from _packing_figure import packing_lines


@pytest.mark.parametrize("d", [2, 3, 16, 576, 12_288])
@pytest.mark.parametrize("degrees", [1, 5, 10])
def test_the_chance_of_a_pair_is_that_of_the_beta_distribution(d, degrees):
    beta = pytest.importorskip("scipy.stats").beta
    exact = beta.sf(math.sin(math.radians(degrees)) ** 2, 0.5, (d - 1) / 2)
    assert pair_chance(d, degrees) == pytest.approx(exact, rel=1e-4)  # the trapezoids' error, worst far in the tail


def test_in_the_plane_every_angle_is_as_likely():
    assert pair_chance(2, 9) == pytest.approx(0.9)


def test_as_many_random_directions_fit_as_people_without_a_common_birthday():
    assert int(even_chance(1 / 365)) == 22  # of 23 people two share one with a chance just above one half
    assert even_chance(1e-8) == pytest.approx(1.1774 / 1e-4, rel=1e-3)
    n = even_chance(0.05)
    assert 0.95 ** (n * (n - 1) / 2) == pytest.approx(0.5)
    assert even_chance(1.0) == 1


def test_five_random_directions_fit_within_one_degree_in_gpt_3():
    assert int(even_chance(pair_chance(12_288, 1))) == 5


def test_directions_are_counted_up_to_the_first_that_fails():
    axes = torch.eye(4)
    near = torch.tensor([[0.0, 0.1, 1.0, 0.0]])  # 84 degrees to the second axis, 6 to the third
    order = torch.cat([axes[:2], near, axes[2:]])
    assert count_before_failure(order, 5) == 2
    assert count_before_failure(order, 6) == 3
    assert count_before_failure(-axes, 0) == 4
    assert count_before_failure(torch.cat([axes, -axes[:1]]), 89) == 4  # opposite vectors are one direction


def test_the_share_counts_each_pair_once_and_none_with_itself():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert share_within(vectors, 1) == pytest.approx(1 / 3)
    assert share_within(vectors, 46) == 1.0


def test_the_welch_bound_allows_698_directions_within_one_degree_in_576_dimensions():
    assert int(welch_limit(576, 1)) == 698
    d, squared = 576, math.sin(math.radians(1)) ** 2
    assert welch_limit(576, 1) == pytest.approx(d * (1 - squared) / (1 - d * squared))


@pytest.mark.parametrize(("degrees", "last"), [(1, 3283), (5, 131), (10, 33)])
def test_the_welch_bound_ends_where_dimensions_times_the_squared_cosine_reach_one(degrees, last):
    assert math.isfinite(welch_limit(last, degrees))
    assert welch_limit(last + 1, degrees) == math.inf


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_no_set_of_directions_beats_the_welch_bound_of_any_order(order):
    """The degrees that a set needs, put into the bound, must allow the set."""
    largest = float(cosines(directions_of(unbiased_bases(16))).max())
    assert welch_limit(16, math.degrees(math.asin(largest)), order) >= 144


def test_unbiased_bases_meet_the_second_bound_exactly():
    """With d / 2 + 1 bases the mean of cosine^4 is that of random directions: equality where cosines are 0 or 1 / 4."""
    fourth = directions_of(unbiased_bases(16)).double()
    mean = (fourth @ fourth.T).pow(4).mean()
    assert float(mean) == pytest.approx(3 / (16 * 18))


def test_a_higher_order_bounds_what_the_first_does_not():
    assert welch_limit(12_288, 1) == math.inf
    assert built_count(12_288, 1) < best_limit(12_288, 1) < 1e19
    assert best_limit(576, 1) <= welch_limit(576, 1)


@pytest.mark.parametrize("size", [16, 64])
def test_every_direction_of_one_base_is_equally_far_from_all_of_another(size):
    found = cosines(directions_of(unbiased_bases(size)))
    assert len(found) == built_count(size, 90) == size * (size // 2 + 1)
    blocks = found.unflatten(0, (-1, size)).unflatten(2, (-1, size)).movedim(2, 1)
    for first in range(len(blocks)):
        for second in range(len(blocks)):
            expected = 0.0 if first == second else size**-0.5
            torch.testing.assert_close(blocks[first, second], torch.full((size, size), expected), atol=1e-6, rtol=0)


def test_the_largest_cosine_between_bases_is_found_without_comparing_directions():
    signs = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).sign()
    first, second = torch.tensor([0, 0]), torch.tensor([1, 2])
    bases = hadamard(16) * signs[:, None] / 4
    expected = max(float((bases[0] @ bases[other].T).abs().max()) for other in (1, 2))
    assert largest_between(signs, first, second) == pytest.approx(expected, rel=1e-6)
    assert expected > 0.25  # random signs are no unbiased bases


def test_a_size_without_unbiased_bases_is_refused():
    with pytest.raises(AssertionError, match="32: expected 16"):
        unbiased_bases(32)


def test_blocks_are_filled_from_the_largest_that_is_within_the_tolerance():
    assert built_count(576, 5) == 2 * 256 * 129 + 64  # 64 dimensions are 7.2 degrees off
    assert built_count(576, 10) == 2 * 256 * 129 + 64 * 33
    assert built_count(576, 1) == 576
    assert built_count(12_288, 1) == 3 * 4096 * 2049


def test_a_simplex_is_one_more_than_the_axes():
    assert sure_count(57, 1) == 57 and sure_count(58, 1) == 59
    assert sure_count(12_288, 10) == 1 / pair_chance(12_288, 10)


def test_directions_are_pushed_apart_until_all_are_within_the_tolerance():
    pushed = push_apart(16, 20, 10, steps=500)
    assert count_before_failure(pushed, 10) == 20
    torch.testing.assert_close(pushed.norm(dim=-1), torch.ones(20))
    assert count_before_failure(push_apart(16, 20, 10, steps=1), 10) < 20


@pytest.mark.parametrize(("d", "degrees"), [(8, 5), (16, 5), (16, 10)])
def test_no_more_are_pushed_apart_than_the_bound_allows_and_more_than_axes_where_it_does(d, degrees):
    found = optimised_count(d, degrees, steps=500, most=1000)
    assert d <= found.n <= welch_limit(d, degrees) and not found.capped
    assert (found.n > d) == (welch_limit(d, degrees) >= d + 1)


def test_a_search_that_is_stopped_says_so():
    assert optimised_count(32, 10, steps=500, most=40) == Packing("optimised", 10, 32, 40, capped=True)


def test_the_figure_has_a_line_for_every_kind_and_tolerance_and_marks_what_was_stopped():
    packings = [
        Packing("random", 1, 8, 1), Packing("random", 1, 16, 2), Packing("Welch", 1, 8, 8.0),
        Packing("optimised", 5, 8, 9, capped=True), Packing("optimised", 5, 16, 12),
    ]  # fmt: skip
    for theme in ("light", "dark"):
        figure = packing_lines(packings, theme=theme)
        assert [line.name for line in figure.data] == [
            "1°, random, with an even chance",
            "1°, at most (Welch)",
            "5°, pushed apart",
        ]
        assert list(figure.data[0].x) == [8, 16] and list(figure.data[0].y) == [1, 2]
        assert list(figure.data[2].marker.symbol) == ["triangle-up", "circle"]
        assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text and figure.layout.title.text
