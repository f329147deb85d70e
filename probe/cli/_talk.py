"""The commands that make text: `probe generate` and `probe chat`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from probe.cli._options import AsJson, DocumentStart, Model, ResultFolder, check_free_folder, load, print_json

Temperature = Annotated[
    float, typer.Option("--temperature", "-t", help="0 (always the likeliest token) to 5; logits are divided by it.")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Choose among so many of the likeliest tokens only.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", help="... among the fewest that together have this probability.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="To repeat it. Without: one is drawn, and printed.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="At most so many new tokens.")]
ShowDistribution = Annotated[
    bool, typer.Option("--show-distribution", help="One line per token: its probability, and what else could come.")
]


def generate(
    text: Annotated[str, typer.Argument(help="The text to continue.")],
    model: Model = None,
    max_tokens: MaxTokens = 50,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    show_distribution: ShowDistribution = False,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Continue a text, token by token, and see the distribution behind each. Ctrl-C keeps what is there."""
    from probe.cli._readings import starts_document
    from probe.generation import generate as begin
    from probe.sampling import Sampling
    from probe.terminal import messages

    check_free_folder(out)
    Sampling(temperature, top_k, top_p)  # raises before the model is loaded
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        generation = begin(
            loaded, text, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
            document_start=starts_document(loaded, document_start),
        )  # fmt: skip
    _tell(generation, text, show_distribution=show_distribution, out=out, as_json=as_json)


def chat(
    text: Annotated[
        str | None, typer.Argument(help="What you say. Without: a conversation, a line at a time, until Ctrl-D.")
    ] = None,
    model: Model = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before.")] = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.7,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    seed: Seed = None,
    show_distribution: ShowDistribution = False,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="The tokens that the model really continues, marks included.")
    ] = False,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model that was trained to chat: the same next-token game, on a text that its template makes."""
    from probe.chat import chat as begin
    from probe.cli._generation import show_prompt as show_tokens
    from probe.cli._generation import stream
    from probe.errors import BadPrompt
    from probe.sampling import Sampling
    from probe.terminal import messages, output

    check_free_folder(out)
    settings = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    Sampling(temperature, top_k, top_p)  # raises before the model is loaded
    if text is None and (out is not None or as_json):
        raise BadPrompt("--out and --json keep one answer: give the text to answer")
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
    told = [] if system is None else [{"role": "system", "content": system}]
    if text is not None:
        answer = begin(loaded, [*told, {"role": "user", "content": text}], **settings)
        if show_prompt and not as_json:
            show_tokens(output(), answer)
        _tell(answer, text, show_distribution=show_distribution, out=out, as_json=as_json)
        return
    for line in _lines():
        told.append({"role": "user", "content": line})
        answer = begin(loaded, told, **settings)
        if show_prompt:
            show_tokens(output(), answer)
        stream(output(), answer, alternatives=show_distribution)
        told.append({"role": "assistant", "content": answer.text})


def _tell(generation: Any, text: str, *, show_distribution: bool, out: Path | None, as_json: bool) -> None:
    """Make the tokens, show them as they come, keep them."""
    from probe.cli._generation import as_json as to_json
    from probe.cli._generation import save_generation, stream, summary
    from probe.terminal import output, show_words

    if as_json:
        generation.run()
    else:
        stream(output(), generation, alternatives=show_distribution)
    if not generation.steps and generation.ended is None:
        raise typer.Exit(130)  # interrupted before there was anything to show or keep
    if out is not None:
        save_generation(out, generation, text)
    if as_json:
        print_json(to_json(generation, out))
        return
    where = [] if out is None else [f"With figures, tables and manifest: {out}"]
    show_words(output(), [*summary(generation), *where])


def _lines() -> Iterator[str]:
    """What the user types, until Ctrl-D; a prompt only where someone sees it."""
    import sys

    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
