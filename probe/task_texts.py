"""Sentences of the tasks, from data/tasks: templates crossed with sets of words. Text only; tokens are not made here.

Every set of words has two sides that differ in one thing: the plural and the singular of a noun, say. A prompt takes
one side, and its corrupted partner is the same sentence with the other.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import torch

from probe.word_lists import load_pairs, load_words

Sides = tuple[str, str]
IsToken = Callable[[str], bool]
"""Whether a word, in running text, is one token of the model."""
Thing = TypeVar("Thing")

_FOLDER = files("probe") / "data" / "tasks"


@dataclass(frozen=True)
class Template:
    """A sentence with named slots, which stops before the token that is asked for."""

    text: str
    """The sentence and its slots: 'The {noun} near the door'."""
    answers: Sides | None
    """The right next word on either side. None: the set of words says."""
    kinds: Sides
    """What sets prompts on either side apart from others of the task; may be empty."""


@dataclass(frozen=True)
class WordSet:
    """What goes into the slots together, in every template alike."""

    slots: Mapping[str, Sides]
    """The text on either side, by the slot's name."""
    answers: Sides | None = None
    """The right next word on either side. None: the template says."""
    kinds: Sides = ("", "")


@dataclass(frozen=True)
class TaskTexts:
    """All that a task can be made of, for one model."""

    question: str
    note: str
    templates: tuple[Template, ...]
    word_sets: tuple[WordSet, ...]


@dataclass(frozen=True)
class Sentence:
    """One prompt as text, with its corrupted partner, the right next word and the one it is compared with."""

    text: str
    corrupted: str
    target: str
    against: str
    kind: str
    template: int
    word_set: int


def read_texts(name: str, is_token: IsToken, generator: torch.Generator) -> TaskTexts:
    """Templates and sets of words whose words are tokens; `generator` decides which words come together."""
    found = json.loads(_FOLDER.joinpath(f"{name.replace(' ', '_')}.json").read_text(encoding="utf-8"))
    templates = [
        Template(one["text"], _sides(one["answers"]) if "answers" in one else None, _sides(one.get("kinds", ("", ""))))
        for one in found["templates"]
    ]
    usable = [one for one in templates if one.answers is None or all([is_token(word) for word in one.answers])]
    word_sets = WORD_SETS[name](found, is_token, generator)
    return TaskTexts(found["question"], found["note"], tuple(usable), tuple(word_sets))


def cross(texts: TaskTexts, n_templates: int, n_word_sets: int, generator: torch.Generator) -> list[Sentence]:
    """Every one of so many templates with every one of so many sets of words, the sides taken in turn.

    Templates and sets of different kinds are chosen evenly, and both sides come evenly with every template, every set
    and (both being in the order of their kinds) every kind.
    """
    templates = choose(texts.templates, n_templates, lambda one: one.kinds, generator)
    word_sets = choose(texts.word_sets, n_word_sets, lambda one: one.kinds, generator)
    return [
        _fill(template, words, (row + column) % 2, row, column)
        for row, template in enumerate(templates)
        for column, words in enumerate(word_sets)
    ]


def choose(
    things: Sequence[Thing], n: int, kind: Callable[[Thing], Any], generator: torch.Generator
) -> tuple[Thing, ...]:
    """n of these, drawn from every kind in turn, and in the order of kinds."""
    by_kind: dict[Any, list[Thing]] = {}
    for thing in _shuffled(things, generator):
        by_kind.setdefault(kind(thing), []).append(thing)
    kinds = list(by_kind.values())
    in_turn = sorted((place, number) for number, members in enumerate(kinds) for place in range(len(members)))[:n]
    return tuple(kinds[number][place] for place, number in sorted(in_turn, key=lambda at: at[1]))


def _fill(template: Template, words: WordSet, side: int, row: int, column: int) -> Sentence:
    answers = template.answers or words.answers
    assert answers is not None, f"neither {template.text!r} nor its words have answers"
    text, corrupted = (
        template.text.format(**{slot: sides[one] for slot, sides in words.slots.items()}) for one in (side, 1 - side)
    )
    kind = ", ".join(filter(None, (words.kinds[side], template.kinds[side])))
    return Sentence(text, corrupted, answers[side], answers[1 - side], kind, row, column)


def _indirect_object(found: Mapping[str, Any], is_token: IsToken, generator: torch.Generator) -> list[WordSet]:
    names = [name.capitalize() for group in ("female_names", "male_names") for name in load_words("people", group)]
    drawn = _shuffled([name for name in names if is_token(name)], generator)
    places, objects = (
        _shuffled([word for word in found[group] if is_token(word)], generator) for group in ("places", "objects")
    )
    return [
        WordSet(
            {"first": (a, a), "second": (b, b), "giver": (a, b), "place": (place, place), "object": (thing, thing)},
            answers=(b, a), kinds=("BABA", "ABBA"),
        )
        for a, b, place, thing in zip(drawn[::2], drawn[1::2], places, objects, strict=False)
    ]  # fmt: skip


def _agreement(found: Mapping[str, Any], is_token: IsToken, generator: torch.Generator) -> list[WordSet]:
    plural = {singular: plural for plural, singular in load_pairs("plurality").all}
    pairs = [(plural[noun], noun) for noun in found["nouns"]]
    return [WordSet({"noun": pair}) for pair in _tokens(pairs, is_token)]


def _gender(found: Mapping[str, Any], is_token: IsToken, generator: torch.Generator) -> list[WordSet]:
    male = dict(load_pairs("gender").all)
    nouns = [
        WordSet({"person": (f"{before} {woman}", f"{before} {man}")}, kinds=("noun", "noun"))
        for before, women in found["nouns"].items()
        for woman, man in _tokens([(noun, male[noun]) for noun in women], is_token)
    ]
    women, men = (
        _shuffled([name for name in map(str.capitalize, load_words("people", group)) if is_token(name)], generator)
        for group in ("female_names", "male_names")
    )
    names = zip(women, men, strict=False)
    return nouns + [WordSet({"person": pair}, kinds=("first name", "first name")) for pair in names]


def _capital(found: Mapping[str, Any], is_token: IsToken, generator: torch.Generator) -> list[WordSet]:
    known = [pair for pair in load_pairs("capital").all if pair[1] not in found["left_out"]]
    drawn = _shuffled(_tokens(known, is_token), generator)
    return [
        WordSet({"country": (country, other)}, answers=(capital, other_capital))
        for (capital, country), (other_capital, other) in zip(drawn[::2], drawn[1::2], strict=False)
    ]


WORD_SETS = {
    "indirect object": _indirect_object,
    "agreement": _agreement,
    "gender": _gender,
    "capital": _capital,
}
"""Tasks made of sentences, and how each puts its words together."""


def _tokens(pairs: Sequence[Sides], is_token: IsToken) -> list[Sides]:
    """The pairs of which both words are tokens; every word is asked about, so that all that are missing are known."""
    return [pair for pair in pairs if all([is_token(word) for word in pair])]


def _shuffled(things: Sequence[Thing], generator: torch.Generator) -> list[Thing]:
    return [things[place] for place in torch.randperm(len(things), generator=generator).tolist()]


def _sides(words: Sequence[str]) -> Sides:
    first, second = words
    return first, second
