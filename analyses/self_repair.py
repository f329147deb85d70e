"""Is there self-repair? Where the rest makes up for a head, its total effect is smaller than its direct one."""

import pandas
import torch
from _script import Answer, Say, main, origin, start_in_words

import probe
from probe.figures.ablation import total_against_direct
from probe.figures.page import PageSection, Table
from probe.statistics import grid_evidence

QUESTION = "Is there self-repair?"
TASKS = ("indirect object", "capital")
N_PROMPTS, QUICK = 50, 4
NAMED = 12


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Total and direct effect of every head, on two tasks."""
    n = QUICK if quick else N_PROMPTS
    sweeps = {}
    for name in TASKS:
        say(f"{name}: taking out heads, one at a time")
        sweeps[name] = probe.ablation_sweep(model, probe.load_task(model, name, n), progress=False)
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {n} prompts of each task, {start_in_words(model)}; heads are replaced by their mean "
            "over the other prompts. Direct: the head's own path to the logits, everything else as it was. "
            "Total: what really happens. Total minus direct is indirect: later parts that used what the head "
            "wrote, or made up for it. Only where it opposes the direct effect is it self-repair."
        ],
        sections=[_of_task(name, sweep) for name, sweep in sweeps.items()],
        table=pandas.concat([
            sweep.to_dataframe().assign(task=name, repaired=sweep.self_repair().tolist())
            for name, sweep in sweeps.items()
        ]),
        manifest=origin(model, tasks=TASKS, n=n, value="mean", seed=0),
    )  # fmt: skip


def _of_task(name: str, sweep: probe.AblationSweep) -> PageSection:
    indirect = grid_evidence(
        sweep.indirect, sweep.groups, signed=sweep.signed, smallest_effect=sweep.smallest_effect, seed=sweep.seed
    )
    total, direct = sweep.effects.mean(1), sweep.direct.mean(1)
    writes = direct.abs() >= sweep.smallest_effect
    opposes = indirect.marked & (indirect.mean * direct < 0) & writes
    share = sweep.self_repair()
    order = torch.maximum(direct.abs(), total.abs()).argsort(descending=True, stable=True)[:NAMED].tolist()
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
        f"Clean difference {float(sweep.clean.mean()):.2f} logits. {int(writes.sum())} of {len(total)} heads "
        f"write at least {sweep.smallest_effect:.2f} logits directly; of these {len(repaired)} are partly made "
        "up for (indirect effect against the direct one, marked over the grid): "
        f"{', '.join(repaired) or 'none'}{middle}. {only_through_others} heads matter only through later parts."
    )
    return PageSection(
        name[0].upper() + name[1:], "total, direct, indirect effect", [words],
        figures=[lambda theme: total_against_direct(sweep, theme=theme)],
        table=Table(("head", "total", "direct", "indirect (interval)", "made up for"), rows),
    )  # fmt: skip


if __name__ == "__main__":
    main(QUESTION, ask)
