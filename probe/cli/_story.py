"""A tour in plain words: the same sections for the terminal and for the page. Every number comes from the tour."""

import math
import shlex
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from probe.cli._sizes import kinds_kept
from probe.cli._tour import PROMPT, Tour
from probe.config import GPTConfig
from probe.figures.attention import attention_heatmap
from probe.figures.distribution import next_token_bars
from probe.figures.lens import lens_heatmap, lens_lines, place_label
from probe.figures.page import Chip, PageSection, Table
from probe.methods.attention import HeadFocus, HeadLook
from probe.tokens import show_token

OTHER_PROMPT = "The Eiffel Tower stands in the city of"
LENS_ROWS = 13
"""Layers that the table of ranks shows."""
TITLE = "One prediction, seen from the inside"
DOUBTFUL = "~"


def lead(tour: Tour) -> list[str]:
    """What is about to happen, and with which model."""
    config, weights = tour.model.config, sum(parameter.numel() for parameter in tour.model.parameters())
    opening = (
        f"“{_readable(tour.prompt)}” goes through {tour.model.name}, a GPT with {_millions(weights)} weights in "
        f"{_count(config.n_layers, 'layer')}. Every number below was measured just now."
    )
    if tour.description is None:
        return [opening]
    return [opening, f"Whose numbers these are: {tour.description}. Other versions of the model give other numbers."]


def sections(tour: Tour, source: str | None) -> list[PageSection]:
    """The stops of the tour, in order. `source` is how the user named the model; None: not at all."""
    stops = [_tokens(tour), _prediction(tour), _layers(tour)]
    if tour.focus is not None and tour.look is not None:
        stops += [_heads(tour, tour.focus), _one_head(tour, tour.look)]
    return [*stops, _costs(tour), _next(tour, source)]


def _tokens(tour: Tour) -> PageSection:
    d_vocab = tour.model.config.d_vocab
    words = (
        f"A GPT reads neither letters nor words but pieces of text from a fixed list of {d_vocab:,}, each with a "
        f"number. This prompt is {_count(len(tour.ids), 'piece')} long. A dot (·) is a space; in brackets stands the "
        "piece's position, then its number in the list (token id)."
    )
    if tour.document_start is None:
        start = "This model's tokenizer names no mark for the start of a document, so the prompt begins right away."
    else:
        start = (
            f"{show_token(tour.document_start)} was put first: the mark for the start of a document, so that the model "
            "knows where the text begins."
        )
    pairs = zip(tour.str_tokens, tour.ids, strict=True)
    chips = [Chip(show_token(text), position, token) for position, (text, token) in enumerate(pairs)]
    return PageSection("What the model reads", "tokens", [words], chips, remarks=[start])


def _prediction(tour: Tour) -> PageSection:
    following = tour.following
    best, first = show_token(following.texts[0]), float(following.probabilities[0])
    words = (
        "From the last token's vector the model gives every piece in its list a raw score (logit); the scores become "
        f"probabilities that sum to 1 (softmax). Its first choice is “{best}”, with {first:.1%}."
    )
    doubt = (
        f"It is as undecided as someone choosing between {math.exp(following.entropy):,.1f} equally likely pieces "
        f"(entropy {following.entropy:.2f} nats)."
    )
    rows = [
        (str(rank), show_token(text), f"{probability:.2%}", probability, f"{logit:.2f}")
        for rank, (text, probability, logit) in enumerate(
            zip(following.texts, following.probabilities.tolist(), following.logits.tolist(), strict=True), start=1
        )
    ]
    others = following.d_vocab - len(rows)
    rest = [f"The other {others:,} pieces share the remaining {following.rest:.1%}."] if others else []
    return PageSection(
        "What it says next",
        "next-token distribution",
        [f"{words} {doubt}"],
        figures=[partial(_drawn, next_token_bars, tour.following)],
        table=Table(("rank", "token", "probability", "", "logit"), rows),
        remarks=rest,
    )


