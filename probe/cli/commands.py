"""The commands. Results go to stdout, progress and errors to stderr; heavy modules load when a command needs them.

Exit codes: 0 all is well, 1 a check failed, 2 bad input, 130 interrupted.
"""

import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from probe.cli._ablation import ablate, patch
from probe.cli._dashboard import dashboard
from probe.cli._directions import directions, steer
from probe.cli._methods import attribute, heads, lens
from probe.cli._options import AsJson, DocumentStart, Model, load, print_json, read_names, read_numbers
from probe.cli._talk import chat, generate
from probe.cli._words import analogy, near
from probe.errors import NotSaved, ProbeError
from probe.whole_files import check_writable, new_file

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
    epilog="Begin with: probe tour",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
)


def _say_version(wanted: bool) -> bool:
    if wanted:
        print(version("probe-gpt"))
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    asks_version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Look inside a GPT: record every value of a pass, and see what it says."""


models_app = typer.Typer(
    cls=ModelCommands,
    help="The models and word vectors known by name: list, fetch, remove.",
    epilog="Example: probe models fetch smollm2-135m-instruct-q4_1",
)
app.add_typer(models_app, name="models")
words_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Words as vectors: neighbours, analogies.",
    epilog="Example: probe words near tower",
)  # fmt: skip
app.add_typer(words_app, name="words")


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
        loaded, load_seconds = load(model, status)
        found = take_tour(
            loaded, PROMPT if prompt is None else prompt, watch=watch, load_seconds=load_seconds, say=status.update
        )
        status.update("drawing the page")
        from probe.cli._story import TITLE, lead, sections
        from probe.figures.page import html_page

        stops = sections(found, model)
        _write(page, html_page(TITLE, lead(found), stops))
    if as_json:
        print_json({**tour_as_json(found), "page": str(page)})
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
    document_start: DocumentStart = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the recording in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one prompt and keep the values asked for; probe.Recording.load reads back what --out saves."""
    from probe.cli._readings import starts_document
    from probe.cli._results import recording_as_json, show_recording
    from probe.plan import plan_recording
    from probe.recording import record as record_values
    from probe.terminal import messages

    arguments: dict[str, Any] = {
        "sites": read_names("sites", sites),
        "layers": read_numbers("layers", layers),
        "positions": read_numbers("positions", positions),
    }
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        arguments["document_start"] = starts_document(loaded, document_start)
        plan = plan_recording(loaded, text, **arguments)
        status.update(f"recording {plan}")
        begin = time.perf_counter()
        recording = record_values(loaded, text, **arguments)
        seconds = time.perf_counter() - begin
        if out is not None:
            recording.save(out)
    if as_json:
        print_json(recording_as_json(recording, plan, seconds, out))
    else:
        show_recording(recording, plan, seconds, out)


EXAMPLES = {
    lens: "probe lens 'The capital of France is' --watch ' Paris' --out out/lens",
    attribute: "probe attribute 'The capital of France is' --token ' Paris' --against ' London'",
    heads: "probe heads 'When Mary and John went to the store, John gave a drink to Mary.'",
    ablate: "probe ablate 'When Mary and John met, John gave a book to' --target ' Mary' --against ' John'",
    patch: "probe patch 'When Mary and John met, John gave a book to' 'When Mary and John met, Mary gave a book to' "
    "--target ' Mary' --against ' John'",
    generate: "probe generate 'Once upon a time there was a' --temperature 0.8 --show-distribution",
    chat: "probe chat 'What is the capital of France?' --temperature 0",
    directions: "probe directions plurality --source embed",
    dashboard: "probe dashboard --port 8600",
    steer: "probe steer plurality --layer 12 --target ' are' --against ' is'",
}
"""Commands that stand in files of their own."""
for command, example in EXAMPLES.items():
    app.command(epilog=f"Example: {example}")(command)
words_app.command(epilog="Example: probe words near tower")(near)
words_app.command(epilog="Example: probe words analogy king - man + woman")(analogy)


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
        loaded, _ = load(model, status)
        report = check_model(loaded, source=_source_of(model) if hugging_face else None, say=status.update)
    if as_json:
        print_json(report_as_json(report))
    else:
        show_report(report)
    if not report.passed:
        raise typer.Exit(1)


@models_app.command("list", epilog="Example: probe models --json")
def list_models(as_json: AsJson = False) -> None:
    """What is known, cached or not, with licence and size; `probe models` alone does this too."""
    from probe.catalogue import known_models, known_word_vectors
    from probe.cli._results import show_known
    from probe.fetching import cache_folder

    models = [{**_facts(known), "parameters": known.parameters} for known in known_models()]
    words = [{**_facts(known), "n_words": known.n_words, "d": known.d} for known in known_word_vectors()]
    cache = str(cache_folder())
    if as_json:
        print_json({"cache": cache, "models": models, "word_vectors": words})
    else:
        show_known(models, words, cache)


def _facts(known: Any) -> dict[str, Any]:
    from probe.catalogue import DEFAULT_MODEL, DEFAULT_WORD_VECTORS
    from probe.fetching import cached_size, is_cached

    return {
        "name": known.name, "default": known.name in (DEFAULT_MODEL, DEFAULT_WORD_VECTORS),
        "cached": is_cached(known.name), "cached_bytes": cached_size(known.name), "licence": known.licence,
        "bytes": known.size, "description": known.description, "source": known.source,
    }  # fmt: skip


@models_app.command(epilog="Example: probe models fetch smollm2-135m-instruct-q4_1")
def fetch(name: Annotated[str, typer.Argument(help="As `probe models` lists it.")]) -> None:
    """Download a model or word vectors into the cache, unless they are there. Prints where they are."""
    from probe.fetching import fetch as fetch_model

    typer.echo(fetch_model(name))


@models_app.command(epilog="Example: probe models remove smollm2-135m-instruct-q4_1")
def remove(name: Annotated[str, typer.Argument(help="As `probe models` lists it.")]) -> None:
    """Delete a model or word vectors from the cache."""
    from probe.fetching import cache_folder
    from probe.fetching import remove as remove_model

    freed = remove_model(name)
    typer.echo(f"{name}: freed {freed / 1e6:,.0f} MB" if freed else f"{name}: was not in the cache ({cache_folder()})")


def _source_of(model: str | None) -> str:
    from probe.catalogue import DEFAULT_MODEL

    return DEFAULT_MODEL if model is None else model


def _check_writable(page: Path) -> None:
    """Raise before anything is loaded, rather than after."""
    check_writable(page.parent)
    if page.is_dir():
        raise NotSaved(f"cannot write {page}")


def _write(page: Path, text: str) -> None:
    try:
        with new_file(page) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotSaved(f"cannot write {page}: {error.strerror}") from error


def _say_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text(f"error: {message}", style="red"), soft_wrap=True)
