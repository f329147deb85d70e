"""The commands. Results go to stdout, progress and errors to stderr; heavy modules load when a command needs them.

Exit codes: 0 all is well, 1 a check failed, 2 bad input, 130 interrupted.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from probe.errors import NotSaved, OutOfRange, ProbeError, UnknownName

HELP = ("-h", "--help")


class Commands(TyperGroup):
    """Turns what a user can get wrong into one line and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ProbeError as error:
            _say_error(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


class ModelCommands(Commands):
    """Without a command, lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """`probe models --json` is `probe models list --json`."""
        asks_for_help = any(option in args for option in HELP)
        only_options = all(argument.startswith("-") for argument in args)
        return super().parse_args(ctx, ["list", *args] if only_options and not asks_for_help else args)


app = typer.Typer(
    cls=Commands,
    help="Look inside a GPT: record every value of a pass, and see what it says.",
    epilog="Begin with: probe tour",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
)
models_app = typer.Typer(
    cls=ModelCommands,
    help="The models known by name: list, fetch, remove.",
    epilog="Example: probe models fetch smollm2-135m-instruct-q4_1",
)
app.add_typer(models_app, name="models")

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", show_default=False,
        help="A name that `probe models` lists, a folder, a .gguf file, or a name on the Hugging Face Hub.",
    ),
]  # fmt: skip
DocumentStart = Annotated[
    bool | None,
    typer.Option(
        "--document-start/--no-document-start", show_default=False,
        help="Put the model's document separator first. Without: if its files name one.",
    ),
]  # fmt: skip
ResultFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="New folder for table, manifest and a page with figures.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """The entry point of `probe`."""
    app()


@app.command(epilog="Example: probe tour --prompt 'The Eiffel Tower stands in the city of' --watch ' Paris'")
def tour(
    model: Model = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            help="The text to continue. Without: one about Mary, John and a drink.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option("--watch", help="A token to follow through the layers, such as ' Paris'; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page with figures.")] = Path("out/tour"),
    as_json: AsJson = False,
) -> None:
    """See one prediction from the inside: tokens, candidates, layers, heads, costs. Writes a page with figures."""
    from probe.cli._tour import PROMPT, take_tour, tour_as_json
    from probe.terminal import messages, output, show_section, show_words

    page = out / "index.html"
    _check_writable(page)
    with messages().status("starting") as status:
        loaded, load_seconds = _load(model, status)
        found = take_tour(
            loaded, PROMPT if prompt is None else prompt, watch=watch, load_seconds=load_seconds, say=status.update
        )
        status.update("drawing the page")
        from probe.cli._story import TITLE, lead, sections
        from probe.figures.page import html_page

        stops = sections(found, model)
        _write(page, html_page(TITLE, lead(found), stops))
    if as_json:
        _print_json({**tour_as_json(found), "page": str(page)})
        return
    console = output()
    console.rule(TITLE, characters="━")
    show_words(console, lead(found))
    for stop in stops[:-1]:
        show_section(console, stop)
    show_words(console, [f"All of it with figures to hover over, in one file that opens in any browser: {page}"])
    show_section(console, stops[-1])


@app.command(epilog="Example: probe record 'The capital of France is' --sites pattern,z --layers 0-3 --out out/france")
def record(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Model = None,
    sites: Annotated[
        str | None, typer.Option("--sites", help="Values to keep, as in 'resid_post,pattern'. Without: every one.")
    ] = None,
    layers: Annotated[str | None, typer.Option("--layers", help="Of these layers only, as in '3' or '0-4,9'.")] = None,
    positions: Annotated[
        str | None, typer.Option("--positions", help="Only these positions, as in '0,5' or '-1' for the last.")
    ] = None,
    document_start: Annotated[
        bool, typer.Option(help="Put the model's document separator first.", show_default=True)
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the recording in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one prompt and keep the values asked for; probe.Recording.load reads back what --out saves."""
    from probe.cli._results import recording_as_json, show_recording
    from probe.plan import plan_recording
    from probe.recording import record as record_values
    from probe.terminal import messages

    arguments: dict[str, Any] = {
        "sites": _names("sites", sites),
        "layers": _numbers("layers", layers),
        "positions": _numbers("positions", positions),
        "document_start": document_start,
    }
    with messages().status("starting") as status:
        loaded, _ = _load(model, status)
        plan = plan_recording(loaded, text, **arguments)
        status.update(f"recording {plan}")
        begin = time.perf_counter()
        recording = record_values(loaded, text, **arguments)
        seconds = time.perf_counter() - begin
        if out is not None:
            recording.save(out)
    if as_json:
        _print_json(recording_as_json(recording, plan, seconds, out))
    else:
        show_recording(recording, plan, seconds, out)


@app.command(epilog="Example: probe lens 'The capital of France is' --watch ' Paris' --out out/lens")
def lens(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Model = None,
    watch: Annotated[
        list[str] | None,
        typer.Option("--watch", help="A token to follow, such as ' Paris'; may be repeated. Without: each first one."),
    ] = None,
    position: Annotated[int, typer.Option("--position", help="After which token; -1 is the last.")] = -1,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Through a tuned lens; fitted first if the cache has none (minutes).")
    ] = False,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Read the residual stream after every step as a prediction of the next token."""
    from probe.cli._readings import lens_section, save_reading, starts_document
    from probe.methods.lens import logit_lens
    from probe.methods.tuned_lens import load_tuned_lens
    from probe.recording import record as record_values
    from probe.terminal import messages

    _check_free(out)
    with messages().status("starting") as status:
        loaded, _ = _load(model, status)
        start = starts_document(loaded, document_start)
        status.update("running the prompt")
        sites = ["resid_pre", "resid_mid", "resid_post"]
        recording = record_values(loaded, text, sites=sites, document_start=start, logits=False)
        raw = logit_lens(loaded, recording, watch=watch)
        raw.entry(0, position)  # raises before a long fit
        status.stop()
        translator = load_tuned_lens(loaded) if tuned else None
        status.start()
        status.update("reading every place")
        readout = raw if translator is None else logit_lens(loaded, recording, watch=watch, tuned=translator)
        section = lens_section(readout, position, None if translator is None else translator.verdict())
        if out is not None:
            save_reading(out, readout, f"{loaded.name}: {section.heading}", [text], section)
    _show(readout, section, out=out, as_json=as_json)


@app.command(epilog="Example: probe attribute 'The capital of France is' --token ' Paris' --against ' London'")
def attribute(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Model = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Whose logit, such as ' Paris'. Without: the model's first choice.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Take how far it is above this token's instead.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many parts to show.")] = 20,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take the next token's logit apart: what embedding, heads and MLPs wrote towards it."""
    from probe.cli._readings import attribution_section, save_reading, starts_document
    from probe.methods.attribution import attribution_sites, direct_logit_attribution
    from probe.recording import record as record_values
    from probe.terminal import messages

    _check_free(out)
    with messages().status("starting") as status:
        loaded, _ = _load(model, status)
        start = starts_document(loaded, document_start)
        status.update("running the prompt")
        recording = record_values(loaded, text, sites=attribution_sites(loaded), positions=-1, document_start=start)
        found = direct_logit_attribution(loaded, recording, token=token, against=against)
        section = attribution_section(found, top)
        if out is not None:
            save_reading(out, found, f"{loaded.name}: {section.heading}", [text], section)
    _show(found, section, out=out, as_json=as_json)


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


@app.command(epilog="Example: probe generate 'Once upon a time there was a' --temperature 0.8 --show-distribution")
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

    _check_free(out)
    Sampling(temperature, top_k, top_p)  # raises before the model is loaded
    with messages().status("starting") as status:
        loaded, _ = _load(model, status)
        generation = begin(
            loaded, text, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
            document_start=starts_document(loaded, document_start),
        )  # fmt: skip
    _tell(generation, text, show_distribution=show_distribution, out=out, as_json=as_json)


@app.command(epilog="Example: probe chat 'What is the capital of France?' --temperature 0")
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

    _check_free(out)
    settings = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    Sampling(temperature, top_k, top_p)  # raises before the model is loaded
    if text is None and (out is not None or as_json):
        raise BadPrompt("--out and --json keep one answer: give the text to answer")
    with messages().status("starting") as status:
        loaded, _ = _load(model, status)
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


@app.command(epilog="Example: probe check, or: probe check path/to/model --no-hugging-face")
def check(
    model: Annotated[
        str | None,
        typer.Argument(help="As --model of the other commands. Without: the default model.", show_default=False),
    ] = None,
    hugging_face: Annotated[
        bool, typer.Option(help="Also run the same files through Hugging Face, where transformers can read them.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure the identities that hold for any GPT on this one. Exit code 1 if one fails."""
    from probe.cli._results import report_as_json, show_report
    from probe.methods.check import check_model
    from probe.terminal import messages

    with messages().status("starting") as status:
        loaded, _ = _load(model, status)
        report = check_model(loaded, source=_source_of(model) if hugging_face else None, say=status.update)
    if as_json:
        _print_json(report_as_json(report))
    else:
        show_report(report)
    if not report.passed:
        raise typer.Exit(1)


@models_app.command("list", epilog="Example: probe models --json")
def list_models(as_json: AsJson = False) -> None:
    """What is known, cached or not, with licence and size; `probe models` alone does this too."""
    from probe.catalogue import DEFAULT_MODEL, cache_folder, cached_size, is_cached, known_models
    from probe.cli._results import show_models

    found = [
        {
            "name": known.name, "default": known.name == DEFAULT_MODEL, "cached": is_cached(known.name),
            "cached_bytes": cached_size(known.name), "licence": known.licence, "parameters": known.parameters,
            "bytes": known.size, "description": known.description, "source": known.source,
        }
        for known in known_models()
    ]  # fmt: skip
    if as_json:
        _print_json({"cache": str(cache_folder()), "models": found})
    else:
        show_models(found, str(cache_folder()))


@models_app.command(epilog="Example: probe models fetch smollm2-135m-instruct-q4_1")
def fetch(name: Annotated[str, typer.Argument(help="As `probe models` lists it.")]) -> None:
    """Download a model into the cache, unless it is there. Prints where it is."""
    from probe.catalogue import fetch as fetch_model

    typer.echo(fetch_model(name))


@models_app.command(epilog="Example: probe models remove smollm2-135m-instruct-q4_1")
def remove(name: Annotated[str, typer.Argument(help="As `probe models` lists it.")]) -> None:
    """Delete a model from the cache."""
    from probe.catalogue import cache_folder
    from probe.catalogue import remove as remove_model

    freed = remove_model(name)
    typer.echo(f"{name}: freed {freed / 1e6:,.0f} MB" if freed else f"{name}: was not in the cache ({cache_folder()})")


def _load(source: str | None, status: Any) -> tuple[Any, float]:
    """The model, and the seconds that its weights took; a download in between draws its own bar and is not counted."""
    from probe.catalogue import DEFAULT_MODEL, is_cached, known_models
    from probe.catalogue import fetch as fetch_model

    name = DEFAULT_MODEL if source is None else source
    if any(known.name == name for known in known_models()) and not Path(name).exists() and not is_cached(name):
        status.stop()
        fetch_model(name)
        status.start()
    status.update(f"loading {name}")
    begin = time.perf_counter()
    from probe.weights import load_model

    return load_model(source), time.perf_counter() - begin


def _check_free(out: Path | None) -> None:
    """Raise before anything is loaded, rather than after."""
    from probe.store import check_free

    if out is not None:
        check_free(out)


def _show(result: Any, section: Any, *, out: Path | None, as_json: bool) -> None:
    from probe.terminal import output, show_section

    if as_json:
        table = json.loads(result.to_dataframe().to_json(orient="records"))
        _print_json({"manifest": dict(result.manifest), "rows": table, "folder": None if out is None else str(out)})
        return
    console = output()
    show_section(console, section)
    if out is not None:
        console.print(f"\nWith figures, table and manifest: {out}", markup=False)


def _tell(generation: Any, text: str, *, show_distribution: bool, out: Path | None, as_json: bool) -> None:
    """Make the tokens, show them as they come, keep them."""
    from probe.cli._generation import as_json as to_json
    from probe.cli._generation import save_generation, stream, summary
    from probe.terminal import output, show_words

    if as_json:
        generation.run()
    else:
        stream(output(), generation, alternatives=show_distribution)
    if out is not None:
        save_generation(out, generation, text)
    if as_json:
        _print_json(to_json(generation, out))
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


def _source_of(model: str | None) -> str:
    from probe.catalogue import DEFAULT_MODEL

    return DEFAULT_MODEL if model is None else model


def _names(option: str, given: str | None) -> list[str] | None:
    """'a,b' -> ['a', 'b']."""
    if given is None:
        return None
    found = [name.strip() for name in given.split(",") if name.strip()]
    if not found:
        raise UnknownName(f"--{option} {given!r} names nothing; leave it out to mean all")
    return found


def _numbers(option: str, given: str | None) -> list[int] | None:
    """'0-4,9' -> [0, 1, 2, 3, 4, 9]; '-1' is the last."""
    if given is None:
        return None
    return [number for part in (_names(option, given) or []) for number in _range(option, part)]


def _range(option: str, part: str) -> range:
    found = re.fullmatch(r"(-?\d+)(?:-(\d+))?", part)
    if found is None:
        raise OutOfRange(
            f"--{option}: {part!r} is neither a number nor a range; expected something like '3' or '0-4,9'"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise OutOfRange(f"--{option}: the range {part!r} ends before it begins")
    return range(first, last + 1)


def _print_json(value: Any) -> None:
    """One JSON document on stdout; NaN has no JSON, so it may not occur."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))


def _check_writable(page: Path) -> None:
    """Raise before anything is loaded, rather than after."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotSaved(f"cannot write into {page.parent}: {error.strerror}") from error
    if not os.access(page.parent, os.W_OK) or page.is_dir():
        raise NotSaved(f"cannot write {page}")


def _write(page: Path, text: str) -> None:
    """Whole or not at all: beside its place first, then moved there."""
    part = page.with_name(f".{page.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, page)
    except OSError as error:
        raise NotSaved(f"cannot write {page}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _say_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(f"error: {message}", style="red"), soft_wrap=True)
