"""Two sweeps of the same units, compared."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr

import probe
from probe.errors import BadShape, OutOfRange
from tests.tiny import tiny_model

PROMPTS = ["abcdefgh", "hgfedcba", "bdfhaceg", "cacbcdce"]
METRIC = probe.logit_difference(5, 7)


@pytest.fixture(scope="module")
def zero():
    return probe.ablation_sweep(tiny_model(), PROMPTS, metric=METRIC, value="zero", progress=False)


@pytest.fixture(scope="module")
def mean():
    return probe.ablation_sweep(tiny_model(), PROMPTS, metric=METRIC, progress=False)


def test_the_numbers_are_those_of_scipy_over_the_units_that_have_an_effect(zero, mean):
    least = float(zero.effects.mean(1).abs().median())
    found = probe.agreement(dataclasses.replace(zero, smallest_effect=least), mean, k=4)
    first, second = zero.effects.mean(1).double(), mean.effects.mean(1).double()
    above = (first.abs() >= least) | (second.abs() >= least)
    assert 3 <= int(above.sum()) < len(above)
    assert found.pearson == pytest.approx(pearsonr(first[above], second[above])[0])
    assert found.spearman == pytest.approx(spearmanr(first, second)[0])
    largest = [{zero.units[place].name for place in one.abs().topk(4).indices} for one in (first, second)]
    assert set(found.shared) == largest[0] & largest[1]
    assert f"{len(found.shared)} of the 4 largest" in found.verdict() and found.verdict().startswith(
        "zero against mean"
    )


def test_a_sweep_agrees_with_itself_and_not_with_its_opposite(zero):
    least = dataclasses.replace(zero, smallest_effect=0.0)
    same = probe.agreement(least, least)
    assert same.pearson == pytest.approx(1) and same.spearman == pytest.approx(1) and len(same.shared) == 10
    opposite = probe.agreement(least, dataclasses.replace(least, effects=-least.effects))
    assert opposite.pearson == pytest.approx(-1) and len(opposite.shared) == 10  # as large, the other way


def test_without_effects_no_correlation_is_made_up(zero):
    found = probe.agreement(dataclasses.replace(zero, smallest_effect=99.0), zero)
    assert math.isnan(found.pearson) and "no correlation, since only 0 of 12 are above 99 logits" in found.verdict()
    still = dataclasses.replace(zero, effects=torch.zeros_like(zero.effects))
    assert "none, since one does not vary" in probe.agreement(still, zero).verdict()


def test_the_table_has_a_row_for_each_unit(zero, mean):
    table = probe.agreement(zero, mean).to_dataframe()
    assert table.unit.tolist() == [unit.name for unit in zero.units]
    assert table.second.tolist() == pytest.approx(mean.effects.mean(1).tolist())


def test_what_cannot_be_compared_is_said(zero, mean):
    layers = probe.ablation_sweep(tiny_model(), PROMPTS, metric=METRIC, units="layers", progress=False)
    with pytest.raises(BadShape, match=r"0.0, 0.1, 0.2, ... \(12 in all\) in one and layer 0"):
        probe.agreement(zero, layers)
    nats = probe.ablation_sweep(tiny_model(), PROMPTS, metric=probe.log_probability(5), progress=False)
    with pytest.raises(BadShape, match="effects in logits .* and in nats"):
        probe.agreement(zero, nats)
    other = probe.ablation_sweep(tiny_model(), PROMPTS, metric=probe.logit_difference(5, 8), progress=False)
    with pytest.raises(BadShape, match="logits .5 - 7. and in logits .5 - 8."):
        probe.agreement(zero, other)
    for k in (0, 13):
        with pytest.raises(OutOfRange, match=f"k={k}: expected 1 to 12"):
            probe.agreement(zero, mean, k)
