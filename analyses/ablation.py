"""Which heads and MLPs does the model need for each task, and does the rest make up for them where they are gone?"""

from collections.abc import Sequence

import pandas
import torch
from _script import Answer, Say, main, origin, start_in_words

import probe
from probe.figures.ablation import ablation_bars, ablation_map, total_against_direct
from probe.figures.page import PageSection, Table
from probe.statistics import MARKED, grid_evidence
from probe.tasks import Task
from probe.weights import untrained_twin

QUESTION = "Which heads does each task need, and is there self-repair?"
N_PROMPTS, QUICK = 49, 4
NAMED, CLOSER = 6, 12
"""Units named in the tables."""
KINDS = ("heads", "MLPs")
REPAIR = ("indirect object", "capital")
"""Tasks whose heads are looked at closer."""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Two sweeps for each task; for the first task also the untrained twin."""
    n = QUICK if quick else N_PROMPTS
    tasks = [probe.load_task(model, name, n) for name in probe.task_names()[: 2 if quick else None]]
    sweeps = {}
    for task in tasks:
        for kind in KINDS:
            say(f"{task.name}: taking out {kind}, one at a time")
            sweeps[task.name, kind] = probe.ablation_sweep(model, task, units=kind, progress=False)
    say("untrained twin")
    twin = probe.ablation_sweep(untrained_twin(model), tasks[0], progress=False)
    first = sweeps[tasks[0].name, "heads"]
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {n} prompts of each task, {start_in_words(model)}. The metric is the logit of the "
            "right next token minus that of the wrong one; each head or MLP in turn is replaced, everywhere "
            "but at position 0, by its mean over the other prompts of the task. Effects are means over "
            f"prompts; intervals (95 %) resample templates and sets of words. {MARKED[0].upper()}{MARKED[1:]} "
            "(2 % of the clean difference)."
        ],
        sections=[
            _summary(tasks, sweeps), *(_largest(kind, tasks, sweeps) for kind in KINDS), _shared(tasks, sweeps),
            *(_repair(task.name, sweeps[task.name, "heads"]) for task in tasks if task.name in REPAIR),
            _twin(tasks[0], first, twin),
        ],
        table=pandas.concat(
            [
                sweep.to_dataframe().assign(task=task, units=kind, repaired=sweep.self_repair().tolist())
                for (task, kind), sweep in sweeps.items()
            ]
            + [twin.to_dataframe().assign(task=tasks[0].name, units="heads of the untrained twin")]
        ),
        manifest=origin(model, tasks=[task.name for task in tasks], n=n, value="mean", seed=0),
    )  # fmt: skip


Sweeps = dict[tuple[str, str], probe.AblationSweep]


def _summary(tasks: Sequence[Task], sweeps: Sweeps) -> PageSection:
    rows = []
    for task in tasks:
        heads, mlps = (sweeps[task.name, kind] for kind in KINDS)
        rows.append((
            task.name, f"{float(heads.clean.mean()):.2f}",
            *(f"{int(sweep.evidence.marked.sum())} of {len(sweep.units)}" for sweep in (heads, mlps)),
            f"{heads.evidence.smallest_p:.4f}",
        ))  # fmt: skip
    words = "How many matter, by the rule above, and the clean logit difference."
    return PageSection(
        "How many are needed", "marked units", [words],
        table=Table(("task", "clean", "heads", "MLPs", "smallest p"), rows),
    )  # fmt: skip


def _largest(kind: str, tasks: Sequence[Task], sweeps: Sweeps) -> PageSection:
    rows = [
        (task.name, ", ".join(with_interval(sweeps[task.name, kind])[:NAMED]))
        for task in tasks
    ]  # fmt: skip
    words = "Effect of taking it out on the logit difference, with its interval; the marked ones, the largest first."
    swept = [sweeps[task.name, kind] for task in tasks]
    figures = [lambda theme, one=one: ablation_map(one, theme=theme) for one in swept] if kind == "heads" else []
    figures += [lambda theme, one=one: ablation_bars(one, theme=theme) for one in swept]
    return PageSection(
        f"The {kind} that matter most", "total effect", [words], figures=figures,
        table=Table(("task", f"{kind} and effects (logits)"), rows),
    )  # fmt: skip


def with_interval(sweep: probe.AblationSweep) -> list[str]:
    """The marked units, the largest first: '23.3 -2.24 (-2.60 to -1.91)'."""
    found = sweep.evidence
    order = found.mean.abs().argsort(descending=True, stable=True).tolist()
    return [
        f"{sweep.units[place].name} {float(found.mean[place]):+.2f} "
        f"({float(found.low[place]):+.2f} to {float(found.high[place]):+.2f})"
        for place in order
        if found.marked[place]
    ]


def _shared(tasks: Sequence[Task], sweeps: Sweeps) -> PageSection:
    """Do the tasks need the same heads?"""
    rows = []
    for number, first in enumerate(tasks):
        for second in tasks[number + 1 :]:
            found = probe.agreement(sweeps[first.name, "heads"], sweeps[second.name, "heads"])
            names = ", ".join(found.shared) or "none"
            rows.append((first.name, second.name, f"{found.pearson:+.2f}", f"{len(found.shared)} of 10: {names}"))
    words = (
        "Correlation of the effects of heads between tasks, over the heads above the smallest effect in "
        "either, and the heads among the ten largest of both."
    )
    return PageSection(
        "Do tasks share heads?", "agreement", [words], table=Table(("task", "task", "correlation", "shared"), rows)
    )


def _repair(name: str, sweep: probe.AblationSweep) -> PageSection:
    """Where the rest of the model makes up for a head, its total effect is smaller than its direct one."""
    indirect = grid_evidence(
        sweep.indirect, sweep.groups, signed=sweep.signed, smallest_effect=sweep.smallest_effect, seed=sweep.seed
    )
    total, direct = sweep.effects.mean(1), sweep.direct.mean(1)
    writes = direct.abs() >= sweep.smallest_effect
    opposes = indirect.marked & (indirect.mean * direct < 0) & writes
    share = sweep.self_repair()
    order = torch.maximum(direct.abs(), total.abs()).argsort(descending=True, stable=True)[:CLOSER].tolist()
    rows = [
        (sweep.units[place].name, f"{float(total[place]):+.2f}", f"{float(direct[place]):+.2f}",
         f"{float(indirect.mean[place]):+.2f} ({float(indirect.low[place]):+.2f} to "
         f"{float(indirect.high[place]):+.2f})",
         f"{float(share[place]):.0%}" if opposes[place] else "")
        for place in order
    ]  # fmt: skip
    only_through_others = int((indirect.marked & ~writes).sum())
    repaired = [sweep.units[place].name for place in range(len(total)) if opposes[place]]
    among = share[opposes]
    middle = f"; the middle one of their shares is {float(among.median()):.0%}" if len(among) else ""
    words = (
        "Direct: the head's own path to the logits, everything else as it was. Total: what really happens. "
        "Total minus direct is indirect: later parts that used what the head wrote, or made up for it; only "
        f"where it opposes the direct effect is it self-repair. {int(writes.sum())} of {len(total)} heads write "
        f"at least {sweep.smallest_effect:.2f} logits directly; of these {len(repaired)} are partly made up for "
        "(indirect effect against the direct one, marked over the grid): "
        f"{', '.join(repaired) or 'none'}{middle}. {only_through_others} heads matter only through later parts."
    )
    return PageSection(
        f"Is there self-repair? The task “{name}”", "total, direct, indirect effect", [words],
        figures=[lambda theme: total_against_direct(sweep, theme=theme)],
        table=Table(("head", "total", "direct", "indirect (interval)", "made up for"), rows),
    )  # fmt: skip


def _twin(task: Task, trained: probe.AblationSweep, twin: probe.AblationSweep) -> PageSection:
    largest = [float(sweep.effects.mean(1).abs().max()) for sweep in (trained, twin)]
    words = (
        f"The same sweep of the task “{task.name}” on a model of the same shape with random weights: its clean "
        f"difference is {float(twin.clean.mean()):+.3f} logits, the largest effect of a head {largest[1]:.3f} "
        f"(trained: {largest[0]:.2f}), and {int(twin.evidence.marked.sum())} of {len(twin.units)} heads are "
        "marked."
    )
    return PageSection("The untrained twin", "control", [words])


if __name__ == "__main__":
    main(QUESTION, ask)
