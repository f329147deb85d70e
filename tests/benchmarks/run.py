"""All benchmarks, on the CPU and, where there is one, on a CUDA device; one table, and a report in out/bench/.

    python tests/benchmarks/run.py [--quick] [--only CASE ...] [--model NAME_OR_PATH] [--threads N] [--out FOLDER]

Each case compares both sides on the same weights, once their answers have been found equal to a stated tolerance. On a
machine that others use at the same time, `--threads 1` is steadier: two threads of one sum wait for each other.
"""

import argparse
import sys
import time
from pathlib import Path
from types import ModuleType

import dashboard
import generation
import lens
import passes
import recording
import starting
import sweeps
import torch
import words
from _measure import AnswersDiffer, Measured, Setting
from _report import final_table, line, machine, write_report

ON_EVERY_DEVICE = {
    "passes": passes, "recording": recording, "sweeps": sweeps, "lens": lens, "generation": generation
}  # fmt: skip
ON_THE_CPU = {"words": words, "starting": starting, "dashboard": dashboard}
WRONG = "NOT THE SAME"
CASES = (*ON_EVERY_DEVICE, *ON_THE_CPU)


def main() -> None:
    """Measure, print, write; ends with 1 if two sides did not compute the same."""
    arguments = read_options()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    start, found, left_out = time.perf_counter(), {}, []
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    settings = [Setting(arguments.model, device, arguments.quick, arguments.budget) for device in devices]
    name = settings[0].model.name
    for setting in settings:
        print(f"{name} on {setting.device}: {machine()}", flush=True)
        cases = {**ON_EVERY_DEVICE, **(ON_THE_CPU if setting.device == "cpu" else {})}
        found[setting.device] = []
        for case, module in cases.items():
            if case in (arguments.only or cases):
                began = time.perf_counter()
                left_out += measure(case, module, setting, found[setting.device])
                print(f"-- {case}: {time.perf_counter() - began:.0f} s", flush=True)
    path = write_report(arguments.out, name, found, left_out, time.perf_counter() - start)
    print(f"\n{final_table(found)}\n{(time.perf_counter() - start) / 60:.1f} minutes; written to {path}", flush=True)
    sys.exit(any(WRONG in text for text in left_out))


def measure(case: str, module: ModuleType, setting: Setting, found: list[Measured]) -> list[str]:
    """Add a case's numbers to those found; what was left out, and why."""
    lacking = module.missing() if hasattr(module, "missing") else None
    if lacking:
        print(f"{case} left out: {lacking}", flush=True)
        return [f"{case}: {lacking}"]
    try:
        for one in module.measure(setting):
            print(line(one), flush=True)
            found.append(one)
    except AnswersDiffer as error:
        print(f"{WRONG}: {error}", flush=True)
        return [f"{case}, from here on: {WRONG}: {error}"]
    if case == "recording" and setting.rivals.nnsight is None:
        return ["nnsight: not installed"]
    return []


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="everything once, at few tokens: does it run?")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--model", help="a known name, a folder or a .gguf file; left out: the default model")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds for the blocks of one comparison; default 6")
    parser.add_argument("--threads", type=int, help="torch's threads; left out: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
