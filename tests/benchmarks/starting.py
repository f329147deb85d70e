"""What a start costs: the import, loading a model, and memory up to the first logits. Each in processes of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from _measure import Measured, Setting, number, spread

LOADED = """
import resource, sys, time
start = time.perf_counter()
{load}
loaded = time.perf_counter() - start
import torch
with torch.no_grad():
    model(torch.tensor([[1, 2, 3, 4]]))
weights = 4 * sum(p.numel() for p in model.parameters())
if sys.platform == "linux":  # ru_maxrss begins with that of the process which started this one
    peak = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(loaded, peak, weights)
"""
OURS = "import probe; model = probe.load_model({source!r}, device='cpu')"
THEIRS = """
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained({folder!r}, dtype=torch.float32)
"""


def measure(setting: Setting) -> Iterator[Measured]:
    """All of it."""
    repeats = 1 if setting.quick else 3
    yield importing(repeats)
    yield from loading(setting, repeats)


def importing(repeats: int) -> Measured:
    """`import probe` beyond `import torch`."""
    blocks = [
        [fresh_process(f"import {name}")[1] for name in ("probe", "torch", "torch", "probe")] for _ in range(repeats)
    ]
    extra = [(first + last - second - third) / 2 for first, second, third, last in blocks]
    torch_alone = spread([t for _, second, third, _ in blocks for t in (second, third)])[0]
    return number("import probe, beyond import torch", extra, "s", bar=0.3, note=f"torch {torch_alone:.2f} s")


def loading(setting: Setting, repeats: int) -> Iterator[Measured]:
    """Imports included, from what we are given; Hugging Face's from a folder of float32 weights."""
    ours, theirs = OURS.format(source=setting.source), THEIRS.format(folder=setting.rivals.folder)
    runs = [[loaded(code) for code in (ours, theirs, theirs, ours)] for _ in range(repeats)]
    middle, low, high = spread([(a[0] + d[0]) / (b[0] + c[0]) for a, b, c, d in runs])
    one = Measured("import and load the model", "Hugging Face", middle, low, high, "ratio", blocks=repeats, bar=1.0)
    yield replace(
        one,
        ours=spread([run[0] for a, _, _, d in runs for run in (a, d)])[0],
        theirs=spread([run[0] for _, b, c, _ in runs for run in (b, c)])[0],
        our_memory=spread([run[1] / 1e6 for a, _, _, d in runs for run in (a, d)])[0],
        their_memory=spread([run[1] / 1e6 for _, b, c, _ in runs for run in (b, c)])[0],
        note="ours from the file named, theirs from a folder of float32 weights; memory of the whole process",
    )
    shares = [run[1] / run[2] for a, _, _, d in runs for run in (a, d)]
    yield number("peak memory up to the first logits, over the float32 weights", shares, "times", bar=2.2)


def loaded(load: str) -> tuple[float, float, float]:
    """Seconds to load, the process's peak of bytes, and the bytes of its weights."""
    seconds, peak, weights = map(float, fresh_process(LOADED.format(load=load))[0].split()[-3:])
    return seconds, peak, weights


def fresh_process(code: str) -> tuple[str, float]:
    """What a new Python prints, and the seconds from its start to its end."""
    start = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    return output, time.perf_counter() - start
