"""Intervals and tests of many means at once, of things that hang together in groups."""

import itertools

import pytest
import torch
from scipy.stats import false_discovery_control

from probe.errors import OutOfRange
from probe.statistics import grid_evidence

TEMPLATES, FILLERS = 10, 10
CROSSED = {
    "template": [template for template in range(TEMPLATES) for _ in range(FILLERS)],
    "filler": [filler for _ in range(TEMPLATES) for filler in range(FILLERS)],
}


def noise(n_cells, generator):
    """Symmetric about zero, and every template and every filler pulls all of its prompts one way."""
    template = torch.randn(n_cells, TEMPLATES, 1, generator=generator)
    filler = torch.randn(n_cells, 1, FILLERS, generator=generator)
    own = torch.randn(n_cells, TEMPLATES, FILLERS, generator=generator)
    return (template + filler + own).flatten(1)


def judge(values, groups, **arguments):
    settings = {"signed": True, "smallest_effect": 0.0, "seed": 0, "n_resamples": 400, "n_permutations": 300}
    return grid_evidence(values, groups, **{**settings, **arguments})


def test_noise_is_found_at_most_as_often_as_stated():
    """400 cells that share templates and fillers: p below 0.05 in at most 5 %, and three deviations more."""
    found = judge(noise(400, torch.Generator().manual_seed(0)), CROSSED)
    assert (found.p <= 0.05).double().mean() <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    outside = ((found.low > 0) | (found.high < 0)).double().mean()
    assert outside <= 0.12  # ten groups of each kind: percentile intervals are a little too narrow


def test_treating_prompts_as_independent_would_find_much_in_noise():
    values = noise(400, torch.Generator().manual_seed(0))
    naive = judge(values, {"prompt": range(TEMPLATES * FILLERS)})
    assert (naive.p <= 0.05).double().mean() > 0.25


def test_of_grids_of_noise_at_most_one_in_twenty_has_a_marked_cell():
    generator, n_grids = torch.Generator().manual_seed(1), 100
    marked = sum(bool(judge(noise(40, generator), CROSSED).marked.any()) for _ in range(n_grids))
    assert marked <= 0.05 * n_grids + 3 * (0.05 * 0.95 * n_grids) ** 0.5


def test_a_real_effect_is_marked_and_its_neighbours_are_not():
    values = noise(40, torch.Generator().manual_seed(2)) * 0.2
    values[7] += 1.0
    found = judge(values, CROSSED)
    assert found.marked[7] and found.marked.sum() == 1
    assert found.low[7] < values[7].mean() < found.high[7]


def test_a_certain_effect_below_the_smallest_worth_naming_is_not_marked():
    values = torch.full((3, 100), 0.01) + 0.001 * noise(3, torch.Generator().manual_seed(3))
    assert judge(values, CROSSED).marked.all()
    assert not judge(values, CROSSED, smallest_effect=0.02).marked.any()


def test_p_is_counted_over_all_flips_of_whole_groups():
    values = torch.tensor([[3.0, 1.0, 2.0, 2.0, 5.0, 1.0]])
    found = judge(values, {"template": [0, 0, 1, 1, 2, 2]})
    sums = [4.0, 4.0, 6.0]
    reached = sum(
        abs(sum(sign * one for sign, one in zip(signs, sums, strict=True))) >= 14.0 - 1e-9
        for signs in itertools.product((1, -1), repeat=3)
    )
    assert found.p.tolist() == [reached / 8] == [0.25]
    assert found.smallest_p == 0.25


def test_with_two_kinds_of_groups_the_larger_p_counts():
    values = torch.randn(1, 12, generator=torch.Generator().manual_seed(4)) + 1
    kinds = {"template": [i // 2 for i in range(12)], "filler": [i % 2 for i in range(12)]}
    both = judge(values, kinds)
    alone = [judge(values, {kind: members}) for kind, members in kinds.items()]
    assert both.p == max(one.p for one in alone)
    assert both.smallest_p == max(one.smallest_p for one in alone) == 0.5


def test_max_t_is_never_below_p_and_q_is_scipys():
    found = judge(noise(30, torch.Generator().manual_seed(5)), CROSSED)
    assert (found.p_grid >= found.p - 1e-12).all()
    assert found.q.tolist() == pytest.approx(false_discovery_control(found.p.numpy()).tolist())


def test_where_the_sign_means_nothing_there_is_no_p():
    found = judge(noise(4, torch.Generator().manual_seed(6)).abs(), CROSSED, signed=False)
    assert found.p is None and found.p_grid is None and found.q is None
    assert found.marked.all()


def test_a_constant_effect_has_an_interval_without_width():
    found = judge(torch.full((1, 100), 2.0), CROSSED)
    assert found.low.tolist() == found.high.tolist() == [2.0]


def test_a_cell_of_zeros_is_no_finding():
    found = judge(torch.zeros(2, 100), CROSSED)
    assert found.p.tolist() == [1.0, 1.0] and not found.marked.any()


def test_the_same_seed_gives_the_same_numbers():
    values = noise(5, torch.Generator().manual_seed(7))
    first, again, other = judge(values, CROSSED), judge(values, CROSSED), judge(values, CROSSED, seed=1)
    assert torch.equal(first.low, again.low) and torch.equal(first.p, again.p)
    assert not torch.equal(first.low, other.low)


def test_one_prompt_and_one_group_have_no_interval():
    with pytest.raises(OutOfRange, match="has no interval"):
        judge(torch.ones(3, 1), {"prompt": [0]})
    with pytest.raises(OutOfRange, match="has no interval"):
        judge(torch.ones(3, 4), {"template": [2, 2, 2, 2]})


def test_groups_of_another_number_are_an_error():
    with pytest.raises(OutOfRange, match=r"groups\['template'\]: 2 numbers for 4 prompts"):
        judge(torch.ones(3, 4), {"template": [0, 1]})
