"""A tensor as a table in long form: one row per number, a column per dim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from probe.errors import OutOfRange

if TYPE_CHECKING:
    import pandas

MOST_ROWS = 5_000_000
"""Rows that a table has at most: about half a gigabyte."""
_POSITIONS = ("pos", "query_pos", "key_pos")


@dataclass(frozen=True, eq=False)
class Prompted:
    """What the indices of a value of several prompts mean."""

    lengths: Int[Tensor, " batch"]
    positions: Int[Tensor, "batch kept"] | None
    """Which positions of each prompt were kept. None: all."""
    str_tokens: Sequence[Sequence[str]] | None
    heads: Sequence[int] | None
    """Which heads were kept. None: all."""
    layer: int | None


def long_table(value: Tensor, dims: Sequence[str], labels: Mapping[str, Sequence[Any]]) -> "pandas.DataFrame":
    """A column for each dim, holding its `labels` or else 0, 1, 2, ..., and then `value`."""
    import pandas  # half a second that only tables need

    columns = _columns(value, dims)
    for dim, of_dim in labels.items():
        columns[dim] = np.asarray(of_dim)[columns[dim]]
    return pandas.DataFrame(columns)


def prompted_table(value: Tensor, dims: Sequence[str], about: Prompted) -> "pandas.DataFrame":
    """The `long_table` of a value of prompts: numbers of layer, heads and positions, tokens, and no padding."""
    import pandas

    columns = _columns(value, dims)
    where = next((dim for dim in ("pos", "query_pos") if dim in dims), None)
    if about.heads is not None:
        for dim in {"head", "kv_head"} & {*dims}:
            columns[dim] = np.asarray(about.heads)[columns[dim]]
    if where is not None and about.positions is not None:
        own = about.positions.numpy()
        if "batch" in dims:
            columns[where] = own[columns["batch"], columns[where]]
        elif (own == own[0]).all():  # else a mean over other positions of each prompt: counted from 0
            columns[where] = own[0, columns[where]]
    if "batch" in dims:
        lengths = about.lengths.numpy()[columns["batch"]]
        real = np.logical_and.reduce([columns[dim] < lengths for dim in _POSITIONS if dim in dims])
        columns = {name: column[real] for name, column in columns.items()}
        if about.str_tokens is not None and where is not None:
            places = zip(columns["batch"].tolist(), columns[where].tolist(), strict=True)
            columns["token"] = np.array([about.str_tokens[prompt][position] for prompt, position in places], object)
    if about.layer is not None:
        columns = {"layer": np.full(len(columns["value"]), about.layer), **columns}
    table = pandas.DataFrame(columns)
    if "token" in columns:
        table.insert(list(columns).index(str(where)) + 1, "token", table.pop("token"))
    return table


def check_rows(what: str, n_rows: int, instead: str) -> None:
    """Raise OutOfRange for more rows than a table should have; `instead` says what to do."""
    if n_rows > MOST_ROWS:
        raise OutOfRange(f"{what}: a table of {n_rows:,} rows, and {MOST_ROWS:,} are the most; {instead}")


def _columns(value: Tensor, dims: Sequence[str]) -> dict[str, np.ndarray]:
    """Indices along each dim, and the numbers."""
    numbers = value.detach().to("cpu", torch.promote_types(value.dtype, torch.float32)).flatten().numpy()
    places = np.indices(tuple(value.shape)).reshape(value.ndim, -1)
    return {**dict(zip(dims, places, strict=True)), "value": numbers}
