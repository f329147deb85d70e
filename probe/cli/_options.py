"""What several commands share: their options, loading a model, and how a result is shown and kept."""

import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from probe.errors import OutOfRange, UnknownName

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", show_default=False,
        help="A name that `probe models` lists, a folder, a .gguf, .pt or .pth file, or a name on the Hugging Face "
        "Hub.",
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


def load(source: str | None, status: Any) -> tuple[Any, float]:
    """The model, and the seconds that its weights took; a download in between draws its own bar and is not counted."""
    from probe.catalogue import DEFAULT_MODEL, known_models
    from probe.fetching import fetch as fetch_model
    from probe.fetching import is_cached

    name = DEFAULT_MODEL if source is None else source
    if any(known.name == name for known in known_models()) and not Path(name).exists() and not is_cached(name):
        status.stop()
        fetch_model(name)
        status.start()
    status.update(f"loading {name}")
    begin = time.perf_counter()
    from probe.weights import load_model

    return load_model(source), time.perf_counter() - begin


def check_free_folder(out: Path | None) -> None:
    """Raise before anything is loaded, rather than after."""
    from probe.store import check_free

    if out is not None:
        check_free(out)


def show_result(result: Any, section: Any, *, out: Path | None, as_json: bool) -> None:
    from probe.terminal import output, show_section

    if as_json:
        table = json.loads(result.to_dataframe().to_json(orient="records"))
        print_json({"manifest": dict(result.manifest), "rows": table, "folder": None if out is None else str(out)})
        return
    console = output()
    show_section(console, section)
    if out is not None:
        console.print(f"\nWith figures, table and manifest: {out}", markup=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout; NaN has no JSON, so it may not occur."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=str))


def read_names(option: str, given: str | None) -> list[str] | None:
    """'a,b' -> ['a', 'b']."""
    if given is None:
        return None
    found = [name.strip() for name in given.split(",") if name.strip()]
    if not found:
        raise UnknownName(f"--{option} {given!r} names nothing; leave it out to mean all")
    return found


def read_numbers(option: str, given: str | None) -> list[int] | None:
    """'0-4,9' -> [0, 1, 2, 3, 4, 9]; '-1' is the last."""
    if given is None:
        return None
    return [number for part in (read_names(option, given) or []) for number in _range(option, part)]


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
