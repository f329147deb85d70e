"""What recording costs, against the same pass without it; what a start and an import cost.

    python tests/benchmarks/record.py [--model NAME_OR_PATH] [--json FILE] [--pairs N] [--threads N] [--quick]

Two things are compared in one process, in the order A B B A, so that whatever slows the machine for a while slows both;
each such block gives one ratio. Reported are the median of the ratios and their quartiles. Results are dropped between
repeats, outside the clock. Nothing is set on the process: memory comes as the allocator gives it to any user. On a
machine that others use at the same time, `--threads 1` is steadier: two threads of one sum wait for each other.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import probe
from probe.gpt import GPT

RESIDUALS = ["resid_pre", "resid_mid", "resid_post"]
PAIRS = {16: 60, 256: 16, 1024: 6}
"""Blocks of A B B A by prompt length: enough for a median to settle, in minutes on two cores."""


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


class AskForAttention:
    """A tap that wants every layer's scores and pattern, so that attention computes them, and keeps nothing."""

    def __call__(self, name, value):
        return value

    def wants(self, name):
        return True

    def scope(self, prefix):
        return self


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


def recording_costs(model: GPT, pairs: dict[int, int]) -> list[Measured]:
    """Everything, and residuals only, at three lengths."""
    found = []
    for n_pos, blocks in pairs.items():
        tokens = torch.randint(0, model.config.d_vocab, (1, n_pos), generator=torch.Generator().manual_seed(n_pos))

        @torch.no_grad()
        def explicit(tokens=tokens):
            return model(tokens, tap=AskForAttention())

        @torch.no_grad()
        def plain(tokens=tokens):
            return model(tokens)

        def everything(tokens=tokens):
            return probe.record(model, tokens)

        def residuals(tokens=tokens):
            return probe.record(model, tokens, sites=RESIDUALS)

        found.append(
            compare(
                f"record everything / explicit attention, {n_pos} tokens", everything, explicit,
                pairs=blocks, bar=1.15 if n_pos <= 256 else None,
            )
        )  # fmt: skip
        print(found[-1], flush=True)
        name = f"record residuals / plain pass, {n_pos} tokens"
        found.append(compare(name, residuals, plain, pairs=2 * blocks, bar=1.03))
        print(found[-1], flush=True)
    return found


def partial_passes(model: GPT, *, n_pos: int, pairs: int) -> list[Measured]:
    """A pass costs the layers that it runs."""
    tokens = torch.randint(0, model.config.d_vocab, (1, n_pos), generator=torch.Generator().manual_seed(0))
    last = model.config.n_layers - 1
    resid = probe.record(model, tokens, sites="resid_pre", layers=last, logits=False)["resid_pre", last]

    def whole():
        return probe.record(model, tokens, sites=[], logits=False)

    def only_first():
        return probe.record(model, tokens, sites=[], stop_after_layer=0)

    def only_last():
        return probe.record(model, resid, sites=[], start_at_layer=last, logits=False)

    name = f"/ all {last + 1} layers, no logits, {n_pos} tokens"
    found = [
        compare(f"first layer only {name}", only_first, whole, pairs=pairs),
        compare(f"last layer only {name}", only_last, whole, pairs=pairs),
    ]
    print(*found, sep="\n", flush=True)
    return found


def import_time(repeats: int) -> Measured:
    """`import probe` beyond `import torch`, in fresh processes."""
    blocks = [
        [fresh_process(f"import {name}") for name in ("probe", "torch", "torch", "probe")] for _ in range(repeats)
    ]
    extra = [(first + last - second - third) / 2 for first, second, third, last in blocks]
    low, middle, high = statistics.quantiles(extra, n=4)
    torch_alone = statistics.median(t for _, second, third, _ in blocks for t in (second, third))
    measured = Measured("import probe beyond import torch", middle, low, high, "s", f"torch {torch_alone:.2f} s", 0.3)
    print(measured, flush=True)
    return measured


def start_to_logits(model: str | None, repeats: int) -> list[Measured]:
    """From process start to the first logits, and the most memory that took, over the float32 weights."""
    code = (
        "import probe, torch, resource, sys\n"
        f"model = probe.load_model({model!r})\n"
        "with torch.no_grad():\n"
        "    model(torch.tensor([[1, 2, 3, 4]]))\n"
        "weights = 4 * sum(p.numel() for p in model.parameters())\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)\n"
        "print(peak, weights)"
    )
    times, peaks = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        times.append(time.perf_counter() - start)
        peak, weights = map(int, output.split()[-2:])
        peaks.append(peak / weights)
    detail = f"median of {repeats} processes"
    found = [
        Measured("process start to first logits", *spread(times), "s", detail, 5.0),
        Measured("peak memory / float32 weights", *spread(peaks), "ratio", detail, 2.2),
    ]
    print(*found, sep="\n", flush=True)
    return found


def spread(numbers: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(numbers, n=4)
    return middle, low, high


def fresh_process(code: str) -> float:
    """Seconds from starting Python to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


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


def main() -> None:
    """Measure and print all; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a known name, a folder or a .gguf file; left out: the default model")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--pairs", type=int, help=f"blocks of A B B A at every length; left out: {PAIRS}")
    parser.add_argument("--threads", type=int, help="torch's threads in this process; left out: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="a few blocks at 16 tokens: does the script run?")
    arguments = parser.parse_args()
    pairs = {16: 3} if arguments.quick else {n: arguments.pairs or blocks for n, blocks in PAIRS.items()}
    repeats = 2 if arguments.quick else 5
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = probe.load_model(arguments.model)
    print(f"{model.name} on {hardware()}", flush=True)
    found = recording_costs(model, pairs)
    found += partial_passes(model, n_pos=max(n for n in pairs if n <= 256), pairs=pairs[16])
    found.append(import_time(repeats))
    found += start_to_logits(arguments.model, repeats)
    if arguments.json:
        results = {"model": model.name, "hardware": hardware(), "measured": [asdict(one) for one in found]}
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
