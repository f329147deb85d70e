"""Vectors: lengths, angles, projections, and what fits into a space."""

import torch
from jaxtyping import Float
from torch import Tensor


def unit(vectors: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """The same directions at length one; a zero vector stays zero."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def cosine(a: Float[Tensor, "... d"], b: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Of the angle between two vectors; 0 where one is zero."""
    return (unit(a) * unit(b)).sum(-1)


def without(vectors: Float[Tensor, "... d"], direction: Float[Tensor, " d"]) -> Float[Tensor, "... d"]:
    """The vectors with what lies along a direction removed."""
    along = unit(direction)
    return vectors - (vectors @ along)[..., None] * along


def principal_direction(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The unit vector along which the vectors, as they are, are longest (their sign is arbitrary)."""
    return torch.linalg.svd(vectors, full_matrices=False).Vh[0]
