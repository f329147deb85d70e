"""Do zero, mean and resample ablation agree on which heads matter? What stands in a head's place is a choice."""

import itertools

import pandas
from _script import Answer, Say, main, origin, start_in_words

import probe
from probe.figures.ablation import agreement_plot
from probe.figures.page import PageSection, Table
from probe.methods.agreement import Agreement

QUESTION = "Do zero, mean and resample ablation agree?"
N_PROMPTS, QUICK, N_DRAWS = 50, 4, 2
VALUES = ("zero", "mean", "resample")


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Every head of every prompt of one task, once for each value, and the values compared pair by pair."""
    n = QUICK if quick else N_PROMPTS
    task = probe.load_task(model, "indirect object", n)
    sweeps = {}
    for value in VALUES:
        say(f"taking out heads, one at a time: {value}")
        sweeps[value] = probe.ablation_sweep(model, task, value=value, n_draws=N_DRAWS, progress=False)
    pairs = {
        (one, other): probe.agreement(sweeps[one], sweeps[other]) for one, other in itertools.combinations(VALUES, 2)
    }
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {n} prompts of the task “{task.name}”, {start_in_words(model)}; every head is "
            "replaced at all positions but 0, by zero, by its mean over the other prompts, or by what "
            f"{N_DRAWS} random other prompts have at the same position. Effects on the logit difference, means "
            "over prompts, in logits."
        ],
        sections=[_effects(sweeps), _pairs(pairs)],
        table=pandas.concat(
            [sweep.to_dataframe().assign(value=value) for value, sweep in sweeps.items()]
            + [pandas.DataFrame([_row(found) | {"value": f"{one}, {other}"} for (one, other), found in pairs.items()])]
        ),
        manifest=origin(model, task=task.name, n=n, values=VALUES, n_draws=N_DRAWS, seed=0),
    )


def _row(found: Agreement) -> dict[str, float]:
    return {
        "pearson": found.pearson, "n_above": int(found.above.sum()), "spearman": found.spearman,
        "shared_of_10": len(found.shared),
    }  # fmt: skip


def _effects(sweeps: dict[str, probe.AblationSweep]) -> PageSection:
    mean = sweeps["mean"]
    rows = [
        (name, *(f"{sweep.effect(name):+.2f}" for sweep in sweeps.values())) for name, _ in mean.top(12)
    ]  # fmt: skip
    of_all = [float(sweep.effects.mean(1).sum()) for sweep in sweeps.values()]
    rows.append(("all heads, added up", *(f"{value:+.2f}" for value in of_all)))
    marked = [int(sweep.evidence.marked.sum()) for sweep in sweeps.values()]
    rows.append(("heads marked", *map(str, marked)))
    words = "The heads with the largest effect by mean ablation, and what the others say of them."
    remark = (
        "Spread over the draws of resampling, mean over heads and prompts: "
        f"{float(sweeps['resample'].spread.mean()):.3f} logits."
    )
    return PageSection("Effects of heads", "ablation", [words], table=Table(("head", *sweeps), rows), remarks=[remark])


def _pairs(pairs: dict[tuple[str, str], Agreement]) -> PageSection:
    rows = [
        (one, other, f"{found.pearson:.2f} ({int(found.above.sum())} heads)", f"{found.spearman:.2f}",
         f"{len(found.shared)} of {found.k}")
        for (one, other), found in pairs.items()
    ]  # fmt: skip
    words = (
        "Linear correlation over the heads with an effect above 2 % of the clean difference in either; rank "
        "correlation over all heads, most of which do next to nothing; heads among the ten largest of both."
    )
    return PageSection(
        "Agreement", "correlation", [words],
        figures=[lambda theme, found=found: agreement_plot(found, theme=theme) for found in pairs.values()],
        table=Table(("value", "value", "correlation", "rank correlation", "shared"), rows),
    )  # fmt: skip


if __name__ == "__main__":
    main(QUESTION, ask)
