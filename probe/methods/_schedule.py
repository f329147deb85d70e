"""Reruns in the order and the batches that fit a memory budget; what they will cost; finished batches kept on disk."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from probe.errors import OutOfRange
from probe.gpt import GPT
from probe.methods._reruns import RecordedRun, Row, Table
from probe.metrics import Measure
from probe.pieces import Pieces
from probe.plan import flops_per_second
from probe.prompts import PromptBatch
from probe.shown import Shown, Summary, count

if TYPE_CHECKING:
    import pandas

MEMORY = 1_000_000_000
"""Bytes that a sweep may take, where nothing else is said."""
_TOKENS_AT_ONCE = 2048
"""Tokens of one batch on a CPU: more are not faster there."""
_PROMPTS_AT_ONCE = 16
"""Prompts of one block, whose rows share batches."""


@dataclass(frozen=True)
class SweepPlan(Shown):
    """What a sweep will run, before anything does."""

    rows: int
    """Reruns: units x prompts x draws."""
    batches: int
    """Passes that they share."""
    bytes: int
    """The most memory that recordings and batches are expected to take at a time, beside the model."""
    flops: int
    seconds: float
    """Expected, from the speed of one of the model's own products just now; good to a factor of about two."""

    def summary(self) -> Summary:
        """The plan in a line, as `print` shows it."""
        return Summary(str(self))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row: passes, batches, megabytes, TFLOP, seconds."""
        import pandas  # half a second that only tables need

        numbers = {"edited_passes": self.rows, "batches": self.batches, "megabytes": self.bytes / 1e6}
        return pandas.DataFrame([{**numbers, "tflop": self.flops / 1e12, "seconds": self.seconds}])

    def __str__(self) -> str:
        return (
            f"{count(self.rows, 'edited pass', 'edited passes')} in {count(self.batches, 'batch', 'batches')}, "
            f"at most {self.bytes / 1e6:,.0f} MB, "
            f"{self.flops / 1e12:,.2f} TFLOP, about {self.seconds:,.0f} s"
        )


@dataclass(frozen=True, eq=False)
class Schedule:
    """The rows of a call, in blocks of prompts of similar length, each in batches."""

    model: GPT
    batch: PromptBatch
    measure: Measure
    sites: tuple[str, ...]
    """What is replaced."""
    rows: Callable[[Sequence[int]], list[Row]]
    """The rows of a block, whose prompts are numbered from 0 there."""
    memory: int
    copies: int = 1
    """How many further recordings a prompt needs, for its new values."""
    whole_copies: bool = False
    """Whether these are of everything that is recorded, or of the replaced sites alone."""
    more_numbers: int = 0
    """What new values take besides, for each token of a prompt."""
    only: Sequence[int] | None = None
    """The prompts that are run. None: all."""

    def blocks(self) -> list[list[int]]:
        """Prompts that are recorded together, shorter ones first."""
        chosen = range(len(self.batch.ids)) if self.only is None else self.only
        order = sorted(chosen, key=lambda row: self.batch.lengths[row])
        n = min(_PROMPTS_AT_ONCE, max(1, int(self.memory / 2 / self._prompt_bytes())))
        return [order[begin : begin + n] for begin in range(0, len(order), n)]

    def chunks(self, block: Sequence[int]) -> list[list[Row]]:
        """The rows of a block in batches; each holds rows that begin near one another."""
        rows = sorted(self.rows(block), key=lambda row: (min(row.positions), row.first_layer))
        n = self._rows_at_once(block)
        return [rows[begin : begin + n] for begin in range(0, len(rows), n)]

    def check(self) -> None:
        """Raise OutOfRange unless the budget holds at least one prompt and one row."""
        longest = max(range(len(self.batch.ids)), key=lambda row: self.batch.lengths[row])
        needed = self._prompt_bytes() + self._row_bytes([longest])
        if needed > self.memory:
            raise OutOfRange(
                f"memory={self.memory:,} bytes: one prompt and one edited pass need {needed:,}; give at least that"
            )

    def plan(self) -> SweepPlan:
        """Sizes and expected time; nothing is run but one product, to see how fast the machine is now."""
        n_rows, n_batches, flops, most = 0, 0, 0, 0
        for block in self.blocks():
            chunks = self.chunks(block)
            n_batches += len(chunks)
            n_rows += sum(len(chunk) for chunk in chunks)
            flops += sum(self._flops(block, row) for chunk in chunks for row in chunk)
            most = max(most, int(len(block) * self._prompt_bytes()) + max(map(len, chunks)) * self._row_bytes(block))
        tokens = min(_TOKENS_AT_ONCE, max(self.batch.lengths) * n_rows)
        return SweepPlan(n_rows, n_batches, most, flops, flops / flops_per_second(self.model, tokens))

    def _rows_at_once(self, block: Sequence[int]) -> int:
        left = self.memory - len(block) * self._prompt_bytes()
        fit = max(1, int(left / self._row_bytes(block)))
        if self.model.device.type == "cpu":
            fit = min(fit, max(1, _TOKENS_AT_ONCE // max(self.batch.lengths[row] for row in block)))
        return fit

    def _prompt_bytes(self) -> int:
        config = self.model.config
        sizes = {"z": config.n_heads * config.d_head, "post": config.d_mlp}
        replaced = sum(sizes.get(site, config.d_model) for site in self.sites)
        stream = 2 * config.d_model + 2 * config.kv_heads * config.d_head
        copied = stream + replaced if self.whole_copies else replaced
        per_token = config.n_layers * (stream + replaced + self.copies * copied) + self.more_numbers
        logits = self._read() * 2
        return int(self.model.dtype.itemsize * (max(self.batch.lengths) * per_token + logits))

    def _row_bytes(self, block: Sequence[int]) -> int:
        config = self.model.config
        n_pos = max(self.batch.lengths[row] for row in block)
        heads = config.n_heads * config.d_head
        attention = 3 * heads + 4 * config.kv_heads * config.d_head + 2 * config.d_model
        mlp = 4 * config.d_mlp + 2 * config.d_model
        per_token = 3 * config.d_model + max(attention, mlp)
        explicit = any(site in ("pattern", "attn_scores") for site in self.sites)
        scores = 4 * config.n_heads * n_pos * n_pos if explicit else 0
        return int(self.model.dtype.itemsize * (n_pos * per_token + scores + 4 * self._read()))

    def _read(self) -> int:
        tokens = self.measure.tokens
        return self.measure.positions.shape[1] * (self.model.config.n_outputs if tokens is None else tokens.shape[1])

    def _flops(self, block: Sequence[int], row: Row) -> int:
        config = self.model.config
        n_pos = max(self.batch.lengths[one] for one in block) - min(row.positions)
        attention = 2 * config.d_model * config.d_head * (2 * config.n_heads + 2 * config.kv_heads)
        mlp = 2 * config.d_model * config.d_mlp * (3 if config.gated_mlp else 2)
        layers = config.n_layers - row.first_layer
        per_token = layers * (attention + mlp) - (attention if row.begins_at_mid(config) else 0)
        return n_pos * per_token + 2 * config.d_model * self._read()


Begin = Callable[[RecordedRun, Sequence[int]], tuple[Table, dict[str, Float[Tensor, " prompt"]]]]
"""Look at a block that was just recorded: what its rows are given, and what else is kept of its prompts."""
Run = Callable[[RecordedRun, Sequence[Row], Table], dict[str, Float[Tensor, " row"]]]
"""What is kept of a batch of rows, by name."""


@dataclass(frozen=True, eq=False)
class Finished:
    """What a schedule gave."""

    rows: list[tuple[int, Row]]
    """(the prompt's number in the call, the row), of every finished prompt."""
    values: Mapping[str, Float[Tensor, " row"]]
    prompts: Mapping[str, Float[Tensor, " prompt"]]
    """By name: "base", the metric with nothing replaced, and what `begin` adds. NaN where a prompt was not reached."""
    complete: bool


def run_schedule(
    schedule: Schedule,
    begin: Begin,
    run: Run,
    *,
    folder: str | os.PathLike[str] | None,
    arguments: Mapping[str, Any],
    progress: bool,
    description: str,
    prepare: Callable[[], object] = lambda: None,
) -> Finished:
    """Run every batch that a folder does not hold yet. Without a folder, Ctrl-C returns the prompts that are done.

    `prepare` runs first, and makes what `begin` needs.
    """
    pieces = Pieces(folder, arguments)
    blocks = schedule.blocks()
    chunks = [schedule.chunks(block) for block in blocks]
    of_prompts: dict[str, Tensor] = {}
    found: list[dict[str, Tensor]] = []
    rows: list[tuple[int, Row]] = []
    n = len(schedule.batch.ids)
    bar = tqdm(total=sum(map(len, chunks)), desc=description, disable=None if progress else True, delay=1, leave=False)
    if progress and sys.stderr.isatty():
        tqdm.write(str(schedule.plan()), file=sys.stderr)
    try:
        prepare()
        for number, (block, of_block) in enumerate(zip(blocks, chunks, strict=True)):
            first, *finished = _run_block(schedule, number, block, of_block, begin, run, pieces, bar)
            for name, values in first.items():
                of_prompts.setdefault(name, values.new_full((n,), torch.nan))[block] = values
            found += finished
            rows += [(block[row.prompt], row) for chunk in of_block for row in chunk]
    except KeyboardInterrupt:
        if folder is not None or not found:
            raise
    finally:
        bar.close()
    values = {name: torch.cat([piece[name] for piece in found]) for name in found[0]}
    return Finished(
        rows, values, of_prompts, complete=len(rows) == sum(len(chunk) for of_block in chunks for chunk in of_block)
    )


def _run_block(
    schedule: Schedule, number: int, block: Sequence[int], chunks: Sequence[Sequence[Row]], begin: Begin, run: Run,
    pieces: Pieces, bar: Any,
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Values of the prompts, then what every batch gave. The block is recorded only if one of them is missing."""
    names = [f"prompts-{number:05}", *(f"prompts-{number:05}-batch-{place:05}" for place in range(len(chunks)))]
    if all(name in pieces for name in names):
        bar.update(len(chunks))
        yield from (pieces.get(name) for name in names)
        return
    batch = PromptBatch(tuple(schedule.batch.ids[row] for row in block))
    base = RecordedRun(schedule.model, batch, schedule.measure, block, schedule.sites)
    table, more = begin(base, block)
    if names[0] not in pieces:
        pieces.put(names[0], {"base": base.metric.float().cpu(), **{k: v.float().cpu() for k, v in more.items()}})
    yield pieces.get(names[0])
    for name, chunk in zip(names[1:], chunks, strict=True):
        if name not in pieces:
            pieces.put(name, {key: value.float().cpu() for key, value in run(base, chunk, table).items()})
        bar.update()
        yield pieces.get(name)
