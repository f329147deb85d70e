"""Reductions of a value while a pass runs, so that the value itself need not be kept."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.errors import BadShape, unknown_name
from probe.norms import at_least_float32

NamedReduction = Literal["mean", "sum", "mean per position"]
Reduction = NamedReduction | Callable[[Tensor, Bool[Tensor, "batch pos"]], Tensor]


def check_reduction(site: str, how: object) -> None:
    """Raise UnknownName unless ``how`` is a reduction."""
    if not callable(how) and how not in get_args(NamedReduction):
        raise unknown_name(
            f"reduction of {site!r} by", how, get_args(NamedReduction), hint="or a function(value, real)"
        )


def reduce_value(
    how: Reduction, dims: tuple[str, ...], value: Tensor, *, real: Tensor | None, prompts: Bool[Tensor, "batch pos"]
) -> Tensor:
    """A value without its prompts. 'mean' and 'sum' are over prompts and real positions (of patterns: queries), 'mean
    per position' over prompts; a function gets the value, padded entries NaN, and ``prompts``, which says what is real.

    Sums are made in float32 or better; ``real`` is broadcastable to the value.
    """
    if callable(how):
        # A copy: the pass goes on with the value, and the function may write into what it gets.
        reduced = how(value.clone() if real is None else value.masked_fill(~real, torch.nan), prompts)
        if not isinstance(reduced, Tensor):
            raise BadShape(f"a reduction returned {type(reduced).__name__}, expected a tensor")
        return reduced.clone()  # it may be part of a larger tensor, which would stay in memory with it
    over = [dims.index(dim) for dim in taken_away(how, dims)]
    precise = at_least_float32(value)
    if real is None:
        return precise.sum(over) if how == "sum" else precise.mean(over)
    total = torch.where(real, precise, 0.0).sum(over)
    return total if how == "sum" else total / real.expand_as(value).sum(over)


def taken_away(how: NamedReduction, dims: tuple[str, ...]) -> tuple[str, ...]:
    """The dims of a value of which a reduction by name leaves nothing."""
    return tuple(dim for dim in dims if dim == "batch" or (how != "mean per position" and dim in _POSITIONS))


_POSITIONS = ("pos", "query_pos")
