"""Logits -> numbers."""

import dataclasses

import pytest
import torch

import probe
from probe.errors import BadPrompt
from tests.tiny import LLAMA, tiny_model


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_loss_is_minus_the_log_probability_of_each_next_token(family):
    model = tiny_model(family)
    loss = probe.loss(model, ["abcd", "fg"])
    logprobs = probe.record(model, "abcd", sites=[]).logits[0].log_softmax(-1)
    expected = [-logprobs[i, token].item() for i, token in enumerate([2, 3, 4])]
    assert loss[0].tolist() == pytest.approx(expected, abs=1e-5)  # float32, values up to about 10
    assert not loss[1, 0].isnan() and loss[1, 1:].isnan().all()


def test_the_first_token_is_predicted_from_a_document_start():
    assert probe.loss(tiny_model(), "abc", document_start=True).shape == (1, 3)


def test_a_single_token_has_no_loss():
    with pytest.raises(BadPrompt, match="at least two tokens"):
        probe.loss(tiny_model(), "a")


def test_loss_trains():
    model = tiny_model(scale=1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        value = probe.loss(model, ["abcabc", "xyz"]).nanmean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] > 3.5 and losses[-1] < 1.0, "from about log 50"
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_loss_of_a_float64_model_is_float64():
    assert probe.loss(tiny_model().double(), "abc").dtype == torch.float64


def test_prompts_that_would_be_turned_by_other_angles_have_no_loss_together():
    scaling = probe.RotaryScaling("dynamic", factor=2.0, original_n_ctx=8)
    model = probe.GPT(dataclasses.replace(LLAMA, rotary_scaling=scaling))
    probe.loss(model, [[1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8]])
    with pytest.raises(BadPrompt, match="3 to 9 tokens: beyond 8"):
        probe.loss(model, [[1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
