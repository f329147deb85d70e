"""Tasks: pairs that differ in one thing, sides and kinds that come evenly, templates crossed with sets of words."""

import re
from collections import Counter
from typing import get_args

import pytest

from probe.errors import BadPrompt, OutOfRange, UnknownName
from probe.gpt import GPT
from probe.prompts import read_prompts
from probe.task_texts import WORD_SETS
from probe.tasks import Task, TaskName, load_task, task_names
from probe.word_lists import load_pairs, load_words
from tests.english import english_model
from tests.induction import VOCAB, induction_model
from tests.tiny import LLAMA, WordTokenizer, tiny_model

SENTENCES = tuple(WORD_SETS)
FIRST = ("are", "were", "have", "she", "her")
"""Right after plural nouns and after women."""


@pytest.fixture(scope="module")
def model() -> GPT:
    return english_model()


def changed(task: Task, row: int) -> list[int]:
    """Positions at which a prompt and its partner differ."""
    both = zip(task.prompts[row], task.corrupted[row], strict=True)
    return [position for position, (one, other) in enumerate(both) if one != other]


def test_every_task_is_known_by_its_sentences_or_is_induction():
    assert set(task_names()) == {*SENTENCES, "induction"} == set(get_args(TaskName))


@pytest.mark.parametrize("name", task_names())
def test_a_prompt_and_its_partner_are_as_long_and_differ_in_one_token(model, name):
    task = load_task(model, name)
    assert len(task) == 200 == len(set(task.prompts))
    assert all(len(changed(task, row)) == 1 for row in range(len(task)))
    assert len(task.question) > 50 and task.question.endswith("?") and len(task.note) > 200


@pytest.mark.parametrize("name", SENTENCES)
def test_templates_and_words_are_fully_crossed(model, name):
    task = load_task(model, name)
    cells = Counter(zip(task.groups["template"], task.groups["filler"], strict=True))
    assert len(cells) == 200 and {*task.groups["template"]} == {*range(20)} and {*task.groups["filler"]} == {*range(10)}


@pytest.mark.parametrize("name", SENTENCES)
def test_no_word_is_in_two_sets(model, name):
    task = load_task(model, name)
    of_set = {}
    for row, number in enumerate(task.groups["filler"]):
        (position,) = changed(task, row)
        for ids in (task.prompts, task.corrupted):
            of_set.setdefault(ids[row][position], set()).add(number)
    assert len(of_set) == 20 and all(len(numbers) == 1 for numbers in of_set.values())


def test_prompts_of_the_indirect_object_end_in_to_after_the_repeated_name(model):
    task = load_task(model, "indirect object")
    tokens = model.tokenizer.texts
    for row, ids in enumerate(task.prompts):
        names = [token for token in ids if token in (task.targets[row], task.against[row])]
        assert tokens[ids[-1]] == " to" and names[2] == task.against[row] and len(names) == 3
        assert (names[0] == names[2]) == (task.kinds[row] == "BABA")
        partner = [token for token in task.corrupted[row] if token in names]
        assert partner == [*names[:2], task.targets[row]], "the other gives, so that the giver is asked for"
    assert Counter(task.kinds) == {"ABBA": 100, "BABA": 100}


@pytest.mark.parametrize(("name", "pairs"), [("agreement", "plurality"), ("gender", "gender")])
def test_the_answer_goes_with_the_word_and_the_other_with_the_partner(model, name, pairs):
    first = {one for one, _ in load_pairs(pairs).all} | {
        name.capitalize() for name in load_words("people", "female_names")
    }
    task, tokens = load_task(model, name), model.tokenizer.texts
    for row in range(len(task)):
        (position,) = changed(task, row)
        word, other = (tokens[ids[row][position]].strip() in first for ids in (task.prompts, task.corrupted))
        target, against = (tokens[ids[row]].strip() in FIRST for ids in (task.targets, task.against))
        assert (word, other) == (target, against) == (target, not target)


def test_the_indirect_object_reads_as_in_its_paper(model):
    task = load_task(model, "indirect object")
    text = next(text for text in task.texts if text.startswith("When "))
    found = re.fullmatch(r"When (\w+) and (\w+) went to the (\w+), (\w+) gave a (\w+) to", text)
    assert found and found[4] in (found[1], found[2])


