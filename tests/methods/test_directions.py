"""Directions: planted ones are found as theory says, noise is not called encoded, confounds are exposed."""

import math

import pytest
import torch

from probe.contexts import words_in_context
from probe.errors import BadShape, DifferentModel, OutOfRange, UnknownName
from probe.geometry import chance_cosine, unit
from probe.methods._evidence import folds
from probe.methods.directions import ESTIMATORS, evaluate_direction, fit_direction
from probe.word_lists import load_pairs
from probe.words import WordVectors, from_arrays, word_vectors
from tests.test_contexts import model_with_words

QUICK = {"n_permutations": 99, "n_random": 20, "n_unrelated": 40, "twin": False, "progress": False}


def planted(n: int, d: int, strength: float, *, seed: int = 0, n_others: int = 60) -> tuple[WordVectors, list]:
    """Pairs (p0, n0), ... whose words are standard normal but `strength` apart along the first axis; other words."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2 * n + n_others, d, generator=generator)
    vectors[0 : 2 * n : 2, 0] += strength / 2
    vectors[1 : 2 * n : 2, 0] -= strength / 2
    names = [f"{side}{number}" for number in range(n) for side in "pn"] + [f"other{n}" for n in range(n_others)]
    return from_arrays("planted", names, vectors), [(f"p{number}", f"n{number}") for number in range(n)]


def shuffled(words: WordVectors, seed: int = 0) -> WordVectors:
    """The same with words in another order, so that the vocabulary rank says nothing."""
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed)).tolist()
    return from_arrays("shuffled", [words.words[place] for place in order], words.vectors[order])


# fitting


def test_one_pair_is_its_difference():
    words, pairs = planted(3, 5, 2.0)
    found = fit_direction(words, pairs[:1])
    difference = (words["p0"] - words["n0"]).double()
    assert torch.allclose(found.difference, difference) and found.name == "p0 - n0"
    assert torch.allclose(found.vector, difference / difference.norm()) and found.gap == pytest.approx(
        float(difference.norm())
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_finds_a_strong_direction_and_points_to_the_positive_words(estimator):
    words, pairs = planted(60, 10, 8.0)
    found = fit_direction(words, pairs, estimator=estimator)
    assert found.vector[0] > 0.95 and found.vector.norm().item() == pytest.approx(1.0)
    swapped = fit_direction(words, [(b, a) for a, b in pairs], estimator=estimator)
    assert swapped.vector[0] < -0.95


def test_the_recovered_angle_is_as_theory_says():
    """cos^2 = |mu|^2 / (|mu|^2 + 2 sigma^2 d / n), by the mean over 40 draws."""
    n, d, strength = 24, 50, 1.5
    squares = []
    for seed in range(40):
        words, pairs = planted(n, d, strength, seed=seed, n_others=0)
        squares.append(float(fit_direction(words, pairs).vector[0]) ** 2)
    theory = strength**2 / (strength**2 + 2 * d / n)
    assert sum(squares) / 40 == pytest.approx(theory, abs=0.04)


def test_projections_are_lengths_raw_products_and_cosines():
    words, pairs = planted(6, 5, 3.0)
    found = fit_direction(words, pairs, name="planted")
    seen = found.project(["other3", "p0"])
    vector = words["other3"].double()
    assert seen.along[0].item() == pytest.approx(float(vector @ found.vector))
    assert seen.dot[0].item() == pytest.approx(float(vector @ found.difference))
    assert seen.cosine[0].item() == pytest.approx(float(vector @ found.vector / vector.norm()))
    assert list(seen.to_dataframe()["word"]) == ["other3", "p0"]
    assert len(found.to_dataframe()) == 6


@pytest.mark.parametrize("d", [2, 5, 50])
def test_one_in_twenty_random_directions_is_beyond_chance(d):
    words, pairs = planted(6, d, 3.0)
    found = fit_direction(words, pairs)
    seen = found.project(["other3", "p0"])
    random = unit(torch.randn(40_000, d, dtype=torch.float64))
    vectors = words.vectors_of(seen.words).double()
    cosines, dots = unit(vectors) @ random.T, vectors @ random.T * found.difference.norm()
    assert (cosines.abs() > seen.chance_cosine).double().mean().item() == pytest.approx(0.05, abs=0.005)
    beyond = (dots.abs() > seen.chance_dot[:, None]).double().mean(1)
    assert beyond.tolist() == pytest.approx([0.05, 0.05], abs=0.006)  # three standard errors of 40,000 draws


def test_in_one_dimension_every_direction_is_the_same():
    assert chance_cosine(1) == 1.0


MISTAKES = {
    "no pairs": (lambda w: fit_direction(w, []), OutOfRange, "no pairs"),
    "one word": (lambda w: fit_direction(w, ["p0"]), BadShape, "expected two words"),
    "three words": (lambda w: fit_direction(w, [("p0", "n0", "p1")]), BadShape, "expected two words"),
    "the same word": (lambda w: fit_direction(w, [("p0", "p0")]), BadShape, "'p0' on both sides"),
    "a pair twice": (lambda w: fit_direction(w, [("p0", "n0"), ("n0", "p0")]), BadShape, "occurs twice"),
    "a missing word": (lambda w: fit_direction(w, [("p0", "n0"), ("othr3", "n1")]), UnknownName, "'other3'"),
    "none left": (lambda w: fit_direction(w, [("p0", "xx")], on_missing="drop"), OutOfRange, "no pairs left"),
    "no such estimator": (lambda w: fit_direction(w, [("p0", "n0")], estimator="svm"), UnknownName, "lda"),
    "no such choice": (lambda w: fit_direction(w, [("p0", "n0")], on_missing="skip"), UnknownName, "on_missing"),
    "project a missing word": (lambda w: fit_direction(w, [("p0", "n0")]).project("pp"), UnknownName, "'pp'"),
}


@pytest.mark.parametrize(("call", "error", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named(call, error, said, as_users_run_it):
    with pytest.raises(error) as raised:
        call(planted(6, 5, 1.0)[0])
    assert said in str(raised.value)


def test_words_that_coincide_give_no_direction():
    words = from_arrays("same", ["a", "b"], torch.ones(2, 3))
    with pytest.raises(BadShape, match="no direction"):
        fit_direction(words, [("a", "b")])


def test_dropped_words_are_counted_in_the_result():
    words, pairs = planted(8, 5, 4.0)
    found = fit_direction(words, [*pairs, ("gone", "n1")], on_missing="drop")
    assert len(found.pairs) == 8 and list(found.pairs.dropped) == ["gone"]
    assert "gone" in found.manifest["method_arguments"]["dropped"]
    assert "gone" in evaluate_direction(found, **QUICK).report()[-1]


# evaluating


def test_pairs_that_share_a_word_stay_in_one_fold():
    words = [("a", "b"), ("c", "d"), ("b", "e"), *((f"x{n}", f"y{n}") for n in range(20))]
    splits = folds(words)
    for train, test in splits:
        fitted = {word for pair in train for word in words[pair]}
        assert not fitted & {word for pair in test for word in words[pair]}
    assert sorted(pair for _, test in splits for pair in test) == list(range(23)) and len(splits) == 10


def test_areas_out_of_sample_are_as_theory_says():
    """Phi(strength cos(angle) / sqrt(2)), the angle being the one of the fit; mean over 20 draws."""
    n, d, strength = 40, 10, 1.2
    found, expected = [], []
    for seed in range(20):
        words, pairs = planted(2 * n, d, strength, seed=seed)
        direction = fit_direction(words, pairs[:n])
        found.append(evaluate_direction(direction, pairs[n:], **QUICK).auroc.value)
        expected.append(0.5 * (1 + math.erf(strength * float(direction.vector[0]) / 2)))
    assert sum(found) / 20 == pytest.approx(sum(expected) / 20, abs=0.02)


def test_out_of_sample_is_lower_than_in_sample_on_noise():
    words, pairs = planted(20, 40, 0.0)
    found = evaluate_direction(fit_direction(words, pairs), **QUICK)
    assert found.in_sample_auroc > 0.85 and found.auroc.value < 0.7
    assert found.verdict == "not distinguishable from noise"


@pytest.mark.parametrize("held_out", [False, True])
def test_noise_is_called_encoded_at_no_more_than_the_stated_rate(held_out):
    """200 draws at a rate of 5 %: more than 19 have a probability below 0.1 %."""
    called = significant = 0
    for seed in range(200):
        words, pairs = planted(16, 12, 0.0, seed=seed, n_others=12)
        direction = fit_direction(words, pairs[:8] if held_out else pairs)
        found = evaluate_direction(
            direction, pairs[8:] if held_out else None, n_permutations=39, n_random=10, n_unrelated=10, twin=False,
            progress=False,
        )  # fmt: skip
        called += found.verdict == "encoded"
        significant += found.p <= 0.05
    assert called <= significant <= 19 and significant > 0


def test_a_planted_direction_is_found_with_power():
    found = [
        evaluate_direction(fit_direction(shuffled(words), pairs), **QUICK)
        for words, pairs in (planted(24, 12, 2.0, seed=seed) for seed in range(12))
    ]
    assert [one.verdict for one in found].count("encoded") >= 11
    assert [one.special for one in found].count(True) >= 8, "best of 20 random directions in 12 dimensions"


def test_a_direction_that_only_follows_frequency_is_exposed():
    """Words hold nothing but their rank, and the positive one is the rarer in every pair."""
    n, generator = 300, torch.Generator().manual_seed(0)
    axis = torch.randn(8, generator=generator)
    ranks = torch.arange(1.0, n + 1).log()
    vectors = ranks[:, None] * axis + 0.4 * torch.randn(n, 8, generator=generator)
    words = from_arrays("ranked", [f"w{place}" for place in range(n)], vectors)
    pairs = [(f"w{4 * place + 40}", f"w{place}") for place in range(2, 40)]
    found = evaluate_direction(fit_direction(words, pairs), **QUICK)
    assert found.auroc.low > 0.8 and found.p <= 0.05
    rank = next(one for one in found.confounds if one.name == "log vocabulary rank")
    assert rank.alone > 0.8 and abs(rank.adjusted.value - 0.5) < 0.15
    assert found.verdict == "not distinguishable from its confounds"


def test_a_real_direction_survives_a_confound_that_goes_with_it():
    n, generator = 300, torch.Generator().manual_seed(0)
    ranks = torch.arange(1.0, n + 1).log()
    vectors = torch.randn(n, 8, generator=generator) * 0.4
    vectors[:, 1] += ranks
    pairs = [(f"w{4 * place + 40}", f"w{place}") for place in range(2, 38)]
    for positive, _ in pairs:
        if int(positive[1:]) >= 40:
            vectors[int(positive[1:]), 0] += 2.0
    pairs = [pair for pair in pairs if int(pair[1][1:]) < 40 <= int(pair[0][1:])]
    words = from_arrays("both", [f"w{place}" for place in range(n)], vectors)
    found = evaluate_direction(fit_direction(words, pairs), **QUICK)
    assert found.verdict == "encoded" and found.confounds[-1].adjusted.low > 0.8


def test_a_random_direction_counts_by_its_better_end():
    words, pairs = planted(12, 6, 3.0)
    found = evaluate_direction(fit_direction(words, pairs), **{**QUICK, "n_random": 200})
    for areas in found.random.values():
        assert areas.min() >= 0.5 and areas.max() > 0.8, "many directions lie along a strong contrast"


def test_a_seed_gives_the_same_numbers_whatever_the_threads():
    words, pairs = planted(20, 30, 1.0)
    direction = fit_direction(words, pairs)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            found.append(evaluate_direction(direction, **{**QUICK, "twin": True}))
    finally:
        torch.set_num_threads(before)
    one, two, three = found
    assert one.auroc == two.auroc == three.auroc and one.p == two.p and one.twin == two.twin
    assert torch.equal(one.null, two.null) and one.report() == two.report() == three.report()
    other = evaluate_direction(direction, **QUICK, seed=1)
    assert not torch.equal(one.null, other.null)


@pytest.mark.parametrize("n", [4, 5])
def test_fewer_than_six_pairs_are_never_encoded_and_the_report_says_why(n):
    words, pairs = planted(n, 5, 50.0)
    found = evaluate_direction(fit_direction(words, pairs), **QUICK)
    assert found.auroc.value == 1.0 and found.verdict == "not distinguishable from noise"
    assert found.p == found.smallest_p == 2.0 ** (1 - n)
    assert any(f"{n} pairs can never be called encoded" in line for line in found.report())


def test_six_perfect_pairs_can_be_encoded():
    words, pairs = planted(6, 5, 50.0)
    found = evaluate_direction(fit_direction(shuffled(words), pairs), **QUICK)
    assert found.p == 2.0**-5


def test_a_single_pair_is_evaluated_on_others_and_four_are_needed():
    words, pairs = planted(12, 5, 20.0)
    single = fit_direction(words, pairs[:1])
    found = evaluate_direction(single, pairs[1:], **QUICK)
    assert found.auroc.value > 0.95 and len(found.words) == 11
    assert "Stability: not known" in "".join(found.report())
    with pytest.raises(OutOfRange, match="needs 4"):
        evaluate_direction(single, pairs[1:4], **QUICK)
    with pytest.raises(OutOfRange, match="^1 pair to score: evaluate_direction needs 4"):
        evaluate_direction(single, **QUICK)


def test_pairs_that_all_hang_together_by_shared_words_cannot_be_held_out():
    words, _ = planted(6, 5, 2.0)
    chain = [(f"p{place}", f"p{place + 1}") for place in range(5)]
    with pytest.raises(OutOfRange, match="5 pairs to score"):
        evaluate_direction(fit_direction(words, chain), **QUICK)


def test_held_out_pairs_must_be_held_out():
    words, pairs = planted(12, 5, 2.0)
    direction = fit_direction(words, pairs[:6])
    with pytest.raises(BadShape, match="'p5' was fitted on"):
        evaluate_direction(direction, pairs[5:], **QUICK)


def test_pairs_that_point_the_other_way_are_listed_neither_refused_nor_flipped():
    words, pairs = planted(12, 5, 30.0)
    wrong = [*pairs[:-1], (pairs[-1][1], pairs[-1][0])]
    found = evaluate_direction(fit_direction(words, wrong), **QUICK)
    assert found.opposite == (wrong[-1],) and found.left_out[-1] < 0 and found.accuracy.value == pytest.approx(11 / 12)
    held_out = evaluate_direction(fit_direction(words, wrong[:6]), wrong[6:], **QUICK)
    assert held_out.opposite == (wrong[-1],)


def test_numbers_that_are_too_small_are_refused(as_users_run_it):
    words, pairs = planted(8, 5, 2.0)
    direction = fit_direction(words, pairs)
    for name in ("n_permutations", "n_random", "n_unrelated"):
        with pytest.raises(OutOfRange, match=f"{name}=5"):
            evaluate_direction(direction, **{**QUICK, name: 5})


def test_a_direction_means_nothing_elsewhere():
    words, pairs = planted(8, 5, 2.0)
    other, _ = planted(8, 5, 2.0, seed=1)
    direction = fit_direction(words, pairs)
    with pytest.raises(DifferentModel, match="means nothing in"):
        direction.project("p0", source=other)
    with pytest.raises(DifferentModel):
        evaluate_direction(direction, source=other, **QUICK)


def test_agreement_and_stability_of_a_strong_direction_are_high():
    words, pairs = planted(40, 6, 12.0)
    found = evaluate_direction(fit_direction(words, pairs), **QUICK)
    assert found.split_half.low > 0.95 and set(found.agreement) == {*ESTIMATORS} - {"mean difference"}
    assert min(found.agreement.values()) > 0.9


def test_a_result_is_saved_with_table_manifest_and_report(tmp_path):
    words, pairs = planted(8, 5, 5.0)
    found = evaluate_direction(fit_direction(words, pairs), **QUICK)
    found.save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.csv",
        "manifest.json",
        "report.txt",
        "SHA256SUMS",
    }
    assert found.verdict in (tmp_path / "out" / "report.txt").read_text() and len(found.to_dataframe()) == 8
    assert found.manifest["method_arguments"]["seed"] == 0


# words in context


def test_the_same_words_in_other_templates_have_a_control_task_and_held_out_words_have_none():
    """A random model tells words apart, so labels at random are told apart in other sentences too: no selectivity."""
    model = model_with_words()
    names = model.tokenizer.words
    pairs = list(zip(names[0:16:2], names[1:16:2], strict=True))
    first = words_in_context(model, 0, ["fk {}", "al {}"])
    second = words_in_context(model, 0, ["fm fl {}"])
    direction = fit_direction(first, pairs)
    found = evaluate_direction(direction, source=second, **QUICK)
    assert found.auroc.value > 0.6 and found.p > 0.05, "word identity is no contrast"
    assert found.selectivity == pytest.approx(found.auroc.value - float(found.null.mean()))
    assert "read in another way" in found.how and found.verdict == "not distinguishable from noise"
    held_out = evaluate_direction(direction, [tuple(names[place : place + 2]) for place in range(16, 28, 2)], **QUICK)
    assert held_out.selectivity is None
    assert any("not applicable" in line for line in held_out.report())


def test_a_direction_planted_in_the_embedding_is_found_there_and_not_in_the_twin():
    model = model_with_words()
    names = model.tokenizer.words
    pairs = [(names[2 * place], names[2 * place + 1]) for place in range(12)]
    with torch.no_grad():
        for up, down in pairs:
            model.W_E[model.tokenizer.token_id(f" {up}"), 0] += 20.0
            model.W_E[model.tokenizer.token_id(f" {down}"), 0] -= 20.0
    for source in (word_vectors(model, "embed"), words_in_context(model, 0, ["fk {}"], site="resid_pre")):
        found = evaluate_direction(fit_direction(source, pairs), **{**QUICK, "twin": True})
        assert found.auroc.value == 1.0 and found.p <= 0.05 and found.twin.value < 0.9


@pytest.mark.model
def test_plurality_is_encoded_in_glove_and_the_null_knows_it(glove):
    pairs = load_pairs("plurality")
    found = evaluate_direction(fit_direction(glove, pairs), pairs, n_permutations=199, n_random=100, progress=False)
    assert found.verdict == "encoded" and found.special and found.auroc.low > 0.93
    assert float(found.null.quantile(0.95)) < 0.62 and found.twin.low < 0.5 < found.twin.high
