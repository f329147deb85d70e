"""The numbers as one table, in the terminal and in files with the date, the machine and the versions."""

import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from _measure import Measured

PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight", "gensim", "numpy")
HEADS = (
    "case", "against", "ours", "theirs", "ours / theirs", "quartiles", "peak MB", "blocks", "difference", "bar", "note"
)  # fmt: skip


def write_report(folder: Path, model: str, found: dict[str, list[Measured]], left_out: list[str], took: float) -> Path:
    """DATE.md and DATE.json in the folder; the path of the first."""
    now = datetime.datetime.now().astimezone()
    facts = {
        "date": now.isoformat(timespec="seconds"), "model": model, "machine": machine(), "versions": versions(),
        "minutes": round(took / 60, 1), "left out": left_out,
    }  # fmt: skip
    lines = ["# Benchmarks", "", *(f"* {name}: {fact_text(fact)}" for name, fact in facts.items() if fact), ""]
    for device, numbers in found.items():
        lines += [f"## On {device}", "", row(HEADS), row(["---"] * len(HEADS)), *(row(cells(n)) for n in numbers), ""]
    for device, numbers in found.items():
        lines += [f"## On {device}, in short", "", *short_table(numbers), ""]
    lines.append("Peak MB: ours / theirs, above what was there before the call. Blocks: of A B B A, or repeats.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d-%H%M}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    measured = {device: [asdict(one) for one in numbers] for device, numbers in found.items()}
    path.with_suffix(".json").write_text(json.dumps({**facts, "measured": measured}, indent=1), encoding="utf-8")
    return path


def final_table(found: dict[str, list[Measured]]) -> str:
    """Case, number, bar; a line each."""
    lines = []
    for device, numbers in found.items():
        lines += [f"on {device}", *(line(one) for one in numbers)]
        judged = [one for one in numbers if one.bar is not None]
        lines.append(f"{sum(bool(one.met) for one in judged)} of {len(judged)} bars met")
    return "\n".join(lines)


def line(one: Measured) -> str:
    """One number, for the terminal."""
    name = f"{one.case} / {one.against}" if one.against else one.case
    times = "" if one.ours is None else f"  {seconds_text(one.ours)} / {seconds_text(one.theirs)}"
    memory = "" if one.our_memory is None else f"  {one.our_memory:.0f} / {one.their_memory:.0f} MB"
    judged = "" if one.bar is None else f"  bar {one.bar:.3g}: {'met' if one.met else 'MISSED'}"
    unit = "x" if one.unit == "ratio" else f" {one.unit}"
    return f"{name:76} {one.value:7.3f}{unit} ({one.low:.3f} to {one.high:.3f}){times}{memory}{judged}"


def cells(one: Measured) -> list[str]:
    """One number, for the table in the file."""
    alone = one.ours is None
    bar = "" if one.bar is None else f"{one.bar:.3g} {'met' if one.met else '**missed**'}"
    return [
        one.case, one.against, "" if alone else seconds_text(one.ours), "" if alone else seconds_text(one.theirs),
        f"{one.value:.3f}" + ("" if one.unit == "ratio" else f" {one.unit}"), f"{one.low:.3f} to {one.high:.3f}",
        "" if one.our_memory is None else f"{one.our_memory:.0f} / {one.their_memory:.0f}", str(one.blocks),
        "" if one.difference is None else f"{one.difference:.1e} (allowed {one.tolerance:g})", bar, one.note,
    ]  # fmt: skip


def short_table(numbers: list[Measured]) -> list[str]:
    """What has a bar, as the README shows it."""
    heads = ("case", "beside", "ours", "theirs", "ours / theirs", "bar")
    rows = []
    for one in numbers:
        if one.bar is not None:
            case, against, ours, theirs, value, *_ = cells(one)
            value = f"**{value}**" if one.met else value
            alone = one.ours is None
            rows.append([case, against, value if alone else ours, theirs, "" if alone else value, f"{one.bar:.3g}"])
    return [row(heads), row(["---"] * len(heads)), *map(row, rows)]


def seconds_text(seconds: float | None) -> str:
    """Milliseconds below one second."""
    assert seconds is not None, "both sides of a comparison have a time"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def row(texts) -> str:
    """Of a markdown table."""
    return "| " + " | ".join(texts) + " |"


def fact_text(fact) -> str:
    """A dict or a list on one line."""
    if isinstance(fact, dict):
        return ", ".join(f"{name} {version}" for name, version in fact.items())
    return "; ".join(fact) if isinstance(fact, list) else str(fact)


def machine() -> str:
    """Processor, cores, load, memory, threads, accelerator."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{load}, torch with {torch.get_num_threads()} threads{card}"


def versions() -> dict[str, str]:
    """Of Python and of what is compared."""
    found = {"Python": f"{platform.python_version()} on {platform.system()}"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
