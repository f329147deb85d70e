"""What recording costs, against the same pass without it; what a start and an import cost.

    python tests/benchmarks/record.py [--model NAME_OR_PATH] [--json FILE] [--pairs N] [--threads N] [--quick]

Nothing is set on the process: memory comes as the allocator gives it to any user. On a machine that others use at the
same time, `--threads 1` is steadier: two threads of one sum wait for each other.
"""

import statistics
import subprocess
import sys
import time

import torch
from _measure import Measured, compare, hardware, read_options, spread, write_json

import probe
from probe.gpt import GPT

RESIDUALS = ["resid_pre", "resid_mid", "resid_post"]
PAIRS = {16: 60, 256: 16, 1024: 6}
"""Blocks of A B B A by prompt length: enough for a median to settle, in minutes on two cores."""


class AskForAttention:
    """A tap that wants every layer's scores and pattern, so that attention computes them, and keeps nothing."""

    def __call__(self, name, value):
        return value

    def wants(self, name):
        return True

    def scope(self, prefix):
        return self


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


def fresh_process(code: str) -> float:
    """Seconds from starting Python to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print all; write JSON if asked."""
    arguments = read_options(
        __doc__.splitlines()[0],
        lambda parser: parser.add_argument(
            "--pairs", type=int, help=f"blocks of A B B A at every length; left out: {PAIRS}"
        ),
    )
    pairs = {16: 3} if arguments.quick else {n: arguments.pairs or blocks for n, blocks in PAIRS.items()}
    repeats = 2 if arguments.quick else 5
    model = probe.load_model(arguments.model)
    print(f"{model.name} on {hardware()}", flush=True)
    found = recording_costs(model, pairs)
    found += partial_passes(model, n_pos=max(n for n in pairs if n <= 256), pairs=pairs[16])
    found.append(import_time(repeats))
    found += start_to_logits(arguments.model, repeats)
    write_json(arguments.json, model.name, found)


if __name__ == "__main__":
    main()
