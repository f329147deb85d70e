"""Tasks to measure ablation and patching on: prompts with a right and a wrong next token, and a corrupted partner each.

Four are made of sentences, templates fully crossed with sets of words, so that both can be resampled; "induction" is
made of random tokens. Sources: Wang et al., "Interpretability in the wild" (2022), for the indirect object; Linzen et
al., "Assessing the ability of LSTMs to learn syntax-sensitive dependencies" (2016), for agreement; Olsson et al.,
"In-context learning and induction heads" (2022).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from probe.arguments import checked
from probe.errors import BadPrompt, DifferentModel, OutOfRange, check_choice
from probe.gpt import GPT
from probe.metrics import Metric, logit_difference
from probe.prompts import Prompts, read_prompts, str_tokens, token_id
from probe.provenance import provenance
from probe.shown import Shown, Summary, count
from probe.task_texts import TaskTexts, cross, read_texts

if TYPE_CHECKING:
    import pandas

TaskName = Literal["indirect object", "agreement", "gender", "induction", "capital"]
Ids = tuple[int, ...]
LENGTH = 24
"""Different random tokens that are repeated, where the context holds them twice. The target is the likeliest
token of the default model in 0.845 of 200 such prompts, in 0.590 where 48 are repeated."""
_QUESTION = (
    "Random tokens come a second time: does the token follow that came next the first time, not another of them?"
)
_NOTE = (
    "{length} different random tokens, then the first {again} of them again; all prompts are of one length. The "
    "target is the token that came next the first time; it is compared with a later one, drawn, so that both have come "
    "once. In the corrupted partner the first occurrence of the last token is replaced by a random token that occurs "
    "nowhere else: one token differs, and the last token has not come before. Only how far back the rest came before "
    "could still tell. Every prompt is drawn anew."
)


@dataclass(frozen=True, eq=False)
class Task(Shown):
    """Prompts with a right and a wrong next token, each with a corrupted partner of equal length.

    Raises:
        BadPrompt: a pair of unequal length or without a difference, a target compared with itself, fields that are not
            all about the same number of prompts.
    """

    name: TaskName
    question: str
    """What is asked and what counts as success."""
    note: str
    """How prompts and corrupted partners were made."""
    document_start: bool
    """Whether the prompts begin with the model's document separator."""
    texts: tuple[str, ...]
    """Each prompt as text, without document separator."""
    corrupted_texts: tuple[str, ...]
    prompts: tuple[Ids, ...]
    """Token ids, document separator included."""
    corrupted: tuple[Ids, ...]
    """Token ids of each prompt's corrupted partner: as many tokens, some of them others."""
    targets: Ids
    """The right next token of each prompt."""
    against: Ids
    """The token that the target is compared with; in the tasks made of sentences it is right after the partner."""
    kinds: tuple[str, ...]
    """What sets prompts of this task apart: 'ABBA', 'relative clause, other number'; may be empty."""
    groups: Mapping[str, Ids]
    """{"template": number of each prompt's template, "filler": of its set of words}; of induction {"prompt": ...}.
    Prompts that share a number are not independent."""
    manifest: Mapping[str, Any]
    """Model, name, n, seed, document start, and the words that were left out because they are not tokens."""

    def __post_init__(self) -> None:
        about_each = (self.texts, self.corrupted_texts, self.corrupted, self.targets, self.against, self.kinds)
        if {*map(len, about_each), *map(len, self.groups.values())} != {len(self.prompts)}:
            raise BadPrompt(
                f"task {self.name!r}: expected one entry for each of {len(self.prompts)} prompts everywhere"
            )
        for row, (clean, corrupted) in enumerate(zip(self.prompts, self.corrupted, strict=True)):
            if len(clean) != len(corrupted) or clean == corrupted:
                wrong = "the same tokens" if clean == corrupted else f"{len(clean)} and {len(corrupted)} tokens"
                pair = f"{self.texts[row]!r} and its corrupted partner {self.corrupted_texts[row]!r}"
                raise BadPrompt(f"task {self.name!r}, prompt {row}: {pair} have {wrong}; expected as many, but others")
            if self.targets[row] == self.against[row]:
                raise BadPrompt(f"task {self.name!r}, prompt {row}: target and against are the same token")

    def __len__(self) -> int:
        return len(self.prompts)

    def summary(self) -> Summary:
        """What is asked."""
        kinds = {kind for kind in self.kinds if kind}
        facts = {"first prompt": self.texts[0], "corrupted": self.corrupted_texts[0]} if self.texts else {}
        return Summary(
            f"{self.name}, {count(len(self), 'prompt')}" + (f" of {len(kinds)} kinds" if len(kinds) > 1 else ""),
            {"question": self.question, **facts}, self.manifest.get("model"),
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per prompt: texts, kind, groups, tokens, and the ids of target and the token it is compared with."""
        import pandas  # half a second that only tables need

        return pandas.DataFrame(
            {
                "prompt": range(len(self)), "text": self.texts, "corrupted": self.corrupted_texts, "kind": self.kinds,
                **{kind: list(numbers) for kind, numbers in self.groups.items() if kind != "prompt"},
                "n_tokens": [len(ids) for ids in self.prompts], "target_id": self.targets, "against_id": self.against,
            }
        )  # fmt: skip

    @property
    def metric(self) -> Metric:
        """Logit of the target minus that of the token it is compared with, after each prompt's last token; in logits.

        Above 0 the prompt counts as solved.
        """
        return logit_difference(self.targets, self.against)


def task_names() -> tuple[str, ...]:
    """The tasks that `load_task` knows."""
    return get_args(TaskName)


@checked
def load_task(model: GPT, name: TaskName, n: int = 200, *, seed: int = 0, document_start: bool | None = None) -> Task:
    """n prompts of a task in the tokens of this model: ``load_task(model, "indirect object")``.

    Sentences are so many templates times so many sets of words, as near to as many of both as n allows (200 is 20 times
    10). Words that are not one token of this model are left out; the manifest lists them.

    Args:
        seed: which templates and words are taken, and which words come together.
        document_start: put the model's document separator first. None: if the model's files name one.

    Raises:
        UnknownName: no such task; the nearest is offered.
        OutOfRange: fewer than two prompts, or a number that templates times sets of words cannot make.
        BadPrompt: a model without tokenizer (induction needs none), with too few of the words as tokens, or with a
            context too short.

    Sources: Wang et al. (2022); Linzen et al. (2016); Olsson et al. (2022).
    """
    check_choice("task", name, task_names())
    if n < 2:
        raise OutOfRange(f"n={n}: expected 2 prompts or more")
    start = document_start
    if start is None:
        start = getattr(model.tokenizer, "document_start_id", None) is not None
    make = _repeated if name == "induction" else _of_sentences
    return make(model, name, n, seed, start)


def check_tokens(model: GPT, task: Task) -> None:
    """Raise unless a model cuts the prompts of a task into the tokens that it has.

    Raises:
        DifferentModel: it does not.
    """
    if task.name == "induction":  # random tokens are as good as others to every model that has so many
        return
    if model.tokenizer is not None:
        own = read_prompts(model.config, model.tokenizer, task.texts, document_start=task.document_start).ids
        if own == task.prompts:
            return
    raise DifferentModel(
        f"task {task.name!r} is in tokens of {task.manifest.get('model')!r}, and {model.name!r} has others: "
        f"load_task(model, {task.name!r}) makes it anew"
    )


def repeated_random_tokens(model: GPT, n: int, length: int, *, seed: int) -> list[list[int]]:
    """n prompts of `length` different random tokens, twice in a row; special tokens are left out.

    Raises:
        OutOfRange: fewer than two tokens, or more than the vocabulary has.
    """
    ordinary = torch.tensor(ordinary_tokens(model))
    if not 2 <= length <= len(ordinary):
        raise OutOfRange(f"length={length}: expected 2 to {len(ordinary)}, the ordinary tokens of this model")
    generator = torch.Generator().manual_seed(seed)
    firsts = [ordinary[torch.randperm(len(ordinary), generator=generator)[:length]].tolist() for _ in range(n)]
    return [[*first, *first] for first in firsts]


def ordinary_tokens(model: GPT) -> list[int]:
    """Ids that the model predicts and that stand for text: no special ones."""
    special = getattr(model.tokenizer, "special_ids", frozenset())
    known = min(model.config.n_outputs, getattr(model.tokenizer, "d_vocab", model.config.d_vocab))
    return [token for token in range(known) if token not in special]


def _repeated(model: GPT, name: TaskName, n: int, seed: int, start: bool) -> Task:
    """Random tokens, and three quarters of them again."""
    length = min(LENGTH, (model.config.n_ctx - 1) // 2, len(ordinary_tokens(model)) - 1)
    if length < 4:
        raise BadPrompt(
            f"task {name!r} repeats 4 tokens or more: this model has a context of {model.config.n_ctx} and "
            f"{len(ordinary_tokens(model))} ordinary tokens"
        )
    place = min(3 * length // 4, length - 2)
    generator = torch.Generator().manual_seed(seed)
    prompts, corrupted, targets, against = [], [], [], []
    for drawn in repeated_random_tokens(model, n, length + 1, seed=seed):
        first, other = drawn[:length], drawn[length]
        last, target = first[place - 1], first[place]
        later = first[place + 1 :]
        prompts.append([*first, *first[:place]])
        corrupted.append([other if token == last else token for token in first] + first[:place])
        targets.append(target)
        against.append(later[int(torch.randint(len(later), (1,), generator=generator))])
    return Task(
        name=name, question=_QUESTION, note=_NOTE.format(length=length, again=place), document_start=start,
        texts=_shown(model, prompts), corrupted_texts=_shown(model, corrupted),
        prompts=_ids(model, prompts, start), corrupted=_ids(model, corrupted, start),
        targets=tuple(targets), against=tuple(against), kinds=("",) * n, groups={"prompt": tuple(range(n))},
        manifest=_manifest(model, name, n, seed, start),
    )  # fmt: skip


def _of_sentences(model: GPT, name: TaskName, n: int, seed: int, start: bool) -> Task:
    if model.tokenizer is None:
        raise BadPrompt(f"task {name!r} is made of text, and {model.name} has no tokenizer; 'induction' needs none")
    words = _Words(model)
    generator = torch.Generator().manual_seed(seed)
    texts = read_texts(name, words.is_token, generator)
    found = cross(texts, *_sizes(name, n, texts, words.missing), generator)
    clean, corrupted = [one.text for one in found], [one.corrupted for one in found]
    return Task(
        name=name, question=texts.question, note=texts.note, document_start=start,
        texts=tuple(clean), corrupted_texts=tuple(corrupted),
        prompts=_ids(model, clean, start), corrupted=_ids(model, corrupted, start),
        targets=tuple(words.id(one.target) for one in found), against=tuple(words.id(one.against) for one in found),
        kinds=tuple(one.kind for one in found),
        groups={"template": tuple(one.template for one in found), "filler": tuple(one.word_set for one in found)},
        manifest={**_manifest(model, name, n, seed, start), "left_out": words.missing},
    )  # fmt: skip


class _Words:
    """Words as tokens of one model, as they stand in running text; what is no token is remembered."""

    def __init__(self, model: GPT):
        self.model = model
        self.missing: list[str] = []

    def id(self, word: str) -> int:
        return token_id(self.model.config, self.model.tokenizer, f" {word}")

    def is_token(self, word: str) -> bool:
        try:
            self.id(word)
        except (BadPrompt, OutOfRange):  # in several pieces, or never predicted
            self.missing += [] if word in self.missing else [word]
            return False
        return True


def _sizes(name: str, n: int, texts: TaskTexts, missing: Sequence[str]) -> tuple[int, int]:
    """How many templates and sets of words make n prompts: as near to as many of both as can be."""
    most = (len(texts.templates), len(texts.word_sets))
    lacking = f"; not tokens of this model: {', '.join(missing[:8])}" + (", ..." if len(missing) > 8 else "")
    if min(most) < 2:
        has = f"{most[0]} templates and {most[1]} sets of words"
        raise BadPrompt(
            f"task {name!r}: of its sentences this model has {has} as tokens; 2 of each are needed{lacking}"
        )
    sizes = [(rows, columns) for rows in range(2, most[0] + 1) for columns in range(2, most[1] + 1)]
    sizes.sort(key=lambda size: (max(size) / min(size), -size[0]), reverse=True)  # of one product the squarest is last
    made = {rows * columns: (rows, columns) for rows, columns in sizes}
    if n not in made:
        near = min(made, key=lambda size: (abs(size - n), size))
        raise OutOfRange(
            f"n={n}: task {name!r} crosses 2 to {most[0]} templates with 2 to {most[1]} sets of words, at most "
            f"{max(made)} prompts; the nearest is {near}{lacking if missing and n > max(made) else ''}"
        )
    return made[n]


def _ids(model: GPT, prompts: Prompts, start: bool) -> tuple[Ids, ...]:
    return read_prompts(model.config, model.tokenizer, prompts, document_start=start).ids


def _shown(model: GPT, rows: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple("".join(str_tokens(model.tokenizer, row)) for row in rows)


def _manifest(model: GPT, name: str, n: int, seed: int, start: bool) -> dict[str, Any]:
    return {**provenance(model), "name": name, "n": n, "seed": seed, "document_start": start}
