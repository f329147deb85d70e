"""What ablation and patching are asked: prompts, a metric and groups; one by one, or as a task that brings them all."""

from collections.abc import Mapping
from dataclasses import dataclass

from probe.arguments import brief, several
from probe.errors import BadPrompt, OutOfRange, UnknownName, WrongType, as_integer
from probe.gpt import GPT
from probe.metrics import AnyMetric, Metric, as_metric
from probe.prompts import PromptBatch, Prompts, read_prompts
from probe.statistics import Groups
from probe.tasks import Task, check_tokens


@dataclass(frozen=True)
class Asked:
    """What a call is about, read and checked."""

    batch: PromptBatch
    corrupted: PromptBatch | None
    """The partner of each prompt, where a task or the caller gave them."""
    metric: Metric
    groups: dict[str, list[int]]
    """Which prompts hang together, by kind; by default each is a group of its own."""


def read_asked(
    model: GPT, prompts: Prompts | Task, corrupted: Prompts | None = None, *, metric: AnyMetric | None,
    groups: Groups | None, document_start: bool,
) -> Asked:  # fmt: skip
    """What a task does not bring has to be given; what is given comes before what the task brings.

    Raises:
        UnknownName: no metric.
        DifferentModel: a task in tokens of another model.
        BadPrompt: a task, and partners or a document start beside it.
        WrongType: groups that are no dictionary of integers.
        OutOfRange: groups of another number of prompts.
        Others as `read_prompts`.
    """
    if isinstance(prompts, Task):
        check_tokens(model, prompts)
        if corrupted is not None or document_start:
            given = "corrupted prompts" if corrupted is not None else "document_start"
            raise BadPrompt(
                f"task {prompts.name!r} brings its own prompts, partners and document start: leave {given} out, and "
                "name what comes after (sites=, receiver=)"
            )
        metric = prompts.metric if metric is None else metric
        groups = prompts.groups if groups is None else groups
        prompts, corrupted = prompts.prompts, prompts.corrupted
    if metric is None:
        raise UnknownName("no metric: give one, such as metric=probe.logit_difference(' Mary', ' John'), or a task "
                          "instead of prompts, which brings its own")  # fmt: skip
    batch = read_prompts(model.config, model.tokenizer, prompts, document_start=document_start)
    partners = None
    if corrupted is not None:
        partners = read_prompts(model.config, model.tokenizer, corrupted, document_start=document_start)
    alone = {"prompt": range(len(batch.ids))}
    of_call = _read_groups(alone if groups is None else groups) or _read_groups(alone)
    for kind, members in of_call.items():
        if len(members) != len(batch.ids):
            raise OutOfRange(f"groups[{kind!r}]: {len(members)} numbers for {len(batch.ids)} prompts")
    return Asked(batch, partners, as_metric(metric), of_call)


def _read_groups(groups: Groups) -> dict[str, list[int]]:
    if not isinstance(groups, Mapping):
        raise WrongType(f"groups {brief(groups)}: expected numbers by kind, such as {{'template': [0, 0, 1]}}, or None")
    found = {kind: [as_integer(one) for one in several(f"groups[{kind!r}]", of)] for kind, of in groups.items()}
    for kind, members in found.items():
        if not isinstance(kind, str) or None in members:
            raise WrongType(f"groups[{kind!r}] {brief(groups[kind])}: expected the integer of each prompt's group")
    return {kind: [one for one in members if one is not None] for kind, members in found.items()}


def groups_of(groups: Groups, reached: list[bool]) -> Groups:
    """The groups of the prompts that were reached."""
    return {
        kind: [one for one, is_in in zip(members, reached, strict=True) if is_in] for kind, members in groups.items()
    }


def has_several(groups: Groups) -> bool:
    """Whether there is anything that an interval could be made of."""
    return any(len(set(members)) > 1 for members in groups.values())