def _layers(tour: Tour) -> PageSection:
    lens = tour.lens
    prompt, column = lens.entry()
    worse = lens.worse_than_uniform[:, prompt, column].tolist()
    watched = [show_token(lens.texts[token]) for token in lens.watched_at(prompt, column)]
    words = (
        f"Each layer adds something to the vector of every token (residual stream): {_added(tour.model.config)}. "
        "One can stop anywhere and ask the model's own last step what it would say already (logit lens). The table "
        f"follows {_listed(watched)}: rank 1 is the likeliest of all {lens.d_vocab:,} pieces."
    )
    rows = [
        (
            f"{DOUBTFUL if worse[index] else ' '} {place_label(lens.places[index])}",
            *(f"{rank:,}" for rank in lens.watched_ranks[index, prompt, column].tolist()),
            show_token(lens.texts[int(lens.top_tokens[index, prompt, column, 0])]),
        )
        for index in _rows_shown(len(lens.places))
    ]
    return PageSection(
        "How the answer forms, layer by layer",
        "logit lens",
        [words],
        figures=[partial(_drawn, lens_lines, lens), partial(_drawn, lens_heatmap, lens)],
        table=Table(("read after", *watched, "would say"), rows),
        remarks=[*_turning_points(tour), *_caveat(sum(worse), len(worse))],
    )


def _turning_points(tour: Tour) -> list[str]:
    """Where the winner takes the lead for good."""
    lens, last = tour.lens, len(tour.lens.places) - 1
    prompt, column = lens.entry()
    final = show_token(lens.texts[int(lens.final_tokens[prompt, column])])
    ranks = lens.final_ranks[:, prompt, column].tolist()
    since = next(index for index in range(last + 1) if all(rank == 1 for rank in ranks[index:]))
    where = "only at the very end" if since == last else f"from “{place_label(lens.places[since])}” on"
    return [f"“{final}” starts at rank {ranks[0]:,} and is the first choice for good {where}."]


def _caveat(worse: int, places: int) -> list[str]:
    if not worse:
        return []
    return [
        f"Read this with care: at {worse} of {places} places (marked {DOUBTFUL} where listed) the reading predicts "
        "worse than guessing all pieces alike would, measured by its divergence from the final answer, "
        "KL(final || lens). Early layers do not yet write in the form that the last step expects. What such a place "
        "“would say”, and any probability, means little there; ranks still show movement."
    ]


def _heads(tour: Tour, focus: HeadFocus) -> PageSection:
    config = tour.model.config
    n_heads = focus.weight[..., 0].numel()
    words = (
        "Attention lets a token take from the tokens before it. Every layer has "
        f"{_count(config.n_heads, 'head')} doing so, each in its own way, {n_heads:,} in all. From the last token they "
        f"put {float(focus.share_on_first.mean()):.0%} of their attention, on average, on the very first one: there a "
        "head rests that has nothing to say (attention sink). Telling is what a head puts elsewhere. These put most on "
        f"another token than the first; of each of {_count(len(tour.patterns), 'token')}, the strongest head:"
    )
    rows, crowds = [], []
    for head in tour.patterns:
        weights = head.pattern[-1]
        position = int(weights[1:].argmax()) + 1
        token = f"{show_token(head.str_tokens[position])} [{position}]"
        same = int((focus.looks_at[..., 0] == position).sum())
        rows.append((
            f"layer {head.layer}, head {head.head}", token, f"{float(weights[position]):.1%}", float(weights[position]),
            f"{float(weights[0]):.1%}", f"{same}",
        ))  # fmt: skip
        crowds.append((same, token))
    most, crowded = max(crowds)
    remarks = [
        "The last column counts the heads of the whole model that put their largest such weight on this token. "
        f"{most} of {n_heads} choose {crowded}; a token that very many choose may be one more resting place.",
        "A weight says where a head looks, not whether it matters. To find out, change it and see what follows "
        "(ablation), as the last lines of this tour do.",
    ]
    return PageSection(
        "Where the last token looks",
        "attention",
        [words],
        figures=[partial(_drawn, attention_heatmap, head) for head in tour.patterns],
        table=Table(("head", "looks at", "weight", "", "on the first", "heads"), rows),
        remarks=remarks,
    )


def _one_head(tour: Tour, look: HeadLook) -> PageSection:
    d_head = tour.model.config.d_head
    words = (
        f"Layer {look.layer}, head {look.head} in detail. The last token asks a question, a vector of {d_head} numbers "
        "(query). Every token it sees has an answer to be found by (key). Their product says how well they match; the "
        "matches become weights (softmax). What is taken is each token's offer (value), times its weight: a token with "
        "a short value gives little, however much it is looked at."
    )
    order = look.weights.argsort(descending=True, stable=True)[:6].tolist()
    rows = [
        (
            f"{show_token(look.str_tokens[position])} [{position}]",
            f"{float(look.scores[position]):.2f}",
            f"{float(look.weights[position]):.1%}",
            float(look.weights[position]),
            f"{float(look.value_lengths[position]):.2f}",
        )
        for position in order
    ]
    return PageSection(
        "How one head decides",
        "queries, keys and values",
        [words],
        table=Table(("token", "match", "weight", "", "length of value"), rows),
    )


