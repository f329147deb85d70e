"""Vectors: lengths, angles, projections, and what fits into a space."""

import torch
from jaxtyping import Float
from torch import Tensor


def unit(vectors: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Each vector divided by its length; a zero vector stays zero."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def cosine(a: Float[Tensor, "... d"], b: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Cosine of the angle between two vectors, -1 to 1; 0 where one of them is zero."""
    return (unit(a) * unit(b)).sum(-1)


def without(vectors: Float[Tensor, "... d"], direction: Float[Tensor, " d"]) -> Float[Tensor, "... d"]:
    """The vectors with what lies along a direction removed."""
    along = unit(direction)
    return vectors - (vectors @ along)[..., None] * along


def principal_direction(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The unit vector along which the vectors, as they are, are longest (their sign is arbitrary)."""
    return torch.linalg.svd(vectors, full_matrices=False).Vh[0]


def chance_cosine(d: int, share: float = 0.95) -> float:
    """How far from zero the cosine of a vector with a random direction is at most, for this share of all directions.

    Its square follows the Beta distribution with 1/2 and (d - 1)/2.
    """
    from scipy.stats import beta  # half a second that little else needs

    return float(beta.ppf(share, 0.5, (d - 1) / 2)) ** 0.5 if d > 1 else 1.0
