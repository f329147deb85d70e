"""Associations of word sets by their definition, and what is left when a direction is taken out."""

import itertools

import pytest
import torch

from probe.errors import BadShape, DifferentModel, OutOfRange, UnknownName
from probe.methods.association import association_test, equalise, neutralise
from probe.methods.directions import fit_direction
from probe.words import from_arrays

NAMES = [f"w{place}" for place in range(20)]


def some_words(seed: int = 0):
    return from_arrays("some", NAMES, torch.randn(20, 6, generator=torch.Generator().manual_seed(seed)))


X, Y, A, B = NAMES[0:4], NAMES[4:8], NAMES[8:12], NAMES[12:15]


def test_statistic_effect_size_and_exact_p_are_those_of_the_definition():
    words = some_words()
    found = association_test(words, (X, Y), (A, B))

    def cosine(a, b):
        return float(torch.nn.functional.cosine_similarity(words[a], words[b], dim=0))

    own = {w: sum(cosine(w, a) for a in A) / 4 - sum(cosine(w, b) for b in B) / 3 for w in X + Y}
    statistic = sum(own[w] for w in X) / 4 - sum(own[w] for w in Y) / 4
    assert found.statistic == pytest.approx(statistic, abs=1e-6)
    assert found.effect_size == pytest.approx(statistic / float(torch.tensor(list(own.values())).std()), abs=1e-5)
    ways = [sum(own[w] for w in chosen) / 4 - sum(own[w] for w in X + Y if w not in chosen) / 4
            for chosen in itertools.combinations(X + Y, 4)]  # fmt: skip
    assert found.exact and found.p == pytest.approx(sum(way >= statistic - 1e-9 for way in ways) / len(ways))
    assert found.smallest_p == 1 / 70
    assert list(found.to_dataframe()["set"]) == [1] * 4 + [2] * 4


def test_a_planted_association_is_found_and_its_reverse_is_not():
    vectors = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) * 0.3
    vectors[0:4, 0] += 1
    vectors[8:12, 0] += 1
    vectors[4:8, 1] += 1
    vectors[12:15, 1] += 1
    words = from_arrays("planted", NAMES, vectors)
    assert association_test(words, (X, Y), (A, B)).p == 1 / 70
    assert association_test(words, (Y, X), (A, B)).p > 0.9


def test_many_words_are_divided_at_random_by_seed():
    words = some_words()
    targets = (NAMES[0:8], NAMES[8:14])
    one, two, other = (
        association_test(words, targets, (NAMES[14:17], NAMES[17:20]), n_permutations=500, seed=seed)
        for seed in (0, 0, 1)
    )
    assert not one.exact and one.p == two.p and one.smallest_p == 1 / 501
    assert abs(one.p - other.p) < 0.1


MISTAKES = {
    "one word": (lambda w: association_test(w, (X[:1], Y), (A, B)), OutOfRange, "two or more"),
    "a text": (lambda w: association_test(w, ("w0", Y), (A, B)), OutOfRange, "two or more"),
    "in both sets": (lambda w: association_test(w, (X, [*Y, "w0"]), (A, B)), BadShape, "'w0' occurs twice"),
    "missing": (lambda w: association_test(w, (X, Y), (A, ["w12", "nothing"])), UnknownName, "'nothing'"),
    "too few": (lambda w: association_test(w, (X, Y), (A, B), n_permutations=5), OutOfRange, "at least 19"),
}


@pytest.mark.parametrize(("call", "error", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named(call, error, said, as_users_run_it):
    with pytest.raises(error) as raised:
        call(some_words())
    assert said in str(raised.value)


def test_neutralised_words_have_nothing_along_the_direction_and_length_one():
    words = some_words()
    direction = fit_direction(words, [("w0", "w1"), ("w2", "w3")])
    some = neutralise(words, direction, ["w5", "w6"])
    assert abs(float(some["w5"].double() @ direction.vector)) < 1e-6 and some["w5"].norm().item() == pytest.approx(1.0)
    assert torch.equal(some["w7"], words.units[7]), "others stay as they are"
    everything = neutralise(words, direction)
    assert (everything.vectors.double() @ direction.vector).abs().max() < 1e-6
    assert everything.space != words.space


def test_equalised_pairs_are_as_near_to_every_neutral_word_and_differ_along_the_direction_only():
    words = neutralise(some_words(), fit_direction(some_words(), [("w0", "w1")]), ["w9"])
    direction = fit_direction(words, [("w0", "w1")])
    neutral = neutralise(words, direction, ["w9"])
    direction = fit_direction(neutral, [("w0", "w1")])
    both = equalise(neutralise(neutral, direction, ["w9"]), fit_direction(
        neutralise(neutral, direction, ["w9"]), [("w0", "w1")]), [("w0", "w1")])  # fmt: skip
    assert float(both["w9"] @ both["w0"]) == pytest.approx(float(both["w9"] @ both["w1"]), abs=1e-6)
    assert both["w0"].norm().item() == pytest.approx(1.0) and both["w1"].norm().item() == pytest.approx(1.0)
    difference = (both["w0"] - both["w1"]).double()
    assert torch.nn.functional.cosine_similarity(difference, direction.vector, dim=0).item() == pytest.approx(1.0)


def test_a_direction_of_other_vectors_is_refused():
    direction = fit_direction(some_words(1), [("w0", "w1")])
    for change in (
        lambda: neutralise(some_words(), direction),
        lambda: equalise(some_words(), direction, [("w0", "w1")]),
    ):
        with pytest.raises(DifferentModel):
            change()