def _costs(tour: Tour) -> PageSection:
    costs = tour.costs
    rows = [(kind.short, kind.meaning, f"{kind.count:,}", f"{kind.bytes / 1e6:,.2f}") for kind in kinds_kept(tour.plan)]
    time_taken = (
        f"A pass that keeps nothing takes {_seconds(costs.plain_seconds)}, one that keeps all this "
        f"{_seconds(costs.record_seconds)} (the best of three each); reading every place took "
        f"{_seconds(costs.lens_seconds)}."
    )
    if costs.load_seconds is not None:
        time_taken = f"Loading the model took {_seconds(costs.load_seconds)}. {time_taken}"
    memory = f"The weights fill {costs.weight_bytes / 1e6:,.0f} MB, what was kept {costs.kept_bytes / 1e6:,.1f} MB" + (
        f"; this program held at most {costs.peak_bytes / 1e6:,.0f} MB at once." if costs.peak_bytes else "."
    )
    return PageSection(
        "What it took",
        "sizes, time and memory",
        ["Kept from the pass, under the names by which `probe record` and Python know them:"],
        table=Table(("name", "what it is", "values", "MB"), rows),
        remarks=[time_taken, memory],
    )


def _command() -> str:
    """This program as it can be typed here: by where it lies, if the shell would not find it."""
    started = Path(sys.argv[0])
    return str(started) if started.stem == "probe" and shutil.which("probe") is None else "probe"


def _next(tour: Tour, source: str | None) -> PageSection:
    model = "" if source is None else f" --model {shlex.quote(source)}"
    layers = "0" if tour.model.config.n_layers == 1 else f"0-{min(3, tour.model.config.n_layers - 1)}"
    other = OTHER_PROMPT if tour.prompt == PROMPT else PROMPT
    probe = _command()
    shell = [
        f"{probe} tour{model} --prompt {shlex.quote(other)}",
        f"{probe} record{model} {shlex.quote(other)} --sites pattern --layers {layers} --out out/patterns",
        f"{probe} check{' ' + shlex.quote(source) if source else ''}",
        f"{probe} models",
    ]
    remarks = ["--help after any of them says more. The same from Python:"]
    python = [
        "import probe",
        f"model = probe.load_model({repr(source) if source else ''})",
        f"text = {tour.prompt!r}",
        f"rec = probe.record(model, text, document_start={tour.document_start is not None})",
        "rec.logits[0, -1].softmax(-1).topk(5)",
    ]
    if tour.look is not None:
        python += [
            f"# without layer {tour.look.layer}, head {tour.look.head}:",
            f"without = probe.zero('z', layer={tour.look.layer}, heads={tour.look.head})",
            f"rec = probe.record(model, text, document_start={tour.document_start is not None}, interventions=without)",
            "rec.logits[0, -1].softmax(-1).topk(5)",
        ]
    return PageSection("What to try next", "commands", ["In a shell:"], code=shell, remarks=remarks, more_code=python)


def _rows_shown(n_places: int) -> list[int]:
    """The embedding, some layers evenly, the last layers all; the last one's attention too."""
    ends = list(range(0, n_places, 2))
    evenly = ends[:: max(1, math.ceil(len(ends) / (LENS_ROWS - 4)))]
    return sorted({*evenly, *ends[-3:], *range(max(0, n_places - 2), n_places)})


def _drawn(draw: Callable[..., Any], result: Any, theme: str) -> Any:
    return draw(result, theme=theme)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _readable(text: str, longest: int = 300) -> str:
    """On one line, without what a terminal would obey, and not too long."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _millions(n: int) -> str:
    return f"{n / 1e6:,.1f} million" if n >= 1e6 else f"{n:,}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _listed(tokens: list[str]) -> str:
    quoted = [f"“{token}”" for token in tokens]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def _added(config: GPTConfig) -> str:
    if config.has_mid:
        return "first its attention, then its MLP"
    return "its attention and its MLP at once" if config.d_mlp else "what its attention finds"
