"""Sets of heads that matter together, found on some prompts and measured on others."""

import itertools

import pytest
import torch

import probe
from probe.errors import BadPrompt, OutOfRange
from probe.methods._reruns import RecordedRun
from tests.redundant import FIRST, OTHERS, PROMPTS, STANDS_IN, TARGETS, redundant_model
from tests.tiny import tiny_model

METRIC = probe.logit_difference(TARGETS, OTHERS)
TINY = ["abcdefgh", "hgfedcba", "bdfhaceg", "cacbcdce", "adgbehcf", "hfdbgeca"]


def search(model, prompts=TINY, **arguments):
    return probe.search_heads(
        model, prompts, **{"metric": probe.logit_difference(5, 7), "value": "zero", "progress": False, **arguments}
    )


@pytest.fixture(scope="module")
def redundant():
    return redundant_model()


def test_each_of_two_heads_that_stand_in_for_one_another_can_be_missed(redundant):
    sweep = probe.ablation_sweep(redundant, PROMPTS, metric=METRIC, value="zero", progress=False)
    assert sweep.effects.abs().max() < 1e-4
    assert sweep.direct[0].mean() == pytest.approx(-float(sweep.clean.mean()), abs=1e-3)
    assert float(sweep.self_repair()[0]) == pytest.approx(1, abs=1e-3)
    both = probe.ablation_sweep(
        redundant, PROMPTS, metric=METRIC, units=[[FIRST, STANDS_IN]], value="zero", progress=False
    )
    assert both.effects.mean() == pytest.approx(-float(sweep.clean.mean()), abs=1e-3)


def test_the_search_finds_the_pair_though_neither_head_does_anything_alone(redundant):
    found = search(redundant, PROMPTS, metric=METRIC)
    assert found.heads == (FIRST, STANDS_IN) and len(found.steps) == 1
    step = found.steps[0]
    assert step.added == (FIRST, STANDS_IN)
    assert step.effect == pytest.approx(-found.clean, abs=1e-3) and abs(step.sum_of_each) < 1e-4
    assert step.random.abs().max() < 1e-4 and len(step.random) == 14  # all other pairs of six heads
    assert "no further head or pair adds" in str(found) and "0.0 + 1.1: -5.1" in str(found)


def test_every_step_is_the_best_of_its_candidates_and_is_measured_on_other_prompts():
    model = tiny_model()
    found = search(model, n_heads=2, candidates=[(0, 1), (1, 0), (2, 3)], smallest_effect=0.0)
    assert len(found.chosen_on) == 3
    means = {}
    for size in (1, 2):
        for heads in itertools.combinations([(0, 1), (1, 0), (2, 3)], size):
            sweep = probe.ablation_sweep(
                model, TINY, metric=probe.logit_difference(5, 7), units=[list(heads)], value="zero", progress=False
            )
            means[heads] = sweep.effects[0]
    choosing = list(found.chosen_on)
    measuring = [row for row in range(6) if row not in choosing]
    first = max([heads for heads in means if len(heads) == 1], key=lambda one: abs(means[one][choosing].mean()))
    assert found.steps[0].heads == first
    second = max(
        [heads for heads in means if len(heads) == 2 and first[0] in heads],
        key=lambda one: abs(means[one][choosing].mean()),
    )
    assert found.heads == second
    for step in found.steps:
        assert step.chosen_for == pytest.approx(float(means[step.heads][choosing].mean()), abs=1e-4)
        assert step.effect == pytest.approx(float(means[step.heads][measuring].mean()), abs=1e-4)
        alone = sum(float(means[head,][measuring].mean()) for head in step.heads)
        assert step.sum_of_each == pytest.approx(alone, abs=1e-4)
        assert step.low <= step.effect <= step.high
    assert found.to_dataframe().effect.tolist() == pytest.approx([step.effect for step in found.steps])


def test_whole_groups_choose_or_measure():
    found = search(tiny_model(), groups={"template": [0, 1, 2, 0, 1, 2]}, n_heads=1)
    templates = [row % 3 for row in found.chosen_on]
    assert len(templates) == 2 and len(set(templates)) == 1


