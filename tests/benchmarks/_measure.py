"""One way to measure for every case: the same answer first, then time and memory of both sides in one process.

Times are taken in the order A B B A, so that whatever slows the machine for a while slows both; each such block gives
one ratio. Reported are the median of the ratios and their quartiles. Results are dropped between calls, outside the
clock, and an accelerator has finished before the clock stops. How many blocks run follows from how long one takes.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _rivals import Rivals

import probe

MOST_BLOCKS = 30
TWICE = 15.0
"""Seconds: a block that takes less runs at least twice, whatever the budget says."""
LOGITS = 5e-3
"""How far logits may be apart. Those of Hugging Face's own two kinds of attention differ by up to 1e-3 on the default
model (1,024 random tokens, logits up to 34), ours from its sdpa by up to 2e-3, and at two positions by over 5e-4."""


class AnswersDiffer(Exception):
    """Two sides do not compute the same, so there is nothing to compare in time."""


@dataclass(frozen=True)
class Setting:
    """What every case is given."""

    source: str | None
    """A catalogue name, a folder or a .gguf file; None: the default model."""
    device: str
    quick: bool
    """Everything once, at few tokens: does it run?"""
    budget: float = 6.0
    """Seconds to spend on the blocks of one comparison; one or two always run."""

    @cached_property
    def model(self) -> probe.GPT:
        """Ours."""
        return probe.load_model(self.source, device=self.device)

    @cached_property
    def rivals(self) -> Rivals:
        """The same weights in other libraries."""
        return Rivals(self.model)

    def lengths(self, *wanted: int) -> tuple[int, ...]:
        """Prompt lengths in tokens; one short one when quick."""
        return (8,) if self.quick else tuple(n for n in wanted if n <= self.model.config.n_ctx)

    def tokens(self, n_pos: int, batch: int = 1) -> torch.Tensor:
        """Random ids (batch, pos), the same every time."""
        drawn = torch.randint(0, self.model.config.d_vocab, (batch, n_pos), generator=torch.Generator().manual_seed(1))
        return drawn.to(self.device)


@dataclass(frozen=True)
class Measured:
    """A comparison of two sides, or one number."""

    case: str
    against: str
    """The other side; empty for a number that stands alone."""
    value: float
    low: float
    high: float
    """Median and quartiles: of the ratio ours / theirs, or of the number."""
    unit: str
    """'ratio', or the unit of the number."""
    ours: float | None = None
    theirs: float | None = None
    """Median seconds."""
    our_memory: float | None = None
    their_memory: float | None = None
    """The most megabytes above what was there before the call; None where the machine does not tell."""
    blocks: int = 1
    """Of A B B A, or repeats."""
    difference: float | None = None
    """The largest difference between the two answers."""
    tolerance: float | None = None
    """How large it could have been."""
    bar: float | None = None
    """The value should not be above this; None: reported only."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is kept; None without one."""
        return None if self.bar is None else self.value <= self.bar


def compare(
    case: str, against: str, ours: Callable[[], Any], theirs: Callable[[], Any], setting: Setting, *,
    same: Callable[[Any, Any], float] | None, tolerance: float = 0.0, bar: float | None = None, scale: float = 1.0,
    note: str = "",
) -> Measured:  # fmt: skip
    """The time of `ours` over that of `theirs`, once `same` has found the answers no further apart than `tolerance`.

    `scale`: how many times as much work the whole of the other side would be, where only a part of it is timed; its
    time and the ratio are extrapolated, and `note` says so.
    """
    (mine, *first), (other, *second) = (peak(call, setting.device) for call in (ours, theirs))
    difference = None if same is None else same(mine, other)
    if difference is not None and not difference <= tolerance:
        raise AnswersDiffer(
            f"{case}, probe and {against}: the answers differ by {difference:g}, allowed: {tolerance:g}"
        )
    del mine, other
    if first[1] + second[1] < setting.budget:  # the first call also makes what is made once
        first, second = (peak(call, setting.device)[1:] for call in (ours, theirs))
    peaks, times = zip(first, second, strict=True)
    block = 2 * sum(times)
    least = 2 if block < TWICE else 1
    blocks = 1 if setting.quick else max(least, min(MOST_BLOCKS, int(setting.budget / block)))
    taken = [[seconds(call, setting.device) for call in (ours, theirs, theirs, ours)] for _ in range(blocks)]
    ratio = [(first + last) / (second + third) / scale for first, second, third, last in taken]
    middle, low, high = spread(ratio)
    return Measured(
        case, against, middle, low, high, "ratio", blocks=blocks, difference=difference, bar=bar, note=note,
        tolerance=None if same is None else tolerance,
        ours=statistics.median(t for first, _, _, last in taken for t in (first, last)),
        theirs=scale * statistics.median(t for _, second, third, _ in taken for t in (second, third)),
        our_memory=peaks[0], their_memory=peaks[1],
    )  # fmt: skip


def number(case: str, values: Iterable[float], unit: str, *, bar: float | None = None, note: str = "") -> Measured:
    """One quantity, measured several times."""
    values = list(values)
    return Measured(case, "", *spread(values), unit, blocks=len(values), bar=bar, note=note)


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    """How long one call takes; its result is dropped after the clock has stopped."""
    wait(device)
    start = time.perf_counter()
    result = call()
    wait(device)
    taken = time.perf_counter() - start
    del result
    return taken


def wait(device: str) -> None:
    """Until an accelerator has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def peak(call: Callable[[], Any], device: str = "cpu") -> tuple[Any, float | None, float]:
    """What a call gives, the most megabytes that it holds above those before it, its result included, and seconds."""
    gc.collect()
    most = _most_from_now(device)
    start = time.perf_counter()
    result = call()
    wait(device)
    taken = time.perf_counter() - start
    return result, None if most is None else most(), taken


def _most_from_now(device: str) -> Callable[[], float] | None:
    """A function that says by how many megabytes memory has grown at most since now; None where nothing tells."""
    if device != "cpu":
        wait(device)
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - held) / 1e6
    if not Path("/proc/self/clear_refs").exists():
        return None
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # what was freed goes back, or the call would grow into it unseen
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is now
    before = _most_resident()
    return lambda: _most_resident() - before


def _most_resident() -> float:
    """The most megabytes of this process in memory since that was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def left_alive(call: Callable[[], Any]) -> float:
    """Megabytes of tensors that are there after a call, its result dropped, and were not before it."""
    call()  # what is made once and kept is no leak
    gc.collect()
    before = _alive()
    call()
    return (_alive() - before) / 1e6


def _alive() -> int:
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def spread(numbers: list[float]) -> tuple[float, float, float]:
    """Median and quartiles; of one number, that number."""
    low, middle, high = statistics.quantiles(numbers, n=4) if len(numbers) > 1 else numbers * 3
    return middle, low, high


def largest_difference(mine: torch.Tensor, other: torch.Tensor) -> float:
    """Of two tensors of one shape; NaN is no agreement."""
    assert mine.shape == other.shape, f"{tuple(mine.shape)} and {tuple(other.shape)}"
    return float((mine.float() - other.float()).abs().max())
