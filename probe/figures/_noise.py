"""What tells an effect from noise in figures: evidence where there is any, and the line that explains the marks."""

import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from probe.errors import OutOfRange
from probe.figures._marks import titled
from probe.figures._theme import Theme
from probe.methods.ablation import AblationSweep
from probe.methods.patching import PatchingMap
from probe.methods.path_patching import PathPatching
from probe.statistics import SIGNIFICANT, GridEvidence

HATCH = "/"
"""The pattern of bars inside the noise; maps draw their own."""


Measured = AblationSweep | PatchingMap | PathPatching
"""What has effects on prompts, and evidence of them."""


def evidence_of(found: Measured) -> GridEvidence | None:
    """None where one prompt, or one group of prompts, has no interval."""
    try:
        return found.evidence
    except OutOfRange:
        return None


def is_noise(evidence: GridEvidence | None, n: int) -> np.ndarray:
    """Which of n cells are inside the noise; none where nothing says so."""
    return np.zeros(n, dtype=bool) if evidence is None else ~evidence.marked.numpy()


def noise_lines(evidence: GridEvidence | None, unit: str, *, shown_as: str = "hatched") -> list[str]:
    """What hatching means, by `statistics.MARKED`."""
    if evidence is None:
        return ["one prompt (or group of prompts) has no interval: what of this is noise is open"]
    lines = [f"{shown_as}: inside the noise; {int(evidence.marked.sum())} of {len(evidence.marked)} are outside it"]
    if evidence.p_grid is not None and evidence.smallest_p > SIGNIFICANT:
        return [*lines, f"so few prompts (or groups of them) cannot give a p below {evidence.smallest_p:.2g}"]
    test = "" if evidence.p_grid is None else f", max-T p at most {SIGNIFICANT:g}"
    least = f"mean at least {evidence.smallest_effect:.2g} {unit}"
    return [*lines, f"outside: 95 % interval without zero, {least}{test}"]


def prompts_line(found: Measured, *, of: str = "prompt") -> str:
    """How many prompts a figure rests on."""
    n = found.effects.shape[1]
    return f"{n} {of}{'' if n == 1 else 's'}" + ("" if found.complete else " (interrupted: the others are missing)")


def titled_below(figure: go.Figure, look: Theme, title: str, lines: Sequence[str], *, height: int) -> go.Figure:
    """A figure `titled`, its lines broken so that two can stand side by side; `height` is without them."""
    broken = [part for line in lines for part in textwrap.wrap(line, _LONGEST)]
    return titled(figure, look, title, *broken, height=height + 17 * len(broken))


_LONGEST = 84
"""Characters of a line."""
