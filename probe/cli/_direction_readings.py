"""What `probe directions` and `probe steer` show of what they measure."""

from collections.abc import Sequence

from probe.errors import OutOfRange
from probe.figures.directions import layer_profile_lines, pair_differences, permutation_histogram, projection_strip
from probe.figures.page import PageSection, Table
from probe.figures.steering import dose_curve_lines
from probe.methods.directions import Direction, Evaluation
from probe.methods.layer_profile import LayerProfile
from probe.methods.steering import USED, DoseCurve


def evaluation_section(found: Evaluation, more: Sequence[str]) -> PageSection:
    """The report in sentences, and every pair."""
    rows = [
        (f"{up} - {down}", f"{a:+.3f}", f"{b:+.3f}", f"{a - b:+.3f}")
        for (up, down), a, b in zip(found.words, found.positive.tolist(), found.negative.tolist(), strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda place: float(rows[place][3]))
    shown = order if len(order) <= 12 else [*order[:6], *order[-6:]]
    which = "" if len(order) <= 12 else ", the six smallest and the six largest"
    return PageSection(
        f"{found.direction}: {found.verdict}",
        "direction in vector space",
        [*found.report(), *more, f"Pairs and where their words stand, out of sample{which}:"],
        figures=[
            lambda theme: projection_strip(found, theme=theme),
            lambda theme: permutation_histogram(found, theme=theme),
            lambda theme: pair_differences(found, theme=theme),
        ],
        table=Table(("pair", "positive", "negative", "difference"), [rows[place] for place in shown]),
    )


def projection_lines(direction: Direction, project: str | None) -> list[str]:
    """Where the words of 'one,two,three' stand, in a sentence.

    Raises:
        OutOfRange: no words.
        UnknownName: a word without a vector.
    """
    if project is None:
        return []
    words = [word.strip() for word in project.split(",") if word.strip()]
    if not words:
        raise OutOfRange(f"--project {project!r} names no word; expected something like one,two,three")
    seen = direction.project(words)
    along = ", ".join(f"{word} {value:+.3f}" for word, value in zip(words, seen.along.tolist(), strict=True))
    return [f"Along the direction fitted on all {len(direction.pairs)} pairs: {along}."]


def profile_section(found: LayerProfile) -> PageSection:
    """One row per place."""
    rows = [
        (
            one.name, f"{one.n}", f"{one.auroc.value:.3f}", f"{one.auroc.low:.3f} to {one.auroc.high:.3f}",
            f"{one.effect_size.value:.2f}", f"{one.p_adjusted:.4f}",
            "" if one.twin is None else f"{one.twin.value:.3f}",
        )
        for one in found.places
    ]  # fmt: skip
    words = (
        f"How well one direction tells the words of {len(found.pairs)} pairs apart at every place of {found.model}, "
        "out of sample (ten folds of pairs): AUROC with its 95 % interval, Cohen's d, p against the best place of "
        "every permutation, and the AUROC of the untrained twin. No place is chosen."
    )
    return PageSection(
        f"{found.direction}, layer by layer", "layer profile", [words],
        figures=[lambda theme: layer_profile_lines(found, theme=theme)],
        table=Table(("after", "pairs", "AUROC", "95 %", "d", "p", "twin"), rows),
    )  # fmt: skip


def dose_section(curve: DoseCurve) -> PageSection:
    """One row per dose."""
    rows = []
    for index, dose in enumerate(curve.doses):
        found, random = curve.effect(dose), curve.random_effects[:, index].mean(-1).abs()
        rows.append(
            (
                f"{dose:+g}", f"{found.value:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}",
                f"{float(random.max()):.2f}", f"{curve.p(dose):.3f}", f"{float(curve.damage[index].mean()):.3f}",
            )
        )  # fmt: skip
    n = len(curve.prompts)
    words = [
        f"{curve.direction}, added at {curve.site} of {curve.model} (last position) after {n} prompts such as "
        f"“{curve.prompts[0]}”: {'used' if curve.used else 'not shown to be used'}. The rule: {USED}.",
        f"Moved is {curve.contrast}, {float(curve.clean.mean()):+.2f} logits on average without a dose. Doses are "
        f"in norms of the residual stream there ({curve.norm:.4g}); the gap between the two groups of words is "
        f"{curve.gap:.3f} of these.",
        f"Beside it: the largest effect of {len(curve.random_effects)} random directions of the same length, either "
        "way; p; and the damage done to unrelated texts when it is added everywhere: KL(clean || dosed), nats per "
        "token.",
    ]
    return PageSection(
        f"Steering: {curve.direction}", "activation addition", words,
        figures=[lambda theme: dose_curve_lines(curve, theme=theme)],
        table=Table(("dose", "moves by", "95 %", "random, at most", "p", "damage"), rows),
    )  # fmt: skip
