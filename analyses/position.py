"""Where does a GPT hold the position of a token: in the residual stream, or in its queries and keys?

Two tiny models are trained here, since the default model has rotary positions and no other is at hand. The arithmetic
is in `_position.py`, the figure in `_position_figure.py`.
"""

import pandas
import torch.nn.functional as F
from _position import (
    BACK,
    BATCH,
    LENGTH,
    TINY_CONFIGS,
    Readability,
    random_prompts,
    readability,
    score_change,
    share_right,
    spread,
    train_tiny,
    without_position,
)
from _position_figure import place_name, position_lines
from _script import Answer, Say, document_start, main, origin, start_in_words

import probe
from probe.figures.page import PageSection, Table

QUESTION = "Where does a GPT hold the position of a token?"
TEXT = (
    "Once upon a time there was a small village at the foot of a mountain. The people who lived there kept sheep and "
    "grew apples, and in the long evenings of the winter they told one another stories about the old king, who had "
    "gone up the mountain one day to look for the source of the river and had never come back."
)
STEPS, QUICK_STEPS = 300, 20
FIT, TEST = 192, 64
"""Sequences of random tokens."""
QUICK_FIT, QUICK_TEST = 16, 8
DEFAULT_LENGTH = 64
WORDS = 12
"""Random tokens that are shifted."""
SHIFTS = (1, 10, 32, 100, 1000)


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Train two tiny models; take positions away; read them; and look at queries and scores."""
    document_start(model)  # checks that it reads text
    steps = QUICK_STEPS if quick else STEPS
    tiny = []
    for name in TINY_CONFIGS:
        say(f"training a tiny {name} model ({steps} steps)")
        tiny.append(train_tiny(name, steps))
    say("taking the positions away")
    needed, needed_table = _needed(tiny, model, steps)
    say("reading positions")
    n_fit, n_test = (QUICK_FIT, QUICK_TEST) if quick else (FIT, TEST)
    read = [readability(one, n_fit=n_fit, n_test=n_test, length=LENGTH) for one in tiny]
    read.append(readability(model, n_fit=n_fit, n_test=n_test, length=DEFAULT_LENGTH))
    say("comparing queries and scores")
    queries, queries_table = _queries([*tiny, model])
    return Answer(
        question=QUESTION,
        lead=[
            f"Two tiny models of {steps} training steps, one with learned position "
            f"vectors as in GPT-2, one with rotary positions; and {model.name}, {start_in_words(model)}. Position 0 is "
            "left out everywhere."
        ],
        sections=[needed, *(_read(one, n_fit, n_test) for one in read), queries],
        table=pandas.concat([needed_table, *map(_read_table, read), queries_table]),
        manifest=origin(model, steps=steps, batch=BATCH, back=BACK, fit=n_fit, test=n_test, text=TEXT, seed=0),
    )


def _needed(tiny: list[probe.GPT], model: probe.GPT, steps: int) -> tuple[PageSection, pandas.DataFrame]:
    """What becomes of each model without positions."""
    rows = []
    for one in tiny:
        tokens = random_prompts(one, 64, LENGTH, seed=4)
        for name, edits in (("whole", []), ("without positions", without_position(one, LENGTH))):
            logits = probe.record(one, tokens, sites=["embed"], interventions=edits).logits
            rows.append(
                {"model": one.name, "positions": name, "measure": "right", "value": share_right(logits, tokens)}
            )
    length = len(probe.record(model, TEXT, sites=["embed"], document_start=True, stop_after_layer=0).tokens[0])
    for name, edits in (("whole", []), ("without positions", without_position(model, length))):
        rows.append({"model": model.name, "positions": name, "measure": "nats", "value": _surprise(model, edits)})
    table = pandas.DataFrame(rows)
    lines = [
        (row.model, row.positions, f"{row.value:.1%} right" if row.measure == "right" else f"{row.value:.2f} nats")
        for row in table.itertuples()
    ]
    words = (
        f"The tiny models have learnt, in {steps} steps, to say the token that stood {BACK} places before (of "
        f"{TINY_CONFIGS['rotary'].d_vocab}: chance is {1 / TINY_CONFIGS['rotary'].d_vocab:.1%}, and more for who "
        f"knows which have been there); the other one’s mean "
        "surprise at a text is in nats per token. Without positions: the position vectors set to zero, or all queries "
        "and keys turned back to where position 0 has them."
    )
    section = PageSection(
        "What a model is without them", "ablation", [words], table=Table(("model", "positions", "result"), lines)
    )
    return section, table.assign(about="needed")


def _surprise(model: probe.GPT, edits: list[probe.Intervention]) -> float:
    """Mean nats per token of the text; the first is predicted from position 0 alone and left out."""
    rec = probe.record(model, TEXT, sites=["embed"], interventions=edits, document_start=True)
    assert rec.tokens is not None, "recorded from a text"
    return float(F.cross_entropy(rec.logits[0, 1:-1].float().cpu(), rec.tokens[0, 2:].long().cpu()))


def _read(read: Readability, n_fit: int, n_test: int) -> PageSection:
    """Every place of a small model, about ten of a large one."""
    step = max(1, len(read.places) // 10)
    shown = sorted({*range(0, len(read.places), step), 1, len(read.places) - 1})
    rows = [
        (place_name(read.places[at]), f"{read.r2[at]:.3f}", f"{read.shuffled_r2[at]:.3f}", f"{read.named[at]:.1%}")
        for at in shown
    ]
    words = (
        f"A linear readout of the position, fitted to {n_fit} sequences of random tokens, tested on {n_test} others: "
        "R² (1 is exact, 0 no better than the mean). Shuffled: fitted to positions in disorder. Named: with an output "
        "for each position, how often the right one is highest."
    )
    figures = [lambda theme: position_lines(read, theme=theme)]
    columns = ("read after", "R²", "shuffled", "named")
    return PageSection(
        f"Reading it: {read.model}", "linear probe", [words], figures=figures, table=Table(columns, rows)
    )


def _read_table(read: Readability) -> pandas.DataFrame:
    return pandas.DataFrame(
        {"model": read.model, "place": read.places, "r2": read.r2, "shuffled_r2": read.shuffled_r2, "named": read.named}
    ).assign(about="read")


def _queries(models: list[probe.GPT]) -> tuple[PageSection, pandas.DataFrame]:
    """Layer 0: queries of one token at many positions, and scores of the same tokens further back."""
    rows = []
    for model in models:
        rows += [{"model": model.name, "measure": name, "value": value} for name, value in _query_spread(model).items()]
        words = random_prompts(model, 1, WORDS + 1, seed=5)[0, 1:]
        for shift in SHIFTS:
            if 1 + shift + WORDS <= model.config.n_ctx:
                largest, deviation = score_change(model, words, shift)
                rows.append({"model": model.name, "measure": f"scores, {shift} later", "value": largest})
        rows.append({"model": model.name, "measure": "standard deviation of scores", "value": deviation})
    table = pandas.DataFrame(rows)
    lines = [(row.model, row.measure, f"{row.value:.2g}") for row in table.itertuples()]
    words = (
        "Of layer 0. Queries: the same token at all positions; the largest distance from the query at position 1, as a "
        f"share of its length. Scores: {WORDS} random tokens, and the same ones some places later; the largest change "
        "of the score of a query with a key, over all pairs and heads, beside the standard deviation of the scores."
    )
    columns = ("model", "measured", "value")
    section = PageSection("Where the rotary ones have it", "rotary positions", [words], table=Table(columns, lines))
    return section, table.assign(about="queries")


def _query_spread(model: probe.GPT) -> dict[str, float]:
    tokens = random_prompts(model, 1, LENGTH, seed=6)
    tokens[:, 1:] = tokens[0, 1]
    sites = ["q", "rot_q"] if model.config.positions == "rotary" else ["q"]
    rec = probe.record(model, tokens, sites=sites, layers=[0], stop_after_layer=0)
    return {f"queries ({site})": spread(rec[site, 0][0, 1:].cpu()) for site in sites}


if __name__ == "__main__":
    main(QUESTION, ask)
