"""What a circuit does alone, and what is left without it."""

import math

import pytest

import probe
from probe.errors import NumbersBroke, OutOfRange
from probe.methods._reruns import RecordedRun
from tests.induction import INDUCTION, PREVIOUS, induction_model
from tests.redundant import FIRST, OTHERS, STANDS_IN, TARGETS, redundant_model
from tests.redundant import PROMPTS as MARKED
from tests.tiny import tiny_model

PROMPTS = ["abcdefgh", "hgfedcba", "bdfhaceg", "cacbcdce"]
METRIC = probe.logit_difference(5, 7)


def score(model, circuit, prompts=PROMPTS, **arguments):
    return probe.score_circuit(
        model, prompts, circuit, **{"metric": METRIC, "value": "zero", "progress": False, **arguments}
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_four_runs_are_plain_edited_passes(family):
    model, circuit = tiny_model(family), [(0, 1), (2, 3)]
    found = score(model, circuit, n_random=3)
    everyone = {(layer, head) for layer in range(3) for head in range(4)}
    for name, out in {"none": everyone, "alone": everyone - {*circuit}, "without": {*circuit}, "full": set()}.items():
        edits = [probe.zero("z", layer=layer, heads=head, positions=list(range(1, 8))) for layer, head in sorted(out)]
        for row, text in enumerate(PROMPTS):
            logits = probe.record(model, text, sites=[], interventions=edits).logits[0, -1]
            assert float(getattr(found, name)[row]) == pytest.approx(float(logits[5] - logits[7]), abs=1e-4), name
    whole = float((found.full - found.none).mean())
    assert found.faithfulness.value == pytest.approx(float((found.alone - found.none).mean()) / whole, abs=1e-6)
    assert found.completeness.value == pytest.approx(float((found.full - found.without).mean()) / whole, abs=1e-6)


def test_random_circuits_are_scored_like_the_circuit():
    model = tiny_model()
    found = score(model, [(0, 1), (2, 3)], n_random=5, seed=3)
    from probe.methods._units import random_sets

    one = random_sets(model.config, 2, 5, seed=3, but=[(0, 1), (2, 3)])[4]
    again = score(model, list(one), n_random=1)
    assert float(found.random_faithfulness[4]) == pytest.approx(again.faithfulness.value, abs=1e-4)
    assert float(found.random_completeness[4]) == pytest.approx(again.completeness.value, abs=1e-4)


def test_the_induction_circuit_is_faithful_complete_and_unlike_random_ones():
    prompts = [[0, 3, 7, 5, 9, 3, 7, 5], [0, 8, 2, 6, 4, 8, 2, 6], [0, 9, 1, 4, 2, 9, 1, 4]]
    metric = probe.logit_difference([9, 4, 2], [3, 8, 9])
    found = score(induction_model(), [PREVIOUS, INDUCTION], prompts, metric=metric)
    assert found.faithfulness.value == pytest.approx(1, abs=1e-3)
    assert found.completeness.value == pytest.approx(1, abs=1e-3)
    assert len(found.random_alone) == 14 and found.random_faithfulness.max() < 0.5
    assert found.p_faithfulness == pytest.approx(1 / 15)
    half = score(induction_model(), [INDUCTION], prompts, metric=metric)
    assert half.faithfulness.value < 0.5 and half.completeness.value == pytest.approx(1, abs=1e-3)


def test_one_of_two_redundant_heads_is_faithful_and_not_complete():
    metric = probe.logit_difference(TARGETS, OTHERS)
    alone = score(redundant_model(), [FIRST], MARKED, metric=metric)
    assert alone.faithfulness.value == pytest.approx(1, abs=1e-3)
    assert alone.completeness.value == pytest.approx(0, abs=1e-3)
    both = score(redundant_model(), [FIRST, STANDS_IN], MARKED, metric=metric)
    assert both.completeness.value == pytest.approx(1, abs=1e-3)
    assert "faithfulness 1.000" in str(both) and "(zero; positions: after the first)" in str(both)


def test_the_table_has_the_circuit_and_every_random_one():
    found = score(tiny_model(), [(1, 1)], n_random=4)
    table = found.to_dataframe()
    assert table.circuit.tolist() == ["circuit", "random 0", "random 1", "random 2", "random 3"]
    assert table.faithfulness[0] == pytest.approx(found.faithfulness.value)
    assert table.without[2] == pytest.approx(float(found.random_without[1].mean()))


def test_intervals_are_over_groups_and_one_prompt_has_none():
    found = score(tiny_model(), [(1, 1)], groups={"template": [0, 0, 1, 1]})
    assert found.faithfulness.low <= found.faithfulness.value <= found.faithfulness.high
    assert math.isnan(score(tiny_model(), [(1, 1)], PROMPTS[:1]).faithfulness.low)


BAD = {
    "no head": ([], OutOfRange, "expected a head"),
    "all heads": ([(layer, head) for layer in range(3) for head in range(4)], OutOfRange, "all 12 heads"),
    "a head twice": ([(0, 1), (0, 1)], OutOfRange, "stands in it twice"),
    "no such head": ([(0, 4)], OutOfRange, "head 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_circuits_are_refused_before_anything_runs(case, monkeypatch):
    circuit, error, message = BAD[case]
    monkeypatch.setattr(RecordedRun, "__init__", lambda *_: pytest.fail("it ran"))
    with pytest.raises(error, match=message):
        score(tiny_model(), circuit)


def test_a_metric_that_no_head_changes_has_no_shares():
    model = redundant_model()
    metric = probe.custom_metric(lambda logits: logits[:, 0, 0] * 0 + 1.0, unit="logits")
    with pytest.raises(NumbersBroke, match=r"1.0000 with all heads and with none"):
        score(model, [FIRST], MARKED, metric=metric)
