"""How many directions fit into a space if every two need only be nearly perpendicular?

The arithmetic is in `_packing.py`, the figure in `_packing_figure.py`.
"""

import math
import statistics
from collections.abc import Sequence

import pandas
import torch
from _packing import (
    Packing,
    best_limit,
    built_count,
    count_before_failure,
    even_chance,
    largest_between,
    optimised_count,
    pair_chance,
    share_within,
    sure_count,
    unbiased_bases,
    welch_limit,
)
from _packing_figure import packing_lines
from _script import Answer, Say, main, origin

import probe
from probe.figures.page import PageSection, Table

QUESTION = "How many nearly perpendicular directions fit?"
TOLERANCES = (1.0, 5.0, 10.0)
"""Degrees on either side of 90."""
GPT3 = 12_288
"""d_model of GPT-3. Source: Brown et al., "Language models are few-shot learners" (2020)."""
RANDOM_DIMS = (8, 32, 128, 576, 2048, GPT3)
OPTIMISED_DIMS = (8, 16, 32, 64, 128)
QUICK_DIMS = (8, 16)
BUILT_DIMS = (16, 64, 256, 4096)
DRAWN = 500
"""Random sets are drawn where no more than this are expected to fit."""
SEEDS = 99
STEPS = 2000
MOST = 1000
"""Pushed apart are no more than this."""
PAIRS_OF_BASES = 16_384
"""Looked at where there are more."""
TOKENS = 4096
"""Tokens of the vocabulary that are looked at: 8 million pairs."""

Found = tuple[PageSection, list[Packing]]


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Draw directions, push them apart, build them, and look at the model's own."""
    say("drawing directions")
    drawn, random = _random(sorted({*RANDOM_DIMS, model.config.d_model}), 3 if quick else SEEDS)
    say("pushing directions apart (minutes)")
    pushed, optimised = _optimised(QUICK_DIMS if quick else OPTIMISED_DIMS, 200 if quick else STEPS)
    say("building unbiased bases")
    built, bases = _built(BUILT_DIMS[:2] if quick else BUILT_DIMS)
    packings = [*random, *optimised, *bases, *_welch_line()]
    say("comparing tokens")
    tokens, shares = _tokens(model, 256 if quick else TOKENS)
    return Answer(
        question=QUESTION,
        lead=[
            "Two directions are nearly perpendicular if their angle is 90 degrees, give or take a tolerance. "
            "Opposite vectors are one direction. Exactly perpendicular are never more than there are dimensions."
        ],
        sections=[_meaning(model.config.d_model, packings), drawn, pushed, built, tokens],
        table=pandas.concat([pandas.DataFrame(packings).assign(about="fit"), shares]),
        manifest=origin(model, tolerances=TOLERANCES, seeds=SEEDS, steps=STEPS, most=MOST, tokens=TOKENS, seed=0),
    )


def _meaning(d_model: int, packings: Sequence[Packing]) -> PageSection:
    """The two sizes of interest, and everything in one figure."""
    rows = [
        (f"{d:,}", f"{degrees:g}", _count(even_chance(pair_chance(d, degrees))), _count(sure_count(d, degrees)),
         _count(welch_limit(d, degrees)), _count(best_limit(d, degrees)))
        for d in (d_model, GPT3) for degrees in TOLERANCES
    ]  # fmt: skip
    words = (
        f"{d_model:,} dimensions are this model's residual stream, {GPT3:,} are GPT-3's. Random: so many fit with an "
        "even chance. At least: from axes, a simplex, unbiased bases, or because a set to which nothing can be added "
        "must exclude every direction. At most: the Welch bound, and the best of its higher orders (those up to 79)."
    )
    columns = ("dimensions", "± degrees", "random", "at least", "at most", "at most, higher orders")
    return PageSection(
        "What fits into a model", "almost orthogonal sets", [words], table=Table(columns, rows),
        figures=[lambda theme: packing_lines(packings, theme=theme)],
    )  # fmt: skip


def _random(dims: Sequence[int], seeds: int) -> Found:
    """Drawn one by one until the first that is too near to an earlier one, beside what is expected."""
    packings = [Packing("random", e, d, even_chance(pair_chance(d, e))) for d in dims for e in TOLERANCES]
    rows = [
        (f"{one.d:,}", f"{one.degrees:g}", f"{pair_chance(one.d, one.degrees):.2g}", _count(one.n), _drawn(one, seeds))
        for one in packings
    ]
    words = (
        "Random directions, one after the other, until the first that is outside the tolerance to an earlier one; how "
        f"many came before it, median of {seeds} seeds (— where more than {DRAWN} are expected). Fails: the chance "
        "that a pair is outside, from the exact distribution of the angle, whose cosine has a standard deviation of "
        "1 / √dimensions. Fit: so many fit with an even chance, as with birthdays (1.18 / √chance, if that is small)."
    )
    columns = ("dimensions", "± degrees", "fails", "fit", "drawn")
    return PageSection("Random directions", "concentration", [words], table=Table(columns, rows)), packings


def _drawn(random: Packing, seeds: int) -> str:
    if random.n > DRAWN:
        return "—"
    n = math.ceil(4 * random.n) + 8  # that none of so many fails has a chance of 1 in 60,000
    draws = (torch.randn(n, random.d, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds))
    return _count(statistics.median(count_before_failure(draw, random.degrees) for draw in draws))