@pytest.mark.parametrize("name", ["agreement", "gender"])
def test_either_answer_is_right_as_often_with_every_template_and_word(model, name):
    task = load_task(model, name)
    is_first = [model.tokenizer.texts[target].strip() in FIRST for target in task.targets]
    assert sum(is_first) == 100
    for members in (task.groups["template"], task.groups["filler"]):
        of_group = Counter(number for number, yes in zip(members, is_first, strict=True) if yes)
        assert set(of_group.values()) == {len(task) // len(set(members)) // 2}


def test_attractors_agree_as_often_as_they_distract(model):
    assert Counter(load_task(model, "agreement").kinds) == {
        "no noun between": 80, "preposition, same number": 30, "preposition, other number": 30,
        "relative clause, same number": 30, "relative clause, other number": 30,
    }  # fmt: skip


def test_a_noun_between_of_the_other_number_is_said_to_be_one(model):
    task = load_task(model, "agreement")
    for text, kind, target in zip(task.texts, task.kinds, task.targets, strict=True):
        plural = model.tokenizer.texts[target].strip() in FIRST
        if kind != "no noun between":
            between = re.search(
                r"(tables|cars|villages|teachers|girls|workers|door|fence|suitcase|doctor|president|brother)", text
            )
            assert between and (between[0].endswith("s") == plural) == kind.endswith("same number"), text


def test_women_and_men_are_named_by_nouns_and_first_names_alike(model):
    kinds = Counter(load_task(model, "gender").kinds)
    assert kinds == {f"{who}, {what}": 50 for who in ("noun", "first name") for what in ("she or he", "her or his")}


def test_capitals_are_those_of_the_country_and_no_country_is_asked_for_as_its_own_partner(model):
    capital = {country: city for city, country in load_pairs("capital").all}
    task, tokens = load_task(model, "capital"), model.tokenizer.texts
    for row in range(len(task)):
        (position,) = changed(task, row)
        country, other = (tokens[ids[row][position]].strip() for ids in (task.prompts, task.corrupted))
        assert tokens[task.targets[row]] == f" {capital[country]}"
        assert tokens[task.against[row]] == f" {capital[other]}"
        assert country not in ("Scotland", "Wales", "England", "Holland", "Korea")


@pytest.mark.parametrize("n", [4, 6, 9, 16, 50, 200])
def test_a_smaller_number_still_varies_both_and_stays_balanced(model, n):
    task = load_task(model, "gender", n)
    numbers = [len(set(members)) for members in task.groups.values()]
    assert len(task) == n == numbers[0] * numbers[1] and min(numbers) >= 2 and numbers[0] >= numbers[1]
    women = sum(model.tokenizer.texts[target].strip() in FIRST for target in task.targets)
    assert abs(2 * women - n) <= 1
    assert len(set(task.kinds)) == 4


@pytest.mark.parametrize("name", task_names())
def test_the_same_seed_gives_the_same_prompts_and_another_gives_others(model, name):
    task, again, other = (load_task(model, name, 20, seed=seed) for seed in (1, 1, 2))
    assert (task.prompts, task.corrupted, task.against) == (again.prompts, again.corrupted, again.against)
    assert task.prompts != other.prompts
    assert {"model", "fingerprint", "versions"} < set(task.manifest)
    assert {key: task.manifest[key] for key in ("name", "n", "seed")} == {"name": name, "n": 20, "seed": 1}


@pytest.mark.parametrize("name", task_names())
def test_the_document_start_is_there_where_it_is_known_unless_told_otherwise(model, name):
    assert all(ids[0] == 0 for ids in load_task(model, name, 4).prompts)
    without = load_task(model, name, 4, document_start=False)
    assert not without.document_start and all(ids[0] != 0 for ids in (*without.prompts, *without.corrupted))


def test_a_model_that_knows_no_document_start_gets_none():
    model = english_model()
    model.tokenizer.document_start_id = None
    assert not load_task(model, "agreement", 4).document_start
    with pytest.raises(BadPrompt, match="declares no document separator"):
        load_task(model, "agreement", 4, document_start=True)


def test_words_that_are_not_tokens_are_left_out_and_listed():
    whole, task = english_model(), load_task(english_model("queen", "John", "her"), "gender", 100)
    assert set(task.manifest["left_out"]) == {"queen", "John", "her"}
    assert not any("queen" in text or "John" in text for text in (*task.texts, *task.corrupted_texts))
    assert all("she or he" in kind for kind in task.kinds), "templates that ask for 'her' are left out too"
    assert load_task(whole, "gender", 100).manifest["left_out"] == []


def test_the_repetition_gives_the_target_away_and_the_partner_does_not(model):
    task = load_task(model, "induction", 50)
    for row, ids in enumerate(task.prompts):
        ids, partner = list(ids[1:]), list(task.corrupted[row][1:])
        first, rest = ids[:24], ids[24:]
        assert rest == first[: len(rest)] and len(set(first)) == 24 and len(rest) == 18
        assert first[len(rest)] == task.targets[row] and task.against[row] in first[len(rest) + 1 :]
        assert partner[24:] == rest and rest[-1] not in partner[:24] and len(set(partner)) == 25
    assert task.groups == {"prompt": tuple(range(50))}
    assert {*map(len, task.prompts)} == {1 + 24 + 18}, "positions mean the same in all, so they can be patched"


def test_induction_needs_no_tokenizer():
    model = tiny_model()
    model.tokenizer = None
    task = load_task(model, "induction", 5)
    assert not task.document_start and task.texts[0].startswith("[")
    with pytest.raises(BadPrompt, match="no tokenizer; 'induction' needs none"):
        load_task(model, "agreement")


def test_induction_fits_a_short_context_and_a_small_vocabulary():
    task = load_task(induction_model(), "induction", 30)
    assert max(map(len, task.prompts)) <= 31 and all(0 not in ids[1:] for ids in task.prompts)
    assert {token for ids in task.corrupted for token in ids} == {*range(VOCAB)}
    with pytest.raises(BadPrompt, match="a context of 8"):
        load_task(english_model(n_ctx=8), "induction")


def test_the_metric_is_the_difference_of_the_two_answers(model):
    task = load_task(model, "capital", 4)
    batch = read_prompts(model.config, None, task.prompts)
    measure = task.metric.bind(model, batch)
    assert measure.tokens.tolist() == [list(pair) for pair in zip(task.targets, task.against, strict=True)]
    assert measure.positions[:, 0].tolist() == [len(ids) - 1 for ids in task.prompts]


def test_a_task_of_another_name_is_answered_with_the_nearest(model, as_users_run_it):
    with pytest.raises(UnknownName, match="did you mean 'indirect object'"):
        load_task(model, "indirect objects")


def test_names_and_numbers_are_checked_for_users(model, as_users_run_it):
    with pytest.raises(UnknownName, match="known: indirect object, agreement, gender, induction, capital"):
        load_task(model, "sums")
    for n, said in (
        (1, "2 prompts or more"),
        (0, "2 prompts"),
        (-3, "2 prompts"),
        (2.5, "n=2.5"),
        ("many", "n='many'"),
    ):
        with pytest.raises(OutOfRange, match=said):
            load_task(model, "agreement", n)


def test_numbers_that_cannot_be_made_are_answered_with_how_many_there_are(model):
    with pytest.raises(
        OutOfRange, match=r"n=1000: .* 2 to 20 templates with 2 to 20 sets of words, at most 400 prompts"
    ):
        load_task(model, "agreement", 1000)
    with pytest.raises(OutOfRange, match="n=13: .* the nearest is 12"):
        load_task(model, "agreement", 13)
    with pytest.raises(OutOfRange, match="at most 380 prompts.* not tokens of this model: thieves"):
        load_task(english_model("thieves"), "agreement", 400)


@pytest.mark.parametrize("name", SENTENCES)
def test_a_tokenizer_that_lacks_the_words_is_told_which(name):
    model = GPT(LLAMA, tokenizer=WordTokenizer(), name="two letters")
    with pytest.raises(BadPrompt, match="0 sets of words as tokens; 2 of each are needed; not tokens of this model: "):
        load_task(model, name)


def test_a_context_that_is_too_short_is_said():
    with pytest.raises(BadPrompt, match="context holds 8"):
        load_task(english_model(n_ctx=8), "indirect object", 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corrupted": ((1, 2, 3), (1, 2))}, r"prompt 0: .* have 2 and 3 tokens"),
        ({"corrupted": ((1, 3), (4, 5))}, "prompt 1: .* have the same tokens"),
        ({"against": (7, 7)}, "prompt 0: target and against are the same token"),
        ({"targets": (7,)}, "one entry for each of 2 prompts"),
        ({"groups": {"template": (0, 1, 2)}}, "one entry for each of 2 prompts"),
    ],
)
def test_a_task_of_your_own_is_checked(change, said):
    fields = {
        "name": "agreement", "question": "", "note": "", "document_start": False, "texts": ("a", "b"),
        "corrupted_texts": ("c", "d"), "prompts": ((1, 2), (4, 5)), "corrupted": ((1, 3), (4, 6)), "targets": (7, 8),
        "against": (8, 7), "kinds": ("", ""), "groups": {}, "manifest": {},
    }  # fmt: skip
    assert len(Task(**fields)) == 2
    with pytest.raises(BadPrompt, match=said):
        Task(**{**fields, **change})


@pytest.mark.model
@pytest.mark.parametrize("name", task_names())
def test_the_default_model_has_200_prompts_of_every_task(default_model, name):
    task = load_task(default_model, name)
    assert len(task) == 200 == len(set(task.prompts)) and task.document_start
    assert all(len(changed(task, row)) == 1 for row in range(len(task)))
    if name in SENTENCES:
        assert [len(set(members)) for members in task.groups.values()] == [20, 10]
