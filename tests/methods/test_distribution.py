"""The next token's distribution."""

import math

import pytest
import torch

from probe.errors import DifferentModel, OutOfRange, SiteNotRecorded
from probe.methods.distribution import next_tokens, same_next_tokens
from probe.recording import record
from tests.tiny import tiny_model

RAGGED = [[1, 2, 3, 4, 5], [6, 7]]


def test_candidates_are_the_largest_logits_with_their_softmax():
    model = tiny_model()
    recording = record(model, RAGGED)
    found = next_tokens(model, recording, prompt=1, top=4)
    logits = recording.logits[1, 1]
    assert found.tokens.tolist() == logits.argsort(descending=True)[:4].tolist()
    assert torch.equal(found.logits, logits[found.tokens])
    torch.testing.assert_close(found.probabilities, logits.softmax(-1)[found.tokens])
    assert found.rest == pytest.approx(1 - float(found.probabilities.sum()))
    assert found.to_dataframe()["rank"].tolist() == [1, 2, 3, 4]


def test_tokens_that_are_asked_for_keep_their_order_and_rank():
    model = tiny_model()
    recording = record(model, RAGGED)
    asked = next_tokens(model, recording, prompt=1, tokens=[9, 3, 44])
    logits = recording.logits[1, 1]
    assert asked.tokens.tolist() == [9, 3, 44]
    torch.testing.assert_close(asked.probabilities, logits.softmax(-1)[[9, 3, 44]])
    assert asked.ranks.tolist() == [1 + int((logits > logits[token]).sum()) for token in (9, 3, 44)]
    with pytest.raises(OutOfRange):
        next_tokens(model, recording, tokens=[50])


def test_a_token_that_cannot_come_takes_nothing_from_the_entropy():
    model = tiny_model()
    recording = record(model, RAGGED)
    recording.values["logits"][1, 1, [9, 3]] = -torch.inf
    found = next_tokens(model, recording, prompt=1, tokens=[9, 3, 44])
    others = recording.logits[1, 1].softmax(-1)
    assert found.probabilities[:2].tolist() == [0.0, 0.0] and found.ranks[:2].tolist() == [49, 49]
    assert found.entropy == pytest.approx(-sum(p * math.log(p) for p in others.tolist() if p), rel=1e-5)


def test_runs_are_compared_on_the_tokens_likeliest_in_any():
    model = tiny_model()
    runs = [record(model, [ids]) for ids in ([1, 2, 3], [6, 7])]
    found = same_next_tokens(model, runs, top=3, also=[44])
    listed = {token for run in runs for token in run.logits[0, -1].topk(3).indices.tolist()} | {44}
    assert found[0].tokens.tolist() == found[1].tokens.tolist() and {*found[0].tokens.tolist()} == listed
    for one, run in zip(found, runs, strict=True):
        assert torch.equal(one.logits, run.logits[0, -1][one.tokens])


def test_entropy_is_that_of_the_whole_distribution():
    model = tiny_model()
    with torch.no_grad():
        model.W_E.zero_()  # all logits 0
    assert next_tokens(model, record(model, [[1]])).entropy == pytest.approx(math.log(50))


def test_a_small_vocabulary_is_listed_whole_and_nothing_remains():
    model = tiny_model()
    found = next_tokens(model, record(model, [[1, 2]]), top=1000)
    assert len(found.texts) == 50 and found.rest == pytest.approx(0, abs=1e-6)


def test_a_kept_position_is_found_and_another_says_how_to_keep_it():
    model = tiny_model()
    recording = record(model, RAGGED, positions=[-1, 0])
    whole = record(model, RAGGED)
    torch.testing.assert_close(
        next_tokens(model, recording, position=0).logits, next_tokens(model, whole, position=0).logits
    )
    with pytest.raises(SiteNotRecorded, match=r"position 3 was not kept \(kept: \[4, 0\]\)"):
        next_tokens(model, recording, position=3)


def test_mistakes_are_named():
    model = tiny_model()
    recording = record(model, RAGGED)
    with pytest.raises(DifferentModel, match="tiny llama"):
        next_tokens(tiny_model(seed=1), recording)
    with pytest.raises(OutOfRange, match="positions 0 to 1"):
        next_tokens(model, recording, prompt=1, position=2)
    with pytest.raises(OutOfRange, match="top=0"):
        next_tokens(model, recording, top=0)
    with pytest.raises(SiteNotRecorded, match="logits were not kept"):
        next_tokens(model, record(model, RAGGED, logits=False))
