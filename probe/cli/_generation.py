"""What `probe generate` and `probe chat` print while tokens are made, and what they keep."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from probe.figures.generation import choice_bar, step_bars, surprise_bars
from probe.figures.page import PageSection, html_page
from probe.generation import Generation, Step
from probe.store import save_files
from probe.terminal import show_words
from probe.tokens import show_token

ALTERNATIVES = 4
"""Candidates that a line of the terminal has room for."""
PAGE_STEPS = 40
"""Steps that a page shows with figures of their own; the tables hold all."""
LINGERING = "�"
"""What a character looks like of which not all bytes are there yet."""


def stream(console: Console, generation: Generation, *, alternatives: bool) -> None:
    """The text as it comes; with `alternatives` one line per step: the token, its chances, what else could have been.

    Ctrl-C ends it and keeps what is there.
    """
    try:
        if alternatives:
            _show_steps(console, generation)
        else:
            for piece in _pieces(generation):
                console.print(Text(piece), end="", soft_wrap=True)
            console.print()
    except KeyboardInterrupt:
        console.print()


def summary(generation: Generation) -> list[str]:
    """How it ended and what is needed to repeat it."""
    arguments = generation.manifest["method_arguments"]
    sampling = arguments["sampling"]
    greedy = sampling["temperature"] == 0
    given = {name: value for name, value in sampling.items() if value is not None}
    how = "temperature 0" if greedy else ", ".join(f"{name} {value}" for name, value in given.items())
    seed = "" if greedy else f", seed {arguments['seed']}"
    n = len(generation.steps)
    mean = sum(step.surprise for step in generation.steps) / n if n else float("nan")
    ended = "interrupted" if generation.ended is None else generation.ended
    return [
        f"{n} tokens ({ended}); {how}{seed}; mean surprise {mean:.2f} nats: like a choice among {math.exp(mean):,.1f} "
        "equally likely tokens each time."
    ]


def save_generation(out: Path, generation: Generation, title: str) -> None:
    """Steps, alternatives, manifest, and a page with the distribution behind each of the first tokens."""
    sampling = generation.manifest["method_arguments"]["sampling"]
    shown = generation.steps[:PAGE_STEPS]
    overview = PageSection(
        "The text", "generation", ["".join([*generation.str_tokens[: len(generation.prompt)]]), generation.text],
        figures=[lambda theme: surprise_bars(generation, theme=theme)],
    )  # fmt: skip
    sections = [overview, *(_step_section(step, sampling) for step in shown)]
    save_files(out, {**generation.files(), "index.html": html_page(title, summary(generation), sections)})


def as_json(generation: Generation, out: Path | None) -> dict[str, Any]:
    """Text, manifest, and every step with what else could have been."""
    steps = [
        {
            "token": step.text, "token_id": step.token, "probability": step.probability,
            "model_probability": step.model_probability, "surprise_nats": step.surprise, "rank": step.rank,
            "entropy_nats": step.entropy, "drawn": step.drawn,
            "alternatives": [
                {"token": text, "model_probability": chance} for text, chance in _candidates(step, ALTERNATIVES)
            ],
        }
        for step in generation.steps
    ]  # fmt: skip
    return {
        "text": generation.text,
        "manifest": dict(generation.manifest),
        "steps": steps,
        "folder": None if out is None else str(out),
    }


def _pieces(generation: Generation) -> Iterable[str]:
    """The text in pieces that can be printed: a character's bytes may come in several tokens."""
    printed = ""
    for _ in generation:
        text = generation.text
        if text.endswith(LINGERING) or not text.startswith(printed):
            continue
        yield text[len(printed) :]
        printed = text
    if generation.text.startswith(printed):
        yield generation.text[len(printed) :]


def _show_steps(console: Console, generation: Generation) -> None:
    show_words(console, ["Token, its probability (as sampled), its surprise in nats, and the model's own candidates:"])
    for step in generation:
        others = "  ".join(f"{show_token(text)} {chance:.1%}" for text, chance in _candidates(step, ALTERNATIVES))
        line = f"  {show_token(step.text):<16} {step.probability:>6.1%} {step.surprise:>6.2f}   {others}"
        console.print(Text(line), soft_wrap=True)
    show_words(console, [generation.text])


def _candidates(step: Step, n: int) -> Sequence[tuple[str, float]]:
    chances = step.distribution.probabilities()[:n].tolist()
    return list(zip(step.distribution.texts, chances, strict=False))


def _step_section(step: Step, sampling: dict[str, Any]) -> PageSection:
    settings = {name: sampling[name] for name in ("temperature", "top_k", "top_p")}
    words = (
        f"Chosen with probability {step.probability:.4f}; the model's own is {step.model_probability:.4f}, rank "
        f"{step.rank:,}, surprise {step.surprise:.2f} nats; entropy {step.entropy:.2f} nats."
    )
    return PageSection(
        f"“{show_token(step.text)}”", f"position {step.position}", [words],
        figures=[
            lambda theme: step_bars(step, **settings, theme=theme),
            lambda theme: choice_bar(step, **settings, theme=theme),
        ],
    )  # fmt: skip


def show_prompt(console: Console, generation: Generation) -> None:
    """The conversation as the model reads it, marks included."""
    texts = [show_token(text) for text in generation.str_tokens[: len(generation.prompt)]]
    show_words(console, [f"The same game: {len(texts)} tokens to continue, marks included:", " ".join(texts)])
    console.print()