def _optimised(dims: Sequence[int], steps: int) -> Found:
    """How many directions gradient descent can push apart."""
    packings = [optimised_count(d, degrees, steps=steps, most=MOST) for d in dims for degrees in TOLERANCES]
    rows = [
        (f"{one.d}", f"{one.degrees:g}", _count(even_chance(pair_chance(one.d, one.degrees))),
         _count(one.n) + (" or more" if one.capped else ""), _count(welch_limit(one.d, one.degrees)),
         f"{one.n / one.d:.2f}") for one in packings
    ]  # fmt: skip
    words = (
        "Directions are moved until all pairs are within the tolerance: gradient descent from the axes and random "
        f"directions, at most {steps:,} steps, one start. More and more of them, until that fails; no more than "
        f"{MOST:,} are tried. Beside random ones and the Welch bound, which allows any number once dimensions times "
        "the largest squared cosine reach 1: at "
        + ", ".join(f"{1 / _squared(degrees):,.0f} dimensions for {degrees:g}°" for degrees in TOLERANCES) + "."
    )  # fmt: skip
    columns = ("dimensions", "± degrees", "random", "pushed apart", "at most", "per dimension")
    return PageSection("Directions pushed apart", "optimisation", [words], table=Table(columns, rows)), packings


def _built(dims: Sequence[int]) -> Found:
    """Unbiased bases, and the largest cosine that is found between them."""
    rows = []
    for d in dims:
        signs = unbiased_bases(d)
        first, second = torch.triu_indices(len(signs), len(signs), 1)
        kept = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))[:PAIRS_OF_BASES]
        largest = largest_between(signs, first[kept], second[kept])
        off = math.degrees(math.asin(largest))
        rows.append(
            (f"{d:,}", f"{built_count(d, 90):,}", f"{off:.2f}", f"{len(kept):,} of {len(first):,}", f"{d // 2 + 1:,}")
        )
    words = (
        "Far larger sets are known than gradient descent finds: in 4, 16, 64, ... dimensions half as many bases and "
        "one, every direction of one at a cosine of exactly 1 / √dimensions to every direction of another. Built "
        "here, and compared: all directions of so many pairs of bases (the axes, a base too, have that cosine by "
        "construction)."
    )
    packings = [
        Packing("built", degrees, d, built_count(d, degrees))
        for degrees in TOLERANCES for d in (4**k for k in range(2, 7)) if built_count(d, degrees) > d
    ]  # fmt: skip
    columns = ("dimensions", "directions", "degrees off", "pairs of bases compared", "bases")
    section = PageSection("Directions that are built", "mutually unbiased bases", [words], table=Table(columns, rows))
    return section, packings


def _welch_line() -> list[Packing]:
    """Fine enough to show where the bound goes to infinity."""
    packings = []
    for degrees in TOLERANCES:
        end = 1 / _squared(degrees)
        dims = [2 ** (step / 4) for step in range(4, 60)] + [end * (1 - 2.0**-step) for step in range(1, 24)]
        packings += [
            Packing("Welch", degrees, d, welch_limit(d, degrees))
            for d in sorted({round(d) for d in dims if d < end - 1})
        ]
    return packings


def _tokens(model: probe.GPT, n: int) -> tuple[PageSection, pandas.DataFrame]:
    """How many pairs of token embeddings are nearly perpendicular, and of random vectors of the same size."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(model.config.d_vocab, generator=generator)[:n]
    vectors = model.W_E.detach()[chosen.to(model.device)].float().cpu()
    sets = {
        "token embeddings": vectors,
        "the same, less their mean": vectors - vectors.mean(0),
        "random vectors": torch.randn(vectors.shape, generator=generator),
    }
    table = pandas.DataFrame(
        {"vectors": name, "degrees": degrees, "share_within": share_within(rows, degrees)}
        for name, rows in sets.items() for degrees in TOLERANCES
    )  # fmt: skip
    shares = table.pivot(index="vectors", columns="degrees", values="share_within")
    lines = [(name, *(f"{shares.loc[name, degrees]:.2%}" for degrees in TOLERANCES)) for name in sets]
    lines.append(("random vectors, by formula", *(f"{1 - pair_chance(vectors.shape[1], e):.2%}" for e in TOLERANCES)))
    words = (
        f"Of all pairs of {len(chosen):,} random tokens of {model.name}, in {vectors.shape[1]} dimensions, those "
        "within the tolerance of perpendicular:"
    )
    columns = ("vectors", *(f"within {degrees:g}°" for degrees in TOLERANCES))
    section = PageSection("The model’s own tokens", "embedding", [words], table=Table(columns, lines))
    return section, table.assign(about="tokens")


def _squared(degrees: float) -> float:
    return math.sin(math.radians(degrees)) ** 2


def _count(n: float) -> str:
    """Rounded down, since a part of a direction does not fit."""
    if math.isinf(n):
        return "no bound"
    return f"{math.floor(n + 1e-9):,}" if n < 1e9 else f"{n:.1e}"


if __name__ == "__main__":
    main(QUESTION, ask)
