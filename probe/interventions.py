"""Interventions: changes to a value as the pass makes it. They are arguments of one call and leave nothing behind.

`edit` takes any function; `zero add replace scale project_out` are the usual changes. All say in one way which entries
they mean: ``layer``, ``heads``, ``positions`` (-1: each prompt's own last token; of patterns and scores: the queries)
and ``rows`` (prompts of the call). None, the default, means all. Keys and values are chosen by their own heads.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BadIntervention, OutOfRange, UnknownName
from probe.selection import Indices, Selection, as_list, check_heads, select
from probe.sites import check_layers, find_sites, site_dims, site_shape, split_name

Change = Callable[[Tensor], Tensor]


class Where(TypedDict, total=False):
    """Which entries of a site an intervention means."""

    layer: Indices
    heads: Indices
    positions: Indices
    rows: Indices


@dataclass(frozen=True)
class Intervention:
    """One change, wherever it says. Made by `edit`, `zero`, `add`, `replace`, `scale` and `project_out`."""

    what: str
    """How results name it: 'zero', 'add', ..."""
    site: str
    """Short name ('z') or full name ('blocks.3.attn.hook_z')."""
    change: Change
    """From the chosen entries to their new values, of the same shape."""
    where: Where = field(default_factory=lambda: Where())
    operand_shape: tuple[int, ...] = ()
    """Must broadcast to the shape of the chosen entries."""
    elementwise: bool = True
    """Whether each position is changed by itself. If not, padding is hidden from `change`."""

    def __post_init__(self) -> None:
        for name in self.where:
            if name not in Where.__annotations__:
                raise UnknownName(
                    f"{self.what} {self.site!r}: no option {name!r}; known: layer, heads, positions, rows"
                )

    def __str__(self) -> str:
        where = "".join(f", {name} {choice}" for name, choice in self.where.items() if choice is not None)
        return f"{self.what} {self.site}{where}"


def edit(site: str, function: Change, **where: Unpack[Where]) -> Intervention:
    """Any function of a value: it gets a copy of the chosen entries and returns their new values, of the same shape.

    The copy has the dims of the site (`probe.site_dims`), with only the chosen rows, positions and heads. Where prompts
    differ in length and all positions are chosen, padded entries are shown as NaN, so that a mean over positions cannot
    quietly include them; what is returned there is dropped. A function that learns (``grad=True``) starts with
    ``value.nan_to_num()``, or its weights' gradients are NaN.

    Raises:
        BadIntervention: not a function of one argument. In the pass: it returns no tensor, another shape or device, NaN
            or complex numbers.
    """
    if not callable(function):
        raise BadIntervention(f"edit {site!r}: expected a function of a tensor, got {type(function).__name__}")
    if not takes_one(function):
        raise BadIntervention(
            f"edit {site!r}: the function takes {inspect.signature(function)}, expected the value alone; of a hook "
            "function (value, hook) pass lambda value: function(value, None)"
        )
    return Intervention("edit", site, function, where, elementwise=False)


def takes_one(function: Callable[..., object]) -> bool:
    """Whether it can be called with one argument, as far as it says what it takes; some written in C do not."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def zero(site: str, **where: Unpack[Where]) -> Intervention:
    """Replace by zero. To ablate a head: ``zero("z", layer=5, heads=1)``."""
    return Intervention("zero", site, torch.zeros_like, where)


def add(site: str, vector: Tensor, **where: Unpack[Where]) -> Intervention:
    """Add a vector, or anything that broadcasts to the chosen entries: steering."""
    vector = check_operand("add", site, vector)
    return Intervention("add", site, lambda value: value + vector.to(value), where, tuple(vector.shape))


def replace(site: str, value: Tensor, **where: Unpack[Where]) -> Intervention:
    """Put another value there that broadcasts to the chosen entries: of another run (patching), a mean (ablation)."""
    value = check_operand("replace", site, value)
    return Intervention("replace", site, lambda old: value.to(old).expand_as(old), where, tuple(value.shape))


def scale(site: str, factor: float | Tensor, **where: Unpack[Where]) -> Intervention:
    """Multiply by a factor, or by anything that broadcasts to the chosen entries."""
    factor = check_operand("scale", site, factor)
    return Intervention("scale", site, lambda value: value * factor.to(value), where, tuple(factor.shape))


def project_out(site: str, direction: Float[Tensor, "... d"], **where: Unpack[Where]) -> Intervention:
    """Remove what lies along a direction (d,), or in the space that several (k, d) span; their lengths do not matter.

    Raises:
        BadIntervention: a direction of length zero, or one that has neither one nor two dims.
    """
    direction = check_operand("project_out", site, direction)
    if direction.ndim not in (1, 2):
        raise BadIntervention(f"project_out {site!r}: shape {tuple(direction.shape)}, expected (d,) or (k, d)")
    basis = _orthonormal_basis(torch.atleast_2d(direction))
    if not len(basis):
        raise BadIntervention(f"project_out {site!r}: a direction of length zero points nowhere")

    def remove(value: Tensor) -> Tensor:
        precise = basis.to(value.device, torch.promote_types(value.dtype, torch.float32))
        return value - ((value.to(precise.dtype) @ precise.T) @ precise).to(value.dtype)

    return Intervention("project_out", site, remove, where, (basis.shape[-1],))


