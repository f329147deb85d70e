"""What the commands print of their results, for people and as JSON values for programs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probe.cli._sizes import kinds_kept
from probe.figures.page import Table
from probe.methods.check import CheckReport
from probe.plan import RecordingPlan
from probe.recording import Recording
from probe.terminal import output, show_table, show_words
from probe.tokens import show_token


def recording_as_json(recording: Recording, plan: RecordingPlan, seconds: float, out: Path | None) -> dict[str, Any]:
    """What was kept, how large, and how it came about."""
    return {
        "manifest": dict(recording.manifest),
        "tokens": [] if recording.tokens is None else recording.tokens[0].tolist(),
        "str_tokens": _texts(recording),
        "values": [
            {"name": name, "shape": list(shape), "bytes": plan.sizes[name]} for name, shape in plan.shapes.items()
        ],
        "bytes": plan.bytes,
        "planned_seconds": plan.seconds,
        "seconds": seconds,
        "folder": None if out is None else str(out),
    }


def show_recording(recording: Recording, plan: RecordingPlan, seconds: float, out: Path | None) -> None:
    """Tokens, plan, and one line per kind of value."""
    console = output()
    texts = _texts(recording)
    tokens = " ".join(f"{show_token(text)}[{position}]" for position, text in enumerate(texts))
    show_words(console, [f"{recording.manifest['model']} on {len(texts)} tokens: {tokens}"])
    show_words(console, [f"Planned: {plan}. Measured: {seconds:.2g} s."])
    rows = [
        (kind.short, " ".join(kind.dims), " x ".join(map(str, kind.shape)), kind.layers, f"{kind.bytes / 1e6:,.2f}")
        for kind in kinds_kept(plan)
    ]
    show_table(console, Table(("value", "dims", "shape", "layers", "MB"), rows))
    if out is not None:
        show_words(console, [f"Saved in {out}; probe.Recording.load({str(out)!r}) reads it back, without the model."])


def show_report(report: CheckReport) -> None:
    """One line per identity, then the verdict."""
    console = output()
    show_words(console, [f"Identities of {report.model}, as relative differences (rms of what is compared = 1):"])
    rows = [
        ("ok" if row.passed else "FAILED", row.identity, f"{row.measured:.1e}", f"{row.tolerance:.1e}")
        for row in report.rows
    ]
    show_table(console, Table(("", "identity", "measured", "at most"), rows))
    failed = sum(not row.passed for row in report.rows)
    n = len(report.rows)
    show_words(console, [*report.notes, f"{failed} of {n} failed." if failed else f"All {n} hold."])


def report_as_json(report: CheckReport) -> dict[str, Any]:
    """Numbers and verdict; a measurement that is no number is null."""
    rows = [
        {
            "identity": row.identity, "tolerance": row.tolerance, "passed": row.passed,
            "measured": row.measured if math.isfinite(row.measured) else None,
        }
        for row in report.rows
    ]  # fmt: skip
    return {"model": report.model, "passed": report.passed, "rows": rows, "notes": report.notes, **report.manifest}


def show_known(models: Sequence[dict[str, Any]], words: Sequence[dict[str, Any]], cache: str) -> None:
    """Name, description, facts and source of each."""
    console = output()
    sizes = [f"{model['parameters'] / 1e6:,.1f} million weights" for model in models]
    sizes += [f"{one['n_words']:,} words" for one in words]
    for known, size in zip([*models, *words], sizes, strict=True):
        state = f"cached, {known['cached_bytes'] / 1e6:,.0f} MB" if known["cached"] else "not fetched yet"
        show_words(console, [f"{known['name']}{' (default)' if known['default'] else ''}"])
        facts = f"{size}; {known['licence']}; {known['bytes'] / 1e6:,.0f} MB; {state}"
        show_words(console, [known["description"], facts, f"from {known['source']}"], indent=2)
    show_words(console, [f"Cache: {cache} (PROBE_CACHE moves it)"])
    show_words(console, ["Folders in Hugging Face's layout and .gguf, .pt and .pth files work too: --model PATH"])


def _texts(recording: Recording) -> list[str]:
    assert recording.str_tokens is not None, "the command line records text"
    return recording.str_tokens[0]
