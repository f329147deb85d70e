"""The choice of a token from its logits, against brute force and frequencies."""

import math

import pytest
import torch

from probe.errors import OutOfRange
from probe.sampling import BINS, Sampling, describe_distribution

LOGITS = torch.tensor([3.0, 2.5, 2.0, 1.0, 0.0, -1.0])  # likeliest first


def names(ids):
    return [str(token) for token in ids]


def brute_force(logits, temperature=1.0, top_k=None, top_p=None):
    """Token by token, the likeliest first."""
    weights = [math.exp(logit / temperature) for logit in logits][:top_k]
    total, kept, so_far = sum(weights), [], 0.0
    for weight in weights:
        if kept and top_p is not None and so_far >= top_p * total - 1e-9:
            break
        kept.append(weight)
        so_far += weight
    return [weight / sum(kept) for weight in kept] + [0.0] * (len(logits) - len(kept))


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 5.0])
@pytest.mark.parametrize("top_k", [None, 1, 2, 6, 100])
@pytest.mark.parametrize("top_p", [None, 1e-300, 1e-13, 1e-9, 0.3, 0.9, 1.0])
def test_probabilities_are_those_of_brute_force(temperature, top_k, top_p):
    found = Sampling(temperature, top_k, top_p).probabilities(LOGITS)
    assert found.tolist() == pytest.approx(brute_force(LOGITS.tolist(), temperature, top_k, top_p), abs=1e-12)


def test_top_p_keeps_exactly_as_many_as_reach_it():
    """Four equal tokens: a half is two of them, and rounding may not add a third."""
    for n, kept in ((0.25, 1), (0.5, 2), (0.51, 3), (0.75, 3), (1.0, 4)):
        assert int(Sampling(1.0, None, n).probabilities(torch.zeros(4)).count_nonzero()) == kept


def test_temperature_zero_is_the_likeliest_and_the_limit_of_small_ones():
    zero = Sampling(0.0).probabilities(LOGITS)
    assert zero.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(Sampling(1e-3).probabilities(LOGITS), zero, atol=1e-12, rtol=0)


def test_entries_that_stand_for_many_are_as_that_many_tokens():
    """Three levels with 2, 3 and 5 tokens, against all ten written out."""
    levels, counts = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 3.0, 5.0])
    written_out = levels.repeat_interleave(counts.long())
    for settings in (Sampling(), Sampling(0.5), Sampling(2.0, 4), Sampling(1.0, None, 0.6), Sampling(1.0, 7, 0.95)):
        each = settings.probabilities(written_out).split([2, 3, 5])
        expected = [float(part.sum()) for part in each]
        assert settings.probabilities(levels, counts).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_number_drawn_falls_on_its_token():
    probabilities = Sampling(0.8).probabilities(LOGITS)
    edges = [0.0, *probabilities.cumsum(0).tolist()]
    for place in range(len(LOGITS)):
        inside = (edges[place] + edges[place + 1]) / 2
        assert Sampling(0.8).choose(LOGITS, inside) == place
        assert Sampling(0.8).choose(LOGITS, edges[place] + 1e-12) == place
    assert Sampling(0.8).choose(LOGITS, math.nextafter(1.0, 0.0)) == len(LOGITS) - 1


def test_what_was_cut_off_is_never_chosen_even_by_rounding():
    almost_one = math.nextafter(1.0, 0.0)
    assert Sampling(1.0, 3).choose(LOGITS, almost_one) == 2
    assert (
        Sampling(1.0, None, 0.5).choose(LOGITS, almost_one)
        == int(brute_force(LOGITS.tolist(), 1.0, None, 0.5).index(0.0)) - 1
    )


