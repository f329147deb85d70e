"""How well a model does a task, and what its corrupted partners leave of it: to be seen before anything is ablated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.arguments import checked
from probe.distributions import ranks_of
from probe.gpt import GPT
from probe.prompts import str_tokens
from probe.provenance import provenance
from probe.recording import record
from probe.results import Result
from probe.shown import Summary, count
from probe.statistics import Estimate, grid_evidence, widened
from probe.tasks import Task, check_tokens

if TYPE_CHECKING:
    import pandas

_AT_ONCE = 64
"""Prompts in a pass: their logits of the whole vocabulary are kept for a moment."""


@dataclass(frozen=True, eq=False)
class TaskScore(Result):
    """What a model makes of every prompt of a task and of its corrupted partner.

    Differences are the target's logit minus that of the token it is compared with. Intervals (95 %) resample the task's
    groups, templates and sets of words, not single prompts.
    """

    task: Task
    difference: Float[Tensor, " prompt"]
    """Logit of the target minus that of the other token, after each prompt (logits); above 0 it is solved."""
    corrupted_difference: Float[Tensor, " prompt"]
    """That difference after the corrupted partner (logits). Below 0 where it says the opposite (the partner is solved,
    as a prompt of its own), near 0 where it says nothing."""
    place: Int[Tensor, " prompt"]
    """Rank of the target among all tokens: 1 where it is the single likeliest token. Unlike elsewhere, ties share the
    worse place: what says the same of every token knows nothing, and is not to count as right."""
    share_solved: Estimate
    corrupted_share_solved: Estimate
    """The share of partners whose difference is above 0 all the same."""
    share_likeliest: Estimate
    """The share of prompts whose target is the single likeliest token of the whole vocabulary."""
    mean_difference: Estimate
    """Mean of `difference` (logits)."""
    corrupted_mean_difference: Estimate
    """Mean of `corrupted_difference` (logits)."""
    tokens: tuple[tuple[str, str], ...]
    """Target and other token of each prompt, as text."""
    manifest: Mapping[str, Any]

    @property
    def solved(self) -> Bool[Tensor, " prompt"]:
        """Which prompts are solved."""
        return self.difference > 0

    def by_kind(self) -> dict[str, tuple[float, int]]:
        """For every kind of prompt: the share solved, and how many prompts there are."""
        members = {kind: [one == kind for one in self.task.kinds] for kind in sorted({*self.task.kinds})}
        return {kind: (float(self.solved[torch.tensor(of)].float().mean()), sum(of)) for kind, of in members.items()}

    def summary(self) -> Summary:
        """The shares; `print` says more."""
        return Summary(
            f"{self.task.name}, {count(len(self.task), 'prompt')}",
            {"solved": self.share_solved, "target likeliest of all": self.share_likeliest,
             "logit difference": self.mean_difference},
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per prompt."""
        import pandas  # half a second that only tables need

        return pandas.DataFrame(
            {
                "prompt": self.task.texts, "corrupted": self.task.corrupted_texts, "kind": self.task.kinds,
                **{kind: list(numbers) for kind, numbers in self.task.groups.items() if kind != "prompt"},
                "target": [target for target, _ in self.tokens], "against": [other for _, other in self.tokens],
                "difference": self.difference.tolist(), "corrupted_difference": self.corrupted_difference.tolist(),
                "solved": self.solved.tolist(), "place": self.place.tolist(),
            }
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.task.name}: of {len(self.task)} prompts {self.share_solved} solved, "
            f"by {self.mean_difference} logits; "
            f"of the corrupted ones {self.corrupted_share_solved}, by {self.corrupted_mean_difference}; "
            f"target likeliest of all tokens in {self.share_likeliest}"
        )


@checked
def solve_task(model: GPT, task: Task, *, seed: int = 0) -> TaskScore:
    """Run every prompt of a task and its corrupted partner: which does the model solve, and by how much?

    `model` may be another than the task was loaded for, as long as it cuts the prompts into the same tokens (an
    untrained twin, a checkpoint). `seed` is that of the intervals.

    Raises:
        DifferentModel: a model that cuts the prompts into other tokens.
        ProbeError: prompts that the model cannot run (see `probe.record`).
    """
    check_tokens(model, task)
    targets, against = torch.tensor(task.targets), torch.tensor(task.against)
    difference, place = _measure(model, task.prompts, targets, against)
    corrupted, _ = _measure(model, task.corrupted, targets, against)
    shares = [_estimate(values, task, seed, share=True) for values in (difference > 0, corrupted > 0, place == 1)]
    means = [_estimate(values, task, seed) for values in (difference, corrupted)]
    return TaskScore(
        task, difference, corrupted, place, *shares, *means,
        tokens=tuple(
            (target, other) for target, other in zip(
                str_tokens(model.tokenizer, task.targets), str_tokens(model.tokenizer, task.against), strict=True
            )
        ),
        manifest={
            **provenance(model), "method": "solve task", "task": dict(task.manifest),
            "prompts": [list(ids) for ids in task.prompts], "corrupted": [list(ids) for ids in task.corrupted],
            "targets": list(task.targets), "against": list(task.against), "method_arguments": {"seed": seed},
        },
    )  # fmt: skip


def _measure(
    model: GPT, prompts: tuple[tuple[int, ...], ...], targets: Int[Tensor, " prompt"], against: Int[Tensor, " prompt"]
) -> tuple[Float[Tensor, " prompt"], Int[Tensor, " prompt"]]:
    """Logit differences and places in the vocabulary, after each prompt's last token."""
    differences, places = [], []
    for start in range(0, len(prompts), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        logits = record(model, prompts[rows], sites=[], positions=-1).logits[:, -1].float().cpu()
        own, other = (logits.gather(-1, tokens[rows, None])[:, 0] for tokens in (targets, against))
        differences.append(own - other)
        places.append(ranks_of(logits, own[:, None], ties="worse")[:, 0])
    return torch.cat(differences), torch.cat(places)


def _estimate(values: Tensor, task: Task, seed: int, *, share: bool = False) -> Estimate:
    """Mean and interval."""
    of_all = grid_evidence(values.double()[None], task.groups, signed=False, smallest_effect=0.0, seed=seed)
    found = Estimate(float(of_all.mean), float(of_all.low), float(of_all.high))
    return widened(found, len(task)) if share else found
