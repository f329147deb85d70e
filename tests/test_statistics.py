"""Areas, intervals and permutations, against scipy, sklearn and by counting."""

import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from probe.errors import OutOfRange
from probe.statistics import (
    Estimate,
    auroc,
    bootstrap,
    bootstrap_share,
    check_permutations,
    cohens_d,
    grid_evidence,
    interval,
    p_value,
    paired_accuracy,
    sign_flips,
    smallest_p,
    widened,
)


def test_areas_equal_sklearns_and_mann_and_whitneys_ties_and_batches_included():
    up, down = torch.randint(0, 6, (4, 9)).double(), torch.randint(0, 5, (4, 7)).double()
    areas = auroc(up, down)
    for row in range(4):
        scores = torch.cat([up[row], down[row]]).numpy()
        assert areas[row].item() == pytest.approx(roc_auc_score([1] * 9 + [0] * 7, scores), abs=1e-12)
        u = mannwhitneyu(up[row].numpy(), down[row].numpy()).statistic
        assert areas[row].item() == pytest.approx(u / 63, abs=1e-12)


def test_paired_accuracy_counts_ties_half():
    assert paired_accuracy(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([0.0, 2.0, 4.0, -1.0])).item() == 0.625


def test_cohens_d_is_the_difference_in_pooled_deviations():
    assert cohens_d(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 3.0, 5.0])).item() == pytest.approx(0.5)


def test_a_bootstrap_interval_of_a_mean_is_as_wide_as_theory_says():
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = bootstrap(lambda draws: values[draws].mean(-1), 400, seed=0)
    error = float(values.std()) / 20
    assert found.value == pytest.approx(float(values.mean()))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


@pytest.mark.parametrize(("n", "held"), [(5, 0.91), (8, 0.945), (24, 0.95)])
def test_intervals_of_few_groups_hold_the_truth_as_often_as_they_say(n, held):
    """3,000 cells of noise, each with its interval; two standard errors of such a share are 0.01."""
    values = torch.randn(3000, 2 * n, generator=torch.Generator().manual_seed(0))
    values = values + torch.randn(3000, n, generator=torch.Generator().manual_seed(1)).repeat(1, 2)
    found = grid_evidence(values, {"template": [*range(n)] * 2}, signed=False, smallest_effect=0.0, seed=0)
    assert ((found.low <= 0) & (found.high >= 0)).double().mean() == pytest.approx(held, abs=0.015)


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    values = torch.arange(10.0)
    one, two, other = (bootstrap(lambda draws: values[draws].mean(-1), 10, seed=seed) for seed in (0, 0, 1))
    assert one == two != other


def test_perfect_separation_does_not_give_an_interval_of_no_width():
    one = torch.ones(6)
    found = bootstrap_share(lambda draws: one[draws].mean(-1), 6, seed=0)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 6))  # 0.541: six of six are compatible with little more than half
    none = bootstrap_share(lambda draws: 0 * one[draws].mean(-1), 6, seed=0)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 6)))


def test_the_middle_95_percent_of_values_lie_in_their_interval():
    values = torch.arange(1001.0)
    assert [float(end) for end in interval(values)] == pytest.approx([25.0, 975.0])
    low, high = interval(torch.stack([values, -values]))
    assert low.tolist() == pytest.approx([25.0, -975.0]) and high.tolist() == pytest.approx([975.0, -25.0])


def test_only_an_interval_that_says_too_much_is_widened():
    assert widened(Estimate(0.5, 0.2, 0.8), 6) == Estimate(0.5, 0.2, 0.8)
    all_agree = widened(Estimate(1.0, 0.9, 1.0), 6)
    assert (all_agree.value, all_agree.high) == (1.0, 1.0) and all_agree.low == pytest.approx(0.025 ** (1 / 6))


def test_as_many_permutations_are_asked_for_as_p_needs_to_reach_a_twentieth():
    check_permutations(19)
    with pytest.raises(OutOfRange, match="n_permutations=18: expected at least 19, or p cannot reach 0.05"):
        check_permutations(18)


def test_few_pairs_are_swapped_in_all_ways_but_the_observed_one():
    flips = sign_flips(5, 1000, seed=0)
    assert flips.exact and len(flips.signs) == 15
    assert len({tuple(row) for row in flips.signs.tolist()}) == 15
    assert (flips.signs[:, 0] == 1).all(), "swapping all pairs at once changes nothing"
    assert not (flips.signs == 1).all(1).any()
    assert smallest_p(5, 1000) == 1 / 16


def test_many_pairs_are_swapped_at_random_half_of_the_time():
    flips = sign_flips(30, 500, seed=3)
    assert not flips.exact and flips.signs.shape == (500, 30)
    assert abs(flips.signs.mean().item()) < 0.03
    assert torch.equal(flips.signs, sign_flips(30, 500, seed=3).signs)
    assert smallest_p(30, 500) == 1 / 501


def test_p_counts_the_observed_one_and_what_equals_it():
    assert p_value(2.0, torch.tensor([1.0, 2.0, 3.0])) == 0.75
    assert p_value(9.0, torch.tensor([1.0, 2.0, 3.0])) == 0.25
