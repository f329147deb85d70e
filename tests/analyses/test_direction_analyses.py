"""The arithmetic of plurality.py, gender.py and analogies.py."""

import pytest
import torch
from _sources import WordSource, pearson, shown_places, spearman
from analogies import KNOWN, SECTIONS, _cat, _kept, _known, draw_questions, is_input
from gender import halves, neighbours_value, neighbours_without
from plurality import NUMBERS, ascent, chance_of_order, plural_more_frequent, wrong
from scipy import stats

import probe
from probe.geometry import unit, without
from probe.words import from_arrays


def source(words, vectors, *, lower=False):
    return WordSource("mine", from_arrays("mine", words, torch.as_tensor(vectors).float()), lower=lower)


def test_words_are_spelled_as_the_source_has_them_and_left_out_where_it_has_none():
    own = source(["rome", "italy", "paris"], torch.eye(3), lower=True)
    assert own.having([("Rome", "Italy"), ("Paris", "France")]) == (("rome", "italy"),)
    assert own.having_words(["Paris", "London"]) == ("paris",)
    assert source(["Rome"], torch.eye(1)).having_words(["Rome", "rome"]) == ("Rome",)


def test_correlations_are_those_of_scipy():
    first, second = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in range(3):
        assert spearman(first, second)[row] == pytest.approx(stats.spearmanr(first[row], second[row]).statistic)
        assert pearson(first, second)[row] == pytest.approx(stats.pearsonr(first[row], second[row]).statistic)


def test_about_ten_places_are_shown_the_ends_among_them():
    assert shown_places(32) == [0, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 30, 31]
    assert shown_places(3) == [0, 1, 2]
    assert shown_places(1) == [0]


def test_an_ascent_names_the_steps_that_do_not_rise():
    assert ascent(torch.tensor([1.0, 3.0, 2.0, 4.0]), NUMBERS[:4]).falls == (("two", "three"),)
    assert str(ascent(torch.tensor([1.0, 3.0, 2.0, 4.0]), NUMBERS[:4])) == "rho 0.80; three < two"
    assert str(ascent(torch.arange(4.0), NUMBERS[:4])) == "strictly rising, rho 1.00"


def test_chance_of_order_is_one_in_two_where_all_words_lie_on_a_line():
    line = torch.arange(9.0)[:, None] * torch.randn(1, 5, generator=torch.Generator().manual_seed(1))
    assert chance_of_order(line, 1.0 - 1e-9) == pytest.approx(0.5, abs=0.05)  # 1,000 draws: 3 standard errors


def test_chance_of_order_is_small_where_vectors_are_unrelated():
    vectors = torch.randn(9, 50, generator=torch.Generator().manual_seed(1))
    assert chance_of_order(vectors, 1.0) == 1 / 1001
    assert chance_of_order(vectors, -1.0) == 1.0


def test_a_pair_is_wrong_where_the_plural_is_not_further_along():
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    assert wrong(pairs, torch.tensor([1.0, -1.0, 0.0, torch.nan])) == [("c", "d"), ("e", "f")]


def test_plurals_before_their_singulars_in_the_vocabulary_are_the_more_frequent_ones():
    own = source(["men", "man", "cat", "cats"], torch.eye(4))
    assert plural_more_frequent(own, [("men", "man"), ("cats", "cat")]) == [("men", "man")]


def test_a_pair_is_compared_with_the_direction_of_the_half_that_it_is_not_in():
    pairs = probe.load_pairs("gender")
    words = [word for pair in pairs.all for word in pair]
    own = source(words, torch.randn(len(words), 6, generator=torch.Generator().manual_seed(0)))
    for pair, direction in halves(own).items():
        assert (pair in pairs.fit) == (direction.pairs.words == pairs.held_out)
        assert pair not in direction.pairs.words


def test_neighbours_have_the_mean_value_of_the_nearest():
    near = unit(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [-1.0, 0.0]]))
    values = torch.tensor([2.0, 4.0, 100.0, 1000.0])
    assert neighbours_value(torch.tensor([[1.0, 0.0]]), near, values, 2).tolist() == [3.0]


def test_neighbours_after_a_direction_was_taken_out_are_those_of_the_vectors_without_it():
    generator = torch.Generator().manual_seed(0)
    words, near = (unit(torch.randn(n, 8, generator=generator, dtype=torch.float64)) for n in (5, 40))
    axis = unit(torch.randn(8, generator=generator, dtype=torch.float64))
    short = neighbours_without(words @ near.T, words @ axis, near @ axis, 7)
    long = neighbours_value(unit(without(words, axis)), unit(without(near, axis)), near @ axis, 7)
    assert torch.allclose(short, long, atol=1e-12)


def test_questions_differ_and_have_four_different_words():
    pairs = [("cats", "cat"), ("dogs", "dog"), ("Dogs", "cat"), ("cows", "cow")]
    questions = draw_questions(pairs, 100, seed=0)
    assert ("cat", "cats", "dog", "dogs") in questions and len({*questions}) == len(questions) == 8
    assert all(len({word.lower() for word in question}) == 4 for question in questions)
    assert draw_questions(pairs, 3, seed=0) == questions[:3]
    assert draw_questions(pairs, 3, seed=1) != questions[:3]


def test_an_answer_is_an_input_in_whatever_case():
    question = ("man", "woman", "king", "queen")
    assert is_input("King", question) == "c"
    assert is_input("queen", question) is None


def test_with_inputs_kept_a_word_that_hardly_moves_is_its_own_answer():
    """The offset is short beside what tells c from d: c stays nearest, unless it may not be the answer."""
    own = source(["a", "b", "c", "d", "e"], [[1, 0, 0], [1, 0, 0.1], [0, 1, 0], [0, 1, 0.5], [-1, 0, 0]])
    table = _kept(own, {"mine": [("a", "b", "c", "d")]})
    assert table.answer.tolist() == ["c", "d"] and table["input"].fillna("none").tolist() == ["c", "none"]
    assert table.correct.tolist() == [False, True]


def test_a_known_analogy_with_a_word_of_several_tokens_is_said_to_be_impossible():
    words = ["king", "woman", "man", "queen", "prince", "throne", "uncle", "aunt"]
    own = source(words, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    section, table = _known([own])
    assert {*table.expected} == {"queen", "aunt"}
    assert len(section.remarks) == len(KNOWN) - 2 and "bratwurst" in section.remarks[-1]


def test_the_rank_near_cat_leaves_cat_itself_out():
    words = ["cat", "dog", "pet", "animal", "beast", "monster", "table"]
    angles = torch.arange(7.0) / 10
    _, table = _cat([source(words, torch.stack([angles.cos(), angles.sin()], dim=1))])
    assert dict(zip(table.word, table["rank"], strict=True)) == {word: at for at, word in enumerate(words) if at}


def test_every_section_is_a_list_of_pairs():
    assert {*SECTIONS} <= {*probe.pair_lists()}


def test_nothing_on_the_axis_of_gender_was_fitted_on():
    fitted = {word for pair in probe.load_pairs("gender").all for word in pair}
    groups = ("professions", "female_names", "male_names")
    assert not fitted & {word for group in groups for word in probe.load_words("people", group)}