@dataclass(frozen=True)
class Effect:
    """How often one intervention took effect in a call."""

    intervention: str
    """What it was: 'zero z, layer 5, heads 1'."""
    sites: tuple[str, ...]
    """Full names of the values that it changed."""
    entries: int
    """Vectors that it changed over all of these, padding not counted (of patterns and scores: rows of weights)."""


@dataclass(frozen=True)
class PlannedEdit:
    """An intervention at one site of one call. What can be checked before the pass has been."""

    name: str
    number: int
    """Its place among the interventions of the call."""
    intervention: Intervention
    selection: Selection
    entries: int
    """Vectors that it changes, padding not counted."""

    def apply(self, value: Tensor) -> Tensor:
        """The value with the chosen entries changed; `value` itself is left alone.

        Raises:
            BadIntervention: the new entries are no tensor, of another shape or device, or hold NaN.
        """
        dims = site_dims(self.name)
        part = self.selection.take(dims, value)
        real = self.selection.real(dims, value.device)
        if self.intervention.elementwise:
            new = self.intervention.change(part)
        else:
            # Always a copy: other values may share this memory, and a function may write into what it gets.
            new = self.intervention.change(part.clone() if real is None else part.masked_fill(~real, torch.nan))
        new = check_change(f"{self.intervention}: at {self.name}", new, part, dims)
        # A copy here too: the operand may be written to later, and a function may return one buffer for every layer.
        new = new.clone() if real is None else torch.where(real, new, part)
        if contains_nan(new):
            raise BadIntervention(f"{self.intervention}: at {self.name} the new value holds NaN")
        return self.selection.put(dims, value, new)


def check_change(where: str, new: object, part: Tensor, dims: tuple[str, ...]) -> Tensor:
    """What a function made of `part`, in its dtype.

    Raises:
        BadIntervention: it is no tensor, or one of another shape or device; `where` begins the message.
    """
    if not isinstance(new, Tensor):
        raise BadIntervention(
            f"{where} the function returned {type(new).__name__}, expected a tensor of the new values"
        )
    if new.shape != part.shape:
        shape, expected = tuple(new.shape), tuple(part.shape)
        raise BadIntervention(f"{where} the function returned shape {shape}, expected {expected} ({' '.join(dims)})")
    if new.device != part.device:
        raise BadIntervention(f"{where} the function returned a tensor on {new.device}, expected {part.device}")
    if new.is_complex() and not part.is_complex():
        raise BadIntervention(f"{where} the function returned {new.dtype}, expected real numbers")
    return new.to(part.dtype)


class Edits:
    """The interventions of one call, by site, in the order given; it counts how often each took effect."""

    def __init__(self, interventions: Iterable[Intervention], planned: Iterable[PlannedEdit]):
        self._interventions = list(interventions)
        self._by_name: dict[str, list[PlannedEdit]] = {}
        for one in planned:
            self._by_name.setdefault(one.name, []).append(one)
        self._applied: Counter[tuple[int, str]] = Counter()

    @property
    def names(self) -> frozenset[str]:
        """Sites that are changed."""
        return frozenset(self._by_name)

    def apply(self, name: str, value: Tensor) -> Tensor:
        """The value after every edit of this site."""
        for one in self._by_name.get(name, ()):
            value = one.apply(value)
            self._applied[one.number, name] += one.entries
        return value

    def effects(self) -> tuple[Effect, ...]:
        """What each intervention did, in the order given."""
        return tuple(
            Effect(
                str(one),
                tuple(name for key, name in self._applied if key == number),
                sum(count for (key, _), count in self._applied.items() if key == number),
            )
            for number, one in enumerate(self._interventions)
        )


def plan_edits(
    config: GPTConfig,
    interventions: Iterable[Intervention],
    *,
    lengths: Collection[int],
    run: Collection[str],
    seen: int = 0,
) -> Edits:
    """Check every intervention against the prompts (`lengths`) and the sites (`run`) of one call.

    `seen` tokens of a key/value cache come before those of the call: attention has so many more keys.

    Raises:
        UnknownName, OutOfRange: a site, layer, head, position or row that does not exist.
        BadIntervention: it would touch nothing, because its layers are not run, or its operand does not fit.
    """
    interventions = list_interventions(interventions)
    planned = [
        planned
        for number, one in enumerate(interventions)
        for planned in _plan_one(config, number, one, tuple(lengths), run, seen)
    ]
    return Edits(interventions, planned)


