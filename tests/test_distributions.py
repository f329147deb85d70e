"""Entropy, divergence, surprise and ranks against their definitions, token by token, and where a probability is 0."""

import math

import pytest
import torch

from probe.distributions import entropy_of, kl_divergence, log_probs_of, ranks_of, surprise_of

NEVER = -math.inf


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    """Some of them, never a whole row, at minus infinity."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator)
    banned = torch.rand(*shape, generator=generator) < 0.3
    banned[..., 0] = False
    return logits.masked_fill(banned, NEVER)


def probabilities(logits: list[float]) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def divergence(before: list[float], after: list[float]) -> float:
    total = 0.0
    for p, q in zip(before, after, strict=True):
        if p > 0:
            total += math.inf if q == 0 else p * math.log(p / q)
    return total


CLOSE = dict(rel=1e-5, abs=1e-6)
"""Sums over ten tokens in float32, against Python's floats."""


def test_log_probabilities_and_entropy_are_what_their_names_say():
    logits = random_logits(4, 3, 10)
    log_probs, entropy = log_probs_of(logits), entropy_of(log_probs_of(logits))
    assert entropy.shape == (4, 3)
    for prompt in range(4):
        for position in range(3):
            expected = probabilities(logits[prompt, position].tolist())
            assert log_probs[prompt, position].exp().tolist() == pytest.approx(expected, **CLOSE)
            assert float(entropy[prompt, position]) == pytest.approx(
                -sum(p * math.log(p) for p in expected if p), **CLOSE
            )


def test_entropy_is_zero_when_one_token_is_certain_and_log_n_when_all_are_alike():
    assert float(entropy_of(log_probs_of(torch.tensor([NEVER, 2.0, NEVER])))) == 0.0
    assert float(entropy_of(log_probs_of(torch.ones(8)))) == pytest.approx(math.log(8))


@pytest.mark.parametrize("same_tokens_impossible", [True, False])
def test_divergence_is_the_sum_over_tokens(same_tokens_impossible):
    before = random_logits(5, 10)
    after = random_logits(2, 5, 10, seed=1)
    if same_tokens_impossible:
        after = torch.where(before == NEVER, NEVER, after.nan_to_num(neginf=0.5))
    found = kl_divergence(log_probs_of(before), log_probs_of(after))
    assert found.shape == (2, 5) and (found >= 0).all()
    assert found.isfinite().all() if same_tokens_impossible else found.isinf().any()
    for place in range(2):
        for row in range(5):
            pair = probabilities(before[row].tolist()), probabilities(after[place, row].tolist())
            assert float(found[place, row]) == pytest.approx(divergence(*pair), **CLOSE)


def test_what_is_impossible_before_adds_nothing_and_what_becomes_impossible_makes_it_infinite():
    half, one = log_probs_of(torch.tensor([0.0, 0.0])), log_probs_of(torch.tensor([0.0, NEVER]))
    assert float(kl_divergence(one, half)) == pytest.approx(math.log(2))
    assert float(kl_divergence(half, one)) == math.inf


def test_a_distribution_diverges_from_itself_by_exactly_nothing_and_never_by_less():
    log_probs = log_probs_of(random_logits(100, 50))
    assert (kl_divergence(log_probs, log_probs) == 0).all()
    nearly = log_probs + 1e-7 * torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(2))
    assert (kl_divergence(log_probs, nearly) >= 0).all()


def test_the_gradient_of_a_divergence_is_the_difference_of_the_probabilities():
    before = log_probs_of(random_logits(3, 10))
    logits = torch.where(before == NEVER, NEVER, random_logits(3, 10, seed=1).nan_to_num(neginf=0.5)).requires_grad_()
    after = log_probs_of(logits)
    kl_divergence(before, after).sum().backward()
    torch.testing.assert_close(logits.grad, (after.exp() - before.exp()).detach())


def test_what_is_no_number_stays_none():
    logits = torch.tensor([[0.0, math.nan], [0.0, 1.0]])
    log_probs = log_probs_of(logits)
    assert entropy_of(log_probs).isnan().tolist() == [True, False]
    assert kl_divergence(log_probs, log_probs[1]).isnan().tolist() == [True, False]
    assert kl_divergence(log_probs[1], log_probs).isnan().tolist() == [True, False]


def test_surprise_is_minus_the_log_probability_of_the_token():
    logits, tokens = random_logits(2, 3, 10), torch.tensor([[0, 4, 9], [7, 0, 1]])
    expected = -log_probs_of(logits).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(surprise_of(logits, tokens), expected)


def test_half_precision_is_left_before_anything_is_summed():
    logits = random_logits(2, 3, 10).to(torch.bfloat16)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    assert log_probs_of(logits).dtype == surprise_of(logits, tokens).dtype == torch.float32
    assert log_probs_of(logits.double()).dtype == torch.float64


@pytest.mark.parametrize(("ties", "expected"), [("better", [1, 2, 2, 4, 5, 5]), ("worse", [1, 3, 3, 4, 6, 6])])
def test_ties_share_the_better_place_or_the_worse(ties, expected):
    scores = torch.tensor([5.0, 3.0, 3.0, 1.0, NEVER, NEVER])
    assert ranks_of(scores, scores, ties=ties).tolist() == expected
    assert ranks_of(scores.expand(2, 3, -1), scores[[0, 4]].expand(2, 3, -1), ties=ties).unique().tolist() == sorted(
        {expected[0], expected[4]}
    )


def test_ranks_of_many_tokens_in_half_precision_are_exact():
    scores = torch.arange(5000).to(torch.bfloat16)
    by_hand = [int((scores > score).sum()) + 1 for score in scores[:50]]
    assert ranks_of(scores, scores[:50]).tolist() == by_hand


def test_ranks_ask_for_no_gradient():
    logits = random_logits(10).requires_grad_()
    assert not ranks_of(logits, logits[:2]).requires_grad
