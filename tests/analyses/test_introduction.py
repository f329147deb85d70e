"""The examples of introduction.py: their arithmetic, their order, and every line of Python that they print."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from _introduction import Chapter, Example, Holds, count_above, judge, listed, plural_pairs, projections, rising
from introduction import CHAPTERS, QUICK_TOKENS, read_subject

import probe
from probe.words import from_arrays

TALK = "talk"


def seconds(time: str) -> int:
    """Of the first time of an example, '17:57 - 18:13'."""
    minutes, rest = time[:5].split(":")
    return 60 * int(minutes) + int(rest)


@pytest.mark.parametrize(
    ("found", "says"), [([True, True], "yes"), ([True, False], "partly"), ([False, False], "no"), ([True], "yes")]
)
def test_an_example_holds_if_all_of_it_was_found(found, says):
    assert judge(*found) == says


@pytest.mark.parametrize(("values", "n"), [([1, 2, 3], 3), ([1, 2, 2, 5], 2), ([3, 1, 2], 1), ([4], 1), ([], 0)])
def test_rising_counts_up_to_the_first_that_does_not_exceed_the_one_before(values, n):
    assert rising(values) == n


def planted_words() -> probe.WordVectors:
    """Plurals one step further along the first axis, except women; only some words of the list."""
    words = {"cat": 0.0, "cats": 2.0, "dog": 5.0, "dogs": 6.0, "bed": -1.0, "beds": 0.0, "woman": 3.0, "women": 2.5}
    vectors = torch.tensor([[along, 1.0, float(place)] for place, along in enumerate(words.values())])
    vectors[:, 2] *= torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    return from_arrays("planted", list(words), vectors)


def test_plurals_are_compared_along_cats_minus_cat_where_both_words_are_there():
    words = planted_words()
    assert set(plural_pairs(words)) == {("dogs", "dog"), ("beds", "bed"), ("women", "woman")}
    assert projections(words, ["dog", "women"]).tolist() == [10.0, 5.0]
    assert count_above(words) == (2, 3)


def test_words_are_listed_in_quotation_marks_without_the_space_of_their_tokens():
    assert listed([" town", "cat"]) == "“town”, “cat”"


def test_a_chapter_shows_one_row_for_each_example_and_the_lines_that_there_are():
    with_line = Example("01:02", "claim", "here", "yes", "Heads", "1 + 1", 2)
    without = Example("01:03", "claim", "here", "partly", "—")
    section = Chapter("heading", ["words"], [with_line, without]).section()
    assert section.table is not None and section.term == "from 01:02"
    assert section.table.rows == [("01:02", "claim", "here", "yes", "Heads"), ("01:03", "claim", "here", "partly", "—")]
    assert section.code == ["# 01:02", "1 + 1"]


@pytest.fixture(scope="module")
def chapters(default_model) -> list[Chapter]:
    subject = read_subject(default_model, QUICK_TOKENS)
    return [chapter(subject) for chapter in CHAPTERS.values()]


@pytest.mark.slow
@pytest.mark.model
def test_the_line_of_every_example_gives_its_number(chapters, default_model):
    at_hand = {"probe": probe, "model": default_model, "words": probe.load_word_vectors()}
    wrong = []
    for example in (one for chapter in chapters for one in chapter.examples if one.code):
        found = eval(example.code, at_hand)
        if isinstance(found, torch.Tensor) or not _same(found, example.value):
            wrong.append(f"{example.time}: {example.code} gives {found}, the table has {example.value}")
    assert not wrong, "\n".join(wrong)


def _same(found: object, expected: object) -> bool:
    if isinstance(expected, float) or (isinstance(expected, list | tuple) and isinstance(expected[0], float)):
        return found == pytest.approx(expected, rel=1e-4, abs=1e-4)  # batches of other sizes round otherwise
    return found == expected


@pytest.mark.slow
@pytest.mark.model
def test_examples_stand_in_the_order_of_the_video_and_only_a_few_have_no_line(chapters):
    examples = [one for chapter in chapters for one in chapter.examples]
    times = [seconds(one.time) for one in examples if one.time != TALK]
    assert times == sorted(times) and len(times) > 30
    without = [one.time for one in examples if not one.code]
    assert without == ["00:47", "12:05", "14:12", TALK, TALK]


@pytest.mark.slow
@pytest.mark.model
def test_the_log_has_every_example_with_its_verdict(chapters):
    log = (Path(__file__).parent.parent.parent / "analyses" / "README.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in log.splitlines() if line.startswith("| ")]
    logged = [(row[0], row[-1]) for row in rows if row[-1] in get_args(Holds)]
    assert logged == [(one.time, one.holds) for chapter in chapters for one in chapter.examples]


@pytest.mark.slow
@pytest.mark.model
def test_what_is_known_of_the_default_model_and_glove_is_found_again(chapters):
    values = {one.time: one.value for chapter in chapters for one in chapter.examples}
    assert values["11:06"] == 175_181_291_520
    assert values["17:57 - 18:13"] == values["21:45 - 22:10"] == 617_558_016
    assert values["14:37"][0] == "towers" and values["16:30"] == [13, 15]
    assert values["15:56"] == 1 and values["16:19"] > 50
    assert values["24:09 - 24:29"] == 1.0 and values["18:32"] == 0.0
