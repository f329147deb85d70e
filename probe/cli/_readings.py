"""What `probe lens`, `probe attribute` and `probe heads` show of what they measure."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from probe.errors import BadPrompt
from probe.figures.attribution import attribution_bars
from probe.figures.heads import head_score_map
from probe.figures.lens import lens_heatmap, lens_lines, place_label
from probe.figures.page import PageSection, Table, html_page
from probe.gpt import GPT
from probe.methods.attribution import LogitAttribution
from probe.methods.heads import SCORES, HeadScores
from probe.methods.lens import LensReadout
from probe.results import Result
from probe.store import save_files
from probe.tokens import show_token

PAGE = "index.html"
DOUBTFUL = "~"
"""Marks a place that predicts worse than knowing nothing."""
MOST_COLUMNS = 4
"""Followed tokens that a table has room for; all of them are in the CSV."""


def starts_document(model: GPT, wanted: bool | None) -> bool:
    """Whether to put the document separator first: as asked, or (None) if the model's files name one.

    Raises:
        BadPrompt: a model without tokenizer, which cannot read text at all.
    """
    if model.tokenizer is None:
        raise BadPrompt(f"{model.name} has no tokenizer, and this command reads text; probe in Python takes token ids")
    return model.tokenizer.document_start_id is not None if wanted is None else wanted


def lens_section(readout: LensReadout, position: int, verdict: str | None) -> PageSection:
    """One position read after every step."""
    prompt, column = readout.entry(0, position)
    worse = readout.worse_than_uniform[:, prompt, column].tolist()
    followed = readout.watched_at(prompt, column)
    ranks = readout.watched_ranks[:, prompt, column, : len(followed)]
    shown = ranks[-1].argsort(stable=True)[:MOST_COLUMNS].tolist()
    names = [f"“{show_token(readout.texts[followed[index]])}”" for index in shown]
    rows = [
        (
            f"{DOUBTFUL if worse[index] else ' '} {place_label(place)}",
            *(f"{int(ranks[index, token]):,}" for token in shown),
            show_token(readout.texts[int(readout.top_tokens[index, prompt, column, 0])]),
            f"{float(readout.kl_to_final[index, prompt, column]):.2f}",
        )
        for index, place in enumerate(readout.places)
    ]
    at = int(readout.positions[prompt, column])
    token = show_token(readout.str_tokens[prompt][at])
    words = (
        f"What the model would say after “{token}” [{at}], read after every step of the residual stream through its "
        f"own last step{' and a tuned translator for each place' if readout.tuned else ''}. Columns give the rank of a "
        f"token among all {readout.d_vocab:,} (1 is the likeliest), then the first choice, then KL(final || lens) in "
        "nats: what stopping there would lose."
    )
    caveat = (
        f"{DOUBTFUL} marks {sum(worse)} of {len(worse)} places that predict worse than knowing nothing: there only "
        "ranks inform, no probability does." + ("" if readout.tuned else " A tuned lens reads them: --tuned.")
    )
    return PageSection(
        "What each layer would say next",
        "tuned lens" if readout.tuned else "logit lens",
        [words],
        figures=[
            lambda theme: lens_lines(readout, position=column, theme=theme),
            lambda theme: lens_heatmap(readout, colour="probability" if readout.tuned else "rank", theme=theme),
        ],
        table=Table(("read after", *names, "would say", "KL"), rows),
        remarks=[*([caveat] if any(worse) else []), *([verdict] if verdict else [])],
    )


def attribution_section(found: LogitAttribution, top: int) -> PageSection:
    """The largest parts of one prompt's logit."""
    token = show_token(found.texts[int(found.tokens[0])])
    against = None if found.against is None else show_token(found.texts[int(found.against[0])])
    what = f"the logit of “{token}”" + ("" if against is None else f" minus that of “{against}”")
    if found.before_cap:
        what += " (before the model’s soft cap on logits)"
    rows = [(name, f"{value:+.3f}") for name, value in found.top(top, prompt=0)]
    rest = float(found.total[0]) - sum(value for _, value in found.top(top, prompt=0))
    n_others = max(0, len(found.parts) - top)
    words = (
        f"After the last token, {what} is {float(found.logit[0]):+.4f}. It is exactly the sum of what "
        f"{len(found.parts)} parts of the model wrote into the residual stream, seen through the final norm (its "
        "scale frozen) and the unembedding. The largest by size, in logits:"
    )
    check = (
        f"The parts sum to {float(found.total[0]):+.4f}, {float(found.error[0]):.1e} from the model's own number. "
        "What a part does through later layers counts as theirs: this is its direct effect only."
    )
    return PageSection(
        "Who wrote it",
        "direct logit attribution",
        [words],
        figures=[lambda theme: attribution_bars(found, prompt=0, top=top, theme=theme)],
        table=Table(("part", "adds"), [*rows, *([(f"{n_others} others", f"{rest:+.3f}")] if n_others else [])]),
        remarks=[check],
    )


def heads_section(scores: HeadScores, top: int) -> PageSection:
    """The heads that score highest on each source, beside chance."""
    words = (
        "Six scores of every head, each a mean over tokens; in brackets what attention spread evenly would get. "
        "Previous token, duplicate token, induction and first token are attention weights (0 to 1): on the token "
        "before, on earlier occurrences of the same token, on what came right after those, on position 0. Entropy (of "
        "what is possible, 0 to 1) and distance (tokens back) leave position 0 out, where heads rest that have nothing "
        "to say."
    )
    rows = [
        (f"{score} ({chance})", source, ", ".join(f"{layer}.{head} {value:.2f}" for layer, head, value in best))
        for score in SCORES
        for source in scores.sources
        for best in [scores.top(score, top, source=source)]
        for chance in [f"{scores.chance_of(score, source):.3g}"]
        if not math.isnan(scores.chance_of(score, source))
    ]
    return PageSection(
        "What every head does", "head scores", [words],
        figures=[
            lambda theme, score=score, source=source: head_score_map(scores, score, source=source, theme=theme)
            for source in reversed(scores.sources)
            for score in SCORES
        ],
        table=Table(("score (even attention)", "on", "highest: layer.head"), rows),
        remarks=[f"Random: {int(scores.n_prompts[-1])} prompts of random tokens, each repeated once."]
        if "random" in scores.sources
        else [],
    )  # fmt: skip


def save_reading(out: Path, result: Result, title: str, lead: Sequence[str], section: PageSection) -> None:
    """Table, manifest and a page, figures before the numbers, in a new folder."""
    figures = dataclasses.replace(section, table=None)
    numbers = PageSection("The same in numbers", section.term, table=section.table)
    save_files(out, {**result.files(), PAGE: html_page(title, lead, [figures, numbers])})