def test_tokens_are_chosen_as_often_as_their_probability_says():
    """Chi-square over 20,000 numbers of one seed, 5 degrees of freedom: above 20.5 in one of a thousand seeds."""
    settings, n = Sampling(1.3), 20_000
    drawn = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    counts = torch.zeros(len(LOGITS))
    for number in drawn:
        counts[settings.choose(LOGITS, number)] += 1
    expected = settings.probabilities(LOGITS).float() * n
    assert float(((counts - expected).square() / expected).sum()) < 20.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, r"temperature=-0.1: expected 0 \(always the likeliest token\) to 5"),
        ({"temperature": 5.1}, "temperature=5.1: expected 0"),
        ({"temperature": float("nan")}, "temperature=nan: expected 0"),
        ({"temperature": True}, "temperature=True: expected 0"),
        ({"temperature": "1"}, "temperature='1': expected 0"),
        ({"top_k": 0}, "top_k=0: expected 1 or more tokens"),
        ({"top_k": 2.5}, "top_k=2.5: expected 1 or more tokens"),
        ({"top_p": 0.0}, "top_p=0.0: expected above 0, at most 1"),
        ({"top_p": 1.01}, "top_p=1.01: expected above 0, at most 1"),
        ({"top_p": -0.5}, "top_p=-0.5: expected above 0, at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(as_users_run_it, arguments, message):
    with pytest.raises(OutOfRange, match=message):
        Sampling(**arguments)


def spread_out(n=5000, *, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 3


def test_a_distribution_lists_its_top_and_counts_all_others():
    logits = spread_out()
    kept = describe_distribution(logits, names)
    assert kept.tokens.tolist() == logits.argsort(descending=True)[:64].tolist()
    torch.testing.assert_close(kept.logits, logits[kept.tokens], atol=0, rtol=0)
    assert kept.texts == names(kept.tokens.tolist())
    assert len(kept.tail_counts) == BINS and int(kept.tail_counts.sum()) == 5000 - 64
    low, high = kept.tail_range
    width = (high - low) / BINS
    top_bin = ((logits < kept.logits[-1]) & (logits >= high - width)).sum()
    assert int(kept.tail_counts[0]) == int(top_bin)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_at_any_temperature_are_near_those_of_all_logits(seed):
    logits = spread_out(seed=seed)
    kept = describe_distribution(logits, names)
    for temperature, allowed in ((0.3, 0.02), (1.0, 0.002), (2.0, 0.001), (5.0, 0.0002)):  # of the tail's weight
        exact = (logits.double() / temperature).softmax(0)
        tail = 1 - float(exact[kept.tokens].sum())
        assert kept.rest(temperature) == pytest.approx(tail, abs=allowed * tail + 1e-6)
        found = kept.probabilities(temperature).double()
        torch.testing.assert_close(found, exact[kept.tokens], atol=allowed * tail + 1e-6, rtol=0)


def test_top_k_and_top_p_reach_into_the_tail():
    logits = spread_out()
    kept = describe_distribution(logits, names)
    ordered = logits.sort(descending=True).values
    for arguments in ({"top_k": 10}, {"top_k": 500}, {"top_p": 0.2}, {"top_p": 0.9}):
        exact = Sampling(1.0, **arguments).probabilities(ordered)[:64].float()
        torch.testing.assert_close(kept.probabilities(**arguments), exact, atol=2e-3, rtol=0)


def test_everything_is_exact_where_every_token_is_listed():
    logits = spread_out(200)
    kept = describe_distribution(logits, names, listed=None)
    exact = (logits.double() / 0.3).softmax(0)
    torch.testing.assert_close(kept.probabilities(0.3).double(), exact[kept.tokens], atol=1e-7, rtol=0)
    assert kept.rest(0.3) == pytest.approx(0.0, abs=1e-6)
    assert len(kept.tail_counts) == 0


def test_a_vocabulary_smaller_than_the_list_is_listed_whole():
    kept = describe_distribution(torch.tensor([0.0, 2.0, 1.0]), names)
    assert kept.tokens.tolist() == [1, 2, 0] and len(kept.tail_counts) == 0


def test_a_tail_of_equal_logits_keeps_its_count():
    logits = torch.zeros(1000)
    logits[7] = 3.0
    kept = describe_distribution(logits, names)
    assert int(kept.tail_counts.sum()) == 1000 - 64
    assert float(kept.probabilities()[0]) == pytest.approx(math.exp(3) / (math.exp(3) + 999), abs=1e-6)


def test_a_bad_temperature_of_a_distribution_is_refused():
    with pytest.raises(OutOfRange, match="temperature=6: expected 0"):
        describe_distribution(spread_out(), names).probabilities(6)
