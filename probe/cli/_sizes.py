"""What a recording keeps, by kind of value."""

from collections.abc import Sequence
from dataclasses import dataclass

from probe.plan import RecordingPlan
from probe.shown import spans
from probe.sites import describe_site, site_dims, split_name

LOGITS = "raw score of every token in the vocabulary"


@dataclass(frozen=True)
class Kind:
    """All values of one short name."""

    short: str
    meaning: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    """Shape of each value; all layers alike."""
    layers: str
    """'0-3,7', or '' outside the layers."""
    count: int
    bytes: int


def kinds_kept(plan: RecordingPlan) -> list[Kind]:
    """One entry per kind, in the order of the pass."""
    names: dict[str, list[str]] = {}
    for name in plan.shapes:
        names.setdefault(name if name == "logits" else describe_site(name).short, []).append(name)
    return [_kind(plan, short, of_kind) for short, of_kind in names.items()]


def _kind(plan: RecordingPlan, short: str, names: Sequence[str]) -> Kind:
    layers = [layer for name in names if (layer := split_name(name)[0]) is not None]
    return Kind(
        short=short,
        meaning=LOGITS if short == "logits" else describe_site(short).meaning,
        dims=("batch", "pos", "d_vocab_out") if short == "logits" else site_dims(short),
        shape=plan.shapes[names[0]],
        layers=spans(layers),
        count=len(names),
        bytes=sum(plan.sizes[name] for name in names),
    )
