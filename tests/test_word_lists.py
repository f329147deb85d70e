"""The lists of words: as many as promised, split, without repetitions, and with vectors."""

import pytest

from probe.errors import UnknownName
from probe.word_lists import load_pairs, load_words, pair_lists

FEWEST = {"plurality": 120, "gender": 50, "tense": 50, "size": 30, "sentiment": 50, "capital": 30, "nationality": 30}


def test_every_list_is_known():
    assert set(pair_lists()) == set(FEWEST)


@pytest.mark.parametrize("name", FEWEST)
def test_a_list_is_long_enough_split_and_explained(name):
    found = load_pairs(name)
    assert len(found.all) >= FEWEST[name] and len(found.fit) > len(found.held_out) > 0.3 * len(found.all)
    words = [word for pair in found.all for word in pair]
    assert len({*words}) == len(words), "a word in two pairs"
    assert len(found.note) > 100 and found.positive != found.negative
    assert len(found.templates) >= 4
    for template in found.templates:
        assert template.count("{}") == 1 and not template.startswith("{}")


@pytest.mark.model
@pytest.mark.parametrize("name", FEWEST)
def test_every_word_has_a_glove_vector(glove, name):
    assert glove.missing(word for pair in load_pairs(name).lower().all for word in pair) == {}


@pytest.mark.model
@pytest.mark.parametrize("name", FEWEST)
def test_most_pairs_are_tokens_of_the_default_model(default_model, name):
    from probe.words import word_vectors

    words = word_vectors(default_model)
    whole = [pair for pair in load_pairs(name).all if pair[0] in words and pair[1] in words]
    assert len(whole) > (0.65 if name == "gender" else 0.79) * len(load_pairs(name).all)


def test_plain_lists_are_read_by_group():
    assert load_words("numbers")[:3] == ("one", "two", "three") and len(load_words("numbers")) == 20
    assert all(template.count("{}") == 1 for template in load_words("numbers", "templates"))
    assert "doctor" in load_words("people", "professions")


def test_unknown_lists_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'plurality'"):
        load_pairs("plural")
    with pytest.raises(UnknownName, match="numbers"):
        load_words("plurality")
    with pytest.raises(UnknownName, match="professions"):
        load_words("people", "profession")
