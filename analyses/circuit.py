"""A circuit for the indirect object: which heads make it, and what is it worth against random ones?"""

import pandas
from _script import Answer, Say, main, origin, start_in_words
from jaxtyping import Float
from torch import Tensor

import probe
from probe.figures.page import PageSection, Table
from probe.metrics import Metric
from probe.tasks import Task

QUESTION = "Which heads make the indirect object, and what is such a circuit worth?"
N_PROMPTS, QUICK = 50, 8
N_HEADS = 6
SIZES = (4, 8, 16, 32, 64)
N_RANDOM = 20


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """A search step by step; then circuits of the heads with the largest effects, scored on other prompts."""
    n = QUICK if quick else N_PROMPTS
    task = probe.load_task(model, "indirect object", n)
    say("searching for heads that matter together")
    search = probe.search_heads(
        model, task, n_heads=2 if quick else N_HEADS, candidates=4 if quick else 24, n_random=4 if quick else N_RANDOM,
        progress=False,
    )  # fmt: skip
    say("ranking heads on the prompts that chose")
    ranked = ranking(model, task, search.chosen_on)
    others = [row for row in range(n) if row not in search.chosen_on]
    prompts, metric, groups = rows_of(task, others)
    scores = []
    for size in SIZES[: 1 if quick else None]:
        say(f"scoring circuits of {size} heads")
        scores.append(probe.score_circuit(
            model, prompts, ranked[:size], metric=metric, groups=groups, n_random=4 if quick else N_RANDOM,
            progress=False,
        ))  # fmt: skip
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {n} prompts of the task “{task.name}”, {start_in_words(model)}: "
            f"{len(search.chosen_on)} prompts (whole templates) choose heads, the other {len(others)} measure "
            "what they are worth. What is left out is replaced by its mean over the other prompts, everywhere "
            "but at position 0; MLPs always run."
        ],
        sections=[_search(search), _scores(scores, ranked)],
        table=pandas.concat([
            search.to_dataframe().assign(about="search"),
            *(score.to_dataframe().assign(about=f"circuit of {len(score.circuit)}") for score in scores),
        ]),
        manifest=origin(model, task=task.name, n=n, n_heads=N_HEADS, sizes=SIZES, n_random=N_RANDOM, seed=0),
    )  # fmt: skip


def rows_of(task: Task, rows: list[int]) -> tuple[list[list[int]], Metric, dict[str, list[int]]]:
    """Prompts, metric and groups of a part of a task."""
    metric = probe.logit_difference([task.targets[row] for row in rows], [task.against[row] for row in rows])
    groups = {kind: [members[row] for row in rows] for kind, members in task.groups.items()}
    return [list(task.prompts[row]) for row in rows], metric, groups


def ranking(model: probe.GPT, task: Task, rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """All heads, the one first whose loss costs most of the logit difference on these prompts."""
    prompts, metric, groups = rows_of(task, list(rows))
    sweep = probe.ablation_sweep(model, prompts, metric=metric, groups=groups, progress=False)
    table = sweep.to_dataframe().sort_values("effect", kind="stable")
    return [(int(layer), int(head)) for layer, head in zip(table["layer"], table["index"], strict=True)]


def _search(search: probe.HeadSearch) -> PageSection:
    rows = [
        (" + ".join(f"{layer}.{head}" for layer, head in step.added), f"{step.effect:+.2f} ({step.low:+.2f} to "
         f"{step.high:+.2f})", f"{step.sum_of_each:+.2f}", f"{step.chosen_for:+.2f}",
         f"{float(step.random.mean()):+.2f}", f"{step.p:.3f}")
        for step in search.steps
    ]  # fmt: skip
    words = (
        "Heads taken out one after the other, each the one that adds most to those before; the clean "
        f"difference is {search.clean:.2f} logits. On the prompts that had no say: the effect of all that are "
        "out by then, what they do one at a time, added up, and random sets of as many heads. "
        f"{search.stopped[0].upper()}{search.stopped[1:]}."
    )
    columns = ("added", "effect (interval)", "each alone, added up", "where chosen", "random sets", "p")
    return PageSection("Taken out together", "greedy search", [words], table=Table(columns, rows))


def _scores(scores: list[probe.CircuitScore], ranked: list[tuple[int, int]]) -> PageSection:
    rows = [
        (str(len(score.circuit)), str(score.faithfulness), _range(score.random_faithfulness),
         f"{score.p_faithfulness:.3f}", str(score.completeness), _range(score.random_completeness),
         f"{score.p_completeness:.3f}")
        for score in scores
    ]  # fmt: skip
    one = scores[0]
    words = (
        "The heads whose loss costs most, so many of them, kept alone (all others replaced) and taken out. "
        "Faithfulness: (alone - none) / (full - none). Completeness: (full - without) / (full - none). The "
        f"logit difference is {float(one.full.mean()):.2f} with all heads and {float(one.none.mean()):.2f} with "
        f"none. Random: lowest to highest of {len(one.random_alone)} circuits of as many heads."
    )
    names = ", ".join(f"{layer}.{head}" for layer, head in ranked[:16])
    columns = ("heads", "faithfulness", "random", "p", "completeness", "random", "p")
    return PageSection(
        "What circuits are worth", "faithfulness and completeness", [words], table=Table(columns, rows),
        remarks=[f"The first sixteen: {names}."],
    )  # fmt: skip


def _range(values: Float[Tensor, " draw"]) -> str:
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"


if __name__ == "__main__":
    main(QUESTION, ask)