def list_interventions(interventions: Intervention | Iterable[Intervention]) -> list[Intervention]:
    """One or several, as a list.

    Raises:
        BadIntervention: something else.
    """
    several = isinstance(interventions, Iterable) and getattr(interventions, "ndim", 1) > 0
    found: list[Any] = list(interventions) if several else [interventions]  # type: ignore[arg-type]
    for one in found:
        if not isinstance(one, Intervention):
            raise BadIntervention(f"interventions: got {type(one).__name__}, expected what edit, zero, add, ... return")
    return found


def _plan_one(
    config: GPTConfig, number: int, one: Intervention, lengths: tuple[int, ...], run: Collection[str], seen: int
) -> list[PlannedEdit]:
    layer = one.where.get("layer")
    layers = None if layer is None else check_layers(config, as_list("layer", layer))
    named = find_sites(config, [one.site], layers)
    if layers is not None and split_name(named[0])[0] is None:
        raise OutOfRange(f"{one}: {one.site!r} stands outside the layers; leave layer out")
    missed = [name for name in named if name not in run]
    if missed and (layers is not None or len(missed) == len(named) or one.site in named):
        raise BadIntervention(f"{one}: would touch nothing at {missed[0]}, which this call does not compute")
    heads = check_heads(config, one.site, one.where.get("heads"))
    selection = select(lengths, rows=one.where.get("rows"), positions=one.where.get("positions"), heads=heads)
    return [_at_site(config, number, one, name, selection, seen) for name in named if name in run]


def _at_site(
    config: GPTConfig, number: int, one: Intervention, name: str, selection: Selection, seen: int
) -> PlannedEdit:
    dims = site_dims(name)
    sizes = site_shape(config, name, batch=len(selection.lengths), pos=max(selection.lengths))
    whole = tuple(size + seen if dim == "key_pos" else size for dim, size in zip(dims, sizes, strict=True))
    shape = selection.shape(dims, whole)
    if not broadcasts(one.operand_shape, shape):
        raise BadIntervention(
            f"{one}: operand of shape {one.operand_shape} does not fit {name}, "
            f"where the chosen entries are {shape} ({' '.join(dims)})"
        )
    return PlannedEdit(name, number, one, selection, _count_entries(dims, whole, selection))


def _count_entries(dims: tuple[str, ...], shape: tuple[int, ...], selection: Selection) -> int:
    """Vectors chosen, padding not counted, and what was chosen twice counted once."""
    chosen = {
        (row, position)
        for row, positions in zip(selection.chosen_rows, selection.chosen_positions, strict=True)
        for position in positions
        if position < selection.lengths[row]
    }
    heads = next((size for dim, size in zip(dims, shape, strict=True) if dim in ("head", "kv_head")), 1)
    return len(chosen) * (heads if heads == 1 or selection.heads is None else len(set(selection.heads)))


def broadcasts(operand: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an operand can be used with entries of this shape without enlarging them."""
    if len(operand) > len(shape):
        return False
    return all(size in (1, full) for size, full in zip(reversed(operand), reversed(shape), strict=False))


def check_operand(what: str, site: str, operand: float | Tensor) -> Tensor:
    """A number or tensor as a tensor of real numbers, its graph kept: a steering vector can be learned.

    Raises:
        BadIntervention: it is no number, or holds NaN.
    """
    if not isinstance(operand, Tensor):
        if isinstance(operand, bool) or not isinstance(operand, Real):
            raise BadIntervention(f"{what} {site!r}: got {type(operand).__name__}, expected a number or a tensor")
        operand = torch.tensor(float(operand), dtype=torch.float64)  # as exact as the value that it meets
    if not operand.is_floating_point():
        raise BadIntervention(f"{what} {site!r}: operand of {operand.dtype}, expected floating point")
    if contains_nan(operand):
        raise BadIntervention(f"{what} {site!r}: operand holds NaN")
    return operand


def contains_nan(value: Tensor) -> bool:
    """Whether any entry is NaN."""
    return any_true(value.isnan())


def contains_infinity(value: Tensor) -> bool:
    """Whether any entry is infinite."""
    return any_true(value.isinf())


def any_true(mask: Tensor) -> bool:
    """The one place that looks at numbers during a pass (on a GPU it waits for them)."""
    return bool(mask.any())


def _orthonormal_basis(directions: Float[Tensor, "k d"]) -> Float[Tensor, "rank d"]:
    """Directions that nearly repeat others add nothing: what is below rounding error is dropped."""
    precise = directions.detach().double()
    lengths = precise.norm(dim=-1, keepdim=True)
    _, values, basis = torch.linalg.svd(
        precise / lengths.clamp(min=torch.finfo(torch.float64).tiny), full_matrices=False
    )
    return basis[values > 1e-6]
