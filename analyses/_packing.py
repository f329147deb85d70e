"""How many directions fit at nearly right angles: bounds, random sets, and sets that are made.

Two directions are perpendicular within e degrees where the angle between them is 90 - e to 90 + e, that is, where
|cosine| <= sin(e). A vector and its opposite are one direction.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.geometry import unit

Kind = Literal["random", "optimised", "built", "Welch"]
"""Drawn until the first pair fails; pushed apart; unbiased bases; the most that the bound allows."""
GRID = 200_001
"""Points of an integral over 90 degrees; at 12,288 dimensions the density is half a degree wide: 1,100 of them."""
ADVANCE = 0.05
MOMENTUM = 0.9
MARGIN = 0.99
"""Pairs are pushed to this share of what is allowed, so that they get there in finitely many steps."""
POLYNOMIALS = {3: 0b1011, 5: 0b100101, 7: 0b10000011, 9: 0b1000010001, 11: 0b100000000101}
"""Irreducible over the field of two elements, by degree."""


@dataclass(frozen=True)
class Packing:
    """How many directions one way of choosing them fits into a space."""

    kind: Kind
    degrees: float
    """Tolerance on either side of 90."""
    d: int
    n: float
    capped: bool = False
    """The search stopped here: at least so many."""


def pair_chance(d: int, degrees: float) -> float:
    """Probability that two random directions in d dimensions are not perpendicular within the tolerance.

    The angle f off perpendicular has density proportional to cos(f)^(d - 2), so this is a ratio of two integrals.
    """
    off = torch.linspace(math.radians(degrees), math.pi / 2, GRID, dtype=torch.float64)
    part = torch.trapezoid(off.cos().clamp(min=0) ** (d - 2), off)
    whole = math.exp(math.lgamma((d - 1) / 2) - math.lgamma(d / 2)) * math.sqrt(math.pi) / 2
    return min(1.0, float(part) / whole)


def even_chance(p: float) -> float:
    """How many random directions all fit with probability one half, if every pair fails with probability p by itself.

    n (n - 1) / 2 pairs pass together with (1 - p)^(n (n - 1) / 2): about 1.18 / sqrt(p) directions where p is small,
    as with birthdays.
    """
    return 1.0 if p >= 1 else 0.5 + math.sqrt(0.25 - 2 * math.log(2) / math.log1p(-p))


def count_before_failure(directions: Float[Tensor, "n d"], degrees: float) -> int:
    """How many of the directions, in their order, come before the first that is too near to an earlier one."""
    failed = (cosines(directions) > math.sin(math.radians(degrees))).tril(-1).any(1)
    return int(failed.int().argmax()) if failed.any() else len(directions)


def cosines(directions: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """|cosine| of every pair; 0 of a direction with itself."""
    directions = unit(directions)
    return (directions @ directions.T).fill_diagonal_(0).abs()


def share_within(directions: Float[Tensor, "n d"], degrees: float) -> float:
    """Share of pairs that are perpendicular within the tolerance."""
    pairs = torch.ones(len(directions), len(directions), dtype=torch.bool).tril(-1)
    return float((cosines(directions)[pairs] <= math.sin(math.radians(degrees))).double().mean())


def welch_limit(d: int, degrees: float, order: int = 1) -> float:
    """At most so many directions fit (not rounded); infinity where the bound says nothing.

    Over all ordered pairs of n directions, each with itself too, the mean of cosine^(2 order) is at least what it is
    for random directions. Of order 1: the largest squared cosine is at least (n - d) / (d (n - 1)).

    Source: Welch, "Lower bounds on the maximum cross correlation of signals" (1974).
    """
    largest = math.sin(math.radians(degrees)) ** (2 * order)
    moment = math.prod((2 * k + 1) / (d + 2 * k) for k in range(order))
    return (1 - largest) / (moment - largest) if moment > largest else math.inf


def best_limit(d: int, degrees: float) -> float:
    """The least that a Welch bound of any order allows. High orders say something where the first says nothing.

    Orders end while cosine^(2 order) is still far above the smallest number there is.
    """
    return min(welch_limit(d, degrees, order) for order in range(1, 80))


def sure_count(d: int, degrees: float) -> float:
    """At least so many fit: the most of four things that are known.

    The d axes; d + 1 corners of a simplex, where 1 / d is within the tolerance; blocks of mutually unbiased bases
    (`unbiased_bases`), each in dimensions of its own; and 1 / p, since every member of a set to which nothing can be
    added excludes a share p of all directions.
    """
    largest = math.sin(math.radians(degrees))
    return max(d, d + 1 if 1 / d <= largest else 0, built_count(d, degrees), 1 / pair_chance(d, degrees))


def built_count(d: int, degrees: float) -> int:
    """Directions from unbiased bases in blocks of 4^k dimensions, the largest first; axes in what is left over."""
    largest, total, left = math.sin(math.radians(degrees)), 0, d
    for size in (4**k for k in range(6, 1, -1)):
        if size**-0.5 <= largest:
            total += left // size * size * (size // 2 + 1)
            left %= size
    return total + left


def push_apart(d: int, n: int, degrees: float, *, steps: int, seed: int = 0) -> Float[Tensor, "n d"]:
    """n directions, moved until every pair is within the tolerance or the steps are used up.

    Gradient descent with momentum on the sum of squares by which |cosine| exceeds what is allowed; it starts from the d
    axes and random directions. A step is shorter where more directions crowd into a dimension, or it overshoots.
    """
    largest = math.sin(math.radians(degrees))
    more = torch.randn(n - d, d, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([torch.eye(d), unit(more)])
    velocity = torch.zeros_like(x)
    for _ in range(steps):
        products = (x @ x.T).fill_diagonal_(0)
        if products.abs().max() <= largest:
            break
        excess = products - products.clamp(-MARGIN * largest, MARGIN * largest)
        velocity = MOMENTUM * velocity + excess @ x
        x = unit(x - ADVANCE * d / n * velocity)
    return x


def optimised_count(d: int, degrees: float, *, steps: int, most: int) -> Packing:
    """The most directions that `push_apart` fits: ever more until it fails, then halfway between (to 2 %)."""
    limit = min(most, math.floor(best_limit(d, degrees) + 1e-9))  # more cannot fit, so more is not tried

    def fits(n: int) -> bool:
        return count_before_failure(push_apart(d, n, degrees, steps=steps), degrees) == n

    good, bad, excess = d, limit + 1, 1
    while good < bad - 1 and (bad - good) > 0.02 * good:
        n = min(d + excess, bad - 1) if bad == limit + 1 else (good + bad) // 2
        good, bad = (n, bad) if fits(n) else (good, n)
        excess *= 2
    return Packing("optimised", degrees, d, good, capped=good == most)


def unbiased_bases(size: int) -> Float[Tensor, "base size"]:
    """Signs s of the size / 2 bases H diag(s) / sqrt(size) whose directions have cosines of 0 or 1 / sqrt(size).

    H is the Hadamard matrix; the axes are one base more, so that size (size / 2 + 1) directions have no larger cosine.
    The signs are those of the quadratic forms of Kerdock's code, over the field with size / 2 elements.

    Source: Kerdock, "A class of low-rate nonlinear binary codes" (1972); Cameron and Seidel, "Quadratic forms over
    GF(2)" (1973).
    """
    degree = size.bit_length() - 2
    assert degree in POLYNOMIALS and size == 2 ** (degree + 1), f"{size}: expected 16, 64, 256, 1024 or 4096"
    field = torch.arange(size // 2, dtype=torch.int16)  # memory is what this takes: 4 million products at 4,096
    squares, traces = _multiply(field, field, degree), _trace(field, degree)
    product = _multiply(field[:, None], field[None, :], degree)  # (base, element)
    power, form = product, torch.zeros_like(product)
    for _ in range((degree - 1) // 2):
        power = squares[power.int()]
        form ^= _multiply(power, product, degree)
    form, linear = traces[form.int()], traces[product.int()]
    return 1.0 - 2.0 * torch.cat([form, form ^ linear], dim=1).float()


def directions_of(signs: Float[Tensor, "base size"]) -> Float[Tensor, "direction size"]:
    """All directions of the bases, and the axes."""
    size = signs.shape[1]
    bases = hadamard(size) * signs[:, None] / size**0.5
    return torch.cat([torch.eye(size), bases.reshape(-1, size)])


def largest_between(
    signs: Float[Tensor, "base size"], first: Int[Tensor, " pair"], second: Int[Tensor, " pair"]
) -> float:
    """Largest |cosine| between any direction of one base and any of the other, over the pairs of bases.

    Directions of one base differ by a row of H, so H times the product of both signs holds every cosine of a pair.
    """
    size = signs.shape[1]
    chunks = zip(first.split(4096), second.split(4096), strict=True)
    return max(float((hadamard(size) @ (signs[a] * signs[b]).T).abs().max()) / size for a, b in chunks)


def hadamard(size: int) -> Float[Tensor, "size size"]:
    """Signs +1 and -1, every two rows perpendicular; size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _multiply(a: Int[Tensor, "..."], b: Int[Tensor, "..."], degree: int) -> Int[Tensor, "..."]:
    """In the field with 2^degree elements, whose bits are coefficients of a polynomial."""
    result = torch.zeros_like(a * b)
    for bit in range(degree):
        result ^= a * (b >> bit & 1)
        a = a << 1
        a = a ^ (a >> degree & 1) * POLYNOMIALS[degree]
    return result


def _trace(a: Int[Tensor, "..."], degree: int) -> Int[Tensor, "..."]:
    """Sum of a, a^2, a^4, ...: 0 or 1."""
    total, power = a.clone(), a
    for _ in range(degree - 1):
        power = _multiply(power, power, degree)
        total ^= power
    return total