def test_means_are_of_all_prompts_though_only_some_are_run():
    model = tiny_model()
    found = search(model, value="mean", n_heads=1, smallest_effect=0.0)
    (step,) = found.steps
    whole = probe.ablation_sweep(
        model, TINY, metric=probe.logit_difference(5, 7), units=[step.heads[0]], progress=False
    ).effects[0]
    measuring = [row for row in range(6) if row not in found.chosen_on]
    assert step.effect == pytest.approx(float(whole[measuring].mean()), abs=1e-4)


def test_candidates_are_the_heads_with_the_largest_total_or_direct_effect():
    model, metric = tiny_model(), probe.logit_difference(5, 7)
    found = search(model, candidates=4, n_heads=1)
    sweep = probe.ablation_sweep(model, TINY, metric=metric, value="zero", progress=False)
    rows = list(found.chosen_on)
    size = torch.maximum(sweep.effects[:, rows].mean(1).abs(), sweep.direct[:, rows].mean(1).abs())
    expected = {(sweep.units[place].layer, sweep.units[place].index) for place in size.topk(4).indices}
    assert set(found.candidates) == expected


def test_nothing_found_is_said_and_no_set_is_made_up():
    found = search(tiny_model(), smallest_effect=1e6)
    assert found.steps == () and found.heads == () and found.stopped.startswith("no further head or pair adds 1e+06")
    assert len(found.to_dataframe()) == 0


def test_a_stopped_search_goes_on_from_its_folder(tmp_path, monkeypatch):
    model = tiny_model()
    expected = search(model, n_heads=2, candidates=4)
    plain, calls = RecordedRun.logits, []

    def stops(self, rows, table):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(self, rows, table)

    monkeypatch.setattr(RecordedRun, "logits", stops)
    with pytest.raises(KeyboardInterrupt):
        search(model, n_heads=2, candidates=4, folder=tmp_path / "search")
    monkeypatch.setattr(RecordedRun, "logits", lambda self, rows, table: calls.append(0) or plain(self, rows, table))
    before = len(calls)
    found = search(model, n_heads=2, candidates=4, folder=tmp_path / "search")
    assert found.complete and [step.effect for step in found.steps] == [step.effect for step in expected.steps]
    monkeypatch.setattr(RecordedRun, "logits", lambda *_: pytest.fail("everything was there"))
    assert search(model, n_heads=2, candidates=4, folder=tmp_path / "search").heads == expected.heads
    assert len(calls) > before


BAD = {
    "no heads": (dict(n_heads=0), OutOfRange, "n_heads=0: expected 1 to 11; this model has 12 heads"),
    "all heads": (dict(n_heads=12), OutOfRange, "n_heads=12: expected 1 to 11"),
    "no candidates": (dict(candidates=0), OutOfRange, "candidates=0: expected at least 1"),
    "a head that is not there": (dict(candidates=[(0, 9)]), OutOfRange, "head 9"),
    "no random sets": (dict(n_random=0), OutOfRange, "n_random=0"),
    "two prompts": (dict(prompts=TINY[:2]), BadPrompt, "give 4 prompts or more"),
    "one group": (dict(groups={"template": [0] * 6}), BadPrompt, "6 prompts in 1 groups"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_are_refused_before_anything_runs(case, monkeypatch):
    arguments, error, message = BAD[case]
    monkeypatch.setattr(RecordedRun, "__init__", lambda *_: pytest.fail("it ran"))
    with pytest.raises(error, match=message):
        search(tiny_model(), **arguments)


def test_random_sets_are_different_and_never_the_set_itself():
    from probe.methods._units import random_sets

    config = tiny_model().config
    drawn = random_sets(config, 2, 50, seed=0, but=[(0, 0), (0, 1)])
    assert len(set(drawn)) == 50 and ((0, 0), (0, 1)) not in drawn
    assert len(random_sets(config, 1, 50, seed=0, but=[(0, 0)])) == 11
    assert drawn == random_sets(config, 2, 50, seed=0, but=[(0, 0), (0, 1)])
    counts = torch.zeros(3, 4)
    for layer, head in itertools.chain(*random_sets(config, 3, 200, seed=1, but=[])):
        counts[layer, head] += 1
    assert counts.min() > 20
