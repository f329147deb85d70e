"""Results of one call that was made piece by piece, put together: what they have to share, and their tensors."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probe.arguments import brief
from probe.errors import DifferentModel, OutOfRange, WrongType
from probe.results import Result


def check_joined(
    name: str, results: Sequence[Any], kind: type[Result], shared: Callable[[Any], Mapping[str, Any]]
) -> None:  # fmt: skip
    """Check that these belong together; `shared` says of each what has to be as in the others.

    Raises:
        OutOfRange: no results, or some that differ in what they have to share.
        WrongType: results of another kind.
        DifferentModel: results of models with other weights.
    """
    if not results:
        raise OutOfRange(f"{name}: the list is empty; give at least one {kind.__name__}")
    for result in results:
        if not isinstance(result, kind):
            raise WrongType(f"{name}: {brief(result)} is among them; expected each to be of the kind {kind.__name__}")
    first, *others = results
    expected = shared(first)
    for other in others:
        if other.manifest["fingerprint"] != first.manifest["fingerprint"]:
            raise DifferentModel(
                f"{name}: of {first.manifest['model']!r} and of {other.manifest['model']!r}, whose weights differ"
            )
        differing = [what for what, value in shared(other).items() if value != expected[what]]
        if differing:
            raise OutOfRange(f"{name}: they differ in {', '.join(differing)}; expected pieces of one call")


def join_tensors(results: Sequence[Any], dim: str, order: Sequence[int]) -> dict[str, Tensor]:
    """The tensors with this dim, by the names of their fields: of all results along it, then in this order."""
    found = {}
    for field in dataclasses.fields(results[0]):
        dims = getattr(field.type, "dim_str", "").split()
        if dim in dims:
            values = torch.cat([getattr(result, field.name) for result in results], dim=dims.index(dim))
            found[field.name] = values.index_select(dims.index(dim), torch.tensor(order))
    return found
