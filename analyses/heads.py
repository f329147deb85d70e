"""Which heads are induction, previous-token, duplicate-token and first-token heads, and who feeds whom?"""

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words

import probe
from probe.figures.heads import copying_map, head_score_map
from probe.figures.page import PageSection, Table
from probe.methods.circuits import CompositionScores, CopyingScores
from probe.methods.heads import SCORES, HeadScores
from probe.weights import untrained_twin

QUESTION = "What does every attention head do?"
TEXTS = [
    "When Mary and John went to the store, John gave a drink to Mary. Then Mary thanked John, and John smiled.",
    "The old clock in the hall had stopped at noon, and nobody in the house knew how to make the old clock go again.",
    "To make bread, mix flour, water and yeast; to make cake, mix flour, sugar and eggs; to make soup, use the rest.",
    "Dr. Amelia Thornbury met the mayor. The mayor asked Dr. Amelia Thornbury whether she would stay.",
]
N_RANDOM, QUICK = 16, 2
"""Random prompts."""
MARKED = 0.4
"""A head is called an induction head, and so on, from this share of its attention on."""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Scores on random tokens and on texts, then copying and composition by weights."""
    start = document_start(model)
    say("scoring every head")
    n_random = QUICK if quick else N_RANDOM
    scores = probe.head_scores(model, TEXTS[: 1 if quick else None], document_start=start, n_random=n_random)
    say("untrained twin")
    twin = probe.head_scores(untrained_twin(model), n_random=n_random)
    say("circuits")
    copying, composition = probe.copying_scores(model), probe.composition_scores(model, into="k")
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {start_in_words(model)}: {n_random} prompts of 48 random tokens, each repeated once, and "
            f"{int(scores.n_prompts[0])} texts. A kind is marked from {MARKED:.0%} of the attention on; the untrained "
            "twin (same shape, random weights) shows what chance gives."
        ],
        sections=[_kinds(scores, twin), _agreement(scores), _circuit(scores, composition, copying)],
        table=pandas.concat([
            scores.to_dataframe().assign(about="scores"), twin.to_dataframe().assign(about="untrained"),
            copying.to_dataframe().assign(about="copying"), composition.to_dataframe().assign(about="composition"),
        ]),
        manifest=origin(model, texts=TEXTS, n_random=n_random, seed=0),
    )  # fmt: skip


def _kinds(scores: HeadScores, twin: HeadScores) -> PageSection:
    rows = []
    for score in SCORES[:4]:
        table = scores.of(score, "random")
        best = scores.top(score, 6, source="random")
        errors = scores.standard_error[scores.sources.index("random"), SCORES.index(score)]
        named = ", ".join(
            f"{layer}.{head} {value:.2f} ± {float(errors[layer, head]):.2f}" for layer, head, value in best
        )
        largest = float(twin.of(score).max())
        rows.append((
            score, f"{int((table >= MARKED).sum())} of {table.numel()}", named,
            f"{scores.chance_of(score, 'random'):.3f}", f"{largest:.3f}",
        ))  # fmt: skip
    words = (
        "On repeated random tokens, where nothing but the repetition can be used: how many heads have the kind, the "
        "highest (layer.head, mean share of attention ± standard error over prompts), what even attention would get, "
        "and the highest head of the untrained twin."
    )
    return PageSection(
        "Kinds of heads", "head scores", [words],
        figures=[lambda theme, score=score: head_score_map(scores, score, source="random", theme=theme)
                 for score in SCORES],
        table=Table(("kind", "heads", "highest", "even", "untrained"), rows),
    )  # fmt: skip


def _agreement(scores: HeadScores) -> PageSection:
    """Do random tokens and real text name the same heads?"""
    rows = []
    for score in SCORES[:4]:
        random, text = scores.of(score, "random").flatten(), scores.of(score, "text").flatten()
        correlation = float(torch.corrcoef(torch.stack([random, text]))[0, 1])
        both = {one[:2] for one in scores.top(score, 10, source="random")} & {
            one[:2] for one in scores.top(score, 10, source="text")
        }
        highest = ", ".join(f"{layer}.{head} {value:.2f}" for layer, head, value in scores.top(score, 4, source="text"))
        rows.append((score, f"{correlation:.2f}", f"{len(both)} of 10", highest))
    words = "The same scores on the texts: correlation over all heads, how many of the ten highest are the same."
    columns = ("kind", "correlation", "same of the highest", "highest on text")
    return PageSection("Random tokens and text", "agreement", [words], table=Table(columns, rows))


def _circuit(scores: HeadScores, composition: CompositionScores, copying: CopyingScores) -> PageSection:
    """Which earlier heads feed the keys of the induction heads?"""
    rows = []
    for layer, head, value in scores.top("induction", 5, source="random"):
        into = composition.values[:, :, layer, head].nan_to_num()
        sources = into.flatten().argsort(descending=True)[:3].tolist()
        n_heads = into.shape[1]
        fed = ", ".join(f"{s // n_heads}.{s % n_heads} {float(into.flatten()[s]):.3f}" for s in sources)
        previous = scores.top("previous token", 1, source="random")[0]
        from_previous = float(into[previous[0], previous[1]])
        rank = int((into > from_previous).sum()) + 1
        rows.append((
            f"{layer}.{head}", f"{value:.2f}", f"{float(copying.values[layer, head]):+.2f}", fed,
            f"{from_previous:.3f} (rank {rank})",
        ))  # fmt: skip
    layer, head, _ = scores.top("previous token", 1, source="random")[0]
    words = (
        "An induction head finds what came after an earlier occurrence, so its keys must hold the token before: an "
        "earlier previous-token head should feed them. K-composition by weights alone (norm gains folded in, offset "
        f"0), the three strongest sources of each induction head, and what {layer}.{head}, the strongest "
        f"previous-token head, has; unrelated heads: {composition.chance:.3f}. And whether it copies what it reads (-1 "
        "to 1)."
    )
    columns = ("induction head", "score", "copies", "keys fed most by", f"fed by {layer}.{head}")
    return PageSection(
        "The induction circuit", "K-composition", [words],
        figures=[lambda theme: copying_map(copying, theme=theme)], table=Table(columns, rows),
    )  # fmt: skip


if __name__ == "__main__":
    main(QUESTION, ask)
