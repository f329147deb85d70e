"""What every benchmark shares: two things compared in one process, and how the numbers are shown and kept.

The order is A B B A, so that whatever slows the machine for a while slows both; each such block gives one ratio.
Reported are the median of the ratios and their quartiles. Results are dropped between repeats, outside the clock.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Measured:
    """One ratio, or one number with its unit."""

    name: str
    value: float
    low: float
    high: float
    """Quartiles."""
    unit: str
    """'ratio' of A to B, or 's'."""
    detail: str
    bar: float | None = None
    """Should not be above this; None: reported only."""

    def __str__(self) -> str:
        judged = "" if self.bar is None else f"  bar {self.bar:g}: {'met' if self.value <= self.bar else 'MISSED'}"
        unit = "x" if self.unit == "ratio" else f" {self.unit}"
        return f"{self.name:58} {self.value:7.3f}{unit}  ({self.low:.3f} to {self.high:.3f})  {self.detail}{judged}"


def compare(name: str, a: Callable, b: Callable, *, pairs: int, bar: float | None = None) -> Measured:
    """The time of `a` over that of `b`."""
    for warm in (a, b):
        warm()
    blocks = [[seconds(call) for call in (a, b, b, a)] for _ in range(pairs)]
    ratios = [(first + last) / (second + third) for first, second, third, last in blocks]
    low, middle, high = statistics.quantiles(ratios, n=4)
    time_a = statistics.median(t for first, _, _, last in blocks for t in (first, last))
    time_b = statistics.median(t for _, second, third, _ in blocks for t in (second, third))
    return Measured(
        name, middle, low, high, "ratio", f"{time_a * 1e3:.1f} / {time_b * 1e3:.1f} ms, {pairs} blocks", bar
    )


def seconds(call: Callable) -> float:
    """How long one call takes; its result is dropped after the clock has stopped."""
    start = time.perf_counter()
    result = call()
    taken = time.perf_counter() - start
    del result
    return taken


def spread(numbers: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(numbers, n=4)
    return middle, low, high


def hardware() -> str:
    """Processor, cores, memory, torch."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{cpu}, {os.cpu_count()} cores{load}; {platform.system()}, Python {platform.python_version()}, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads"
    )


def read_options(description: str, more: Callable[[argparse.ArgumentParser], object] = lambda _: None):
    """--model, --json, --threads, --quick, and what a benchmark adds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="a known name, a folder or a .gguf file; left out: the default model")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--threads", type=int, help="torch's threads in this process; left out: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="a few blocks only: does the script run?")
    more(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def write_json(path: Path | None, model: str, found: list[Measured]) -> None:
    """Keep the numbers, if asked."""
    if path is not None:
        results = {"model": model, "hardware": hardware(), "measured": [asdict(one) for one in found]}
        path.write_text(json.dumps(results, indent=1))
