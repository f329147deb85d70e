"""Hook functions as TransformerLens has them, ``function(value, hook)``, as interventions of one call.

A hook may write into the value that it gets, which is a copy of its own, or return another; None leaves it as it is.
A backward hook gets the gradient of the value, as the pass went on with it, and may return another gradient.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BadIntervention, OutOfRange, UnknownName, either, unknown_name
from probe.gpt import GPT
from probe.interventions import Change, Intervention, check_change, contains_nan, edit
from probe.recording import Recording
from probe.sites import AFTER_BLOCKS, BEFORE_BLOCKS, IN_BLOCK, NO_MLP, check_layers, find_sites, site_names, split_name
from probe.transformer_lens_adapter._derived import MLP_IN, Derived, derived, derived_names

NamesMeant = str | Callable[[str], bool]
"""A full name, or a function that says of each site's name whether it is meant."""
Hook = tuple[NamesMeant, Callable[..., Any]]


@dataclass
class HookedSite:
    """What a hook function is told of its place: the name, and room for notes of one call."""

    name: str
    ctx: dict[str, Any] = field(default_factory=dict)

    def layer(self) -> int:
        """The layer that the name names."""
        return int(self.name.split(".")[1])


@dataclass(frozen=True)
class Reach:
    """What one pass comes by."""

    sites: tuple[str, ...]
    derived: tuple[str, ...]
    """What can be made from these."""


def reach_of(config: GPTConfig, start: int | None = None, stop: int | None = None) -> Reach:
    """The reach of a pass from layer `start` (None: from the tokens) to the one before `stop` (None: to the logits)."""
    before, after = ({site.suffix for site in sites} for sites in (BEFORE_BLOCKS, AFTER_BLOCKS))

    def is_run(name: str) -> bool:
        layer = split_name(name)[0]
        if layer is None:
            return (name in before and start is None) or (name in after and stop is None)
        return layer >= (start or 0) and (stop is None or layer < stop)

    sites = {name: None for name in site_names(config) if is_run(name)}
    return Reach(tuple(sites), tuple(name for name in derived_names(config) if kept_for(config, name) in sites))


def names_meant(config: GPTConfig, which: NamesMeant, reach: Reach) -> list[str]:
    """Full names that a name or a function means, among those within reach.

    A function is asked about sites only: derived values are large, and made where they are named.

    Raises:
        UnknownName: a name that does not exist (the nearest is offered), or a function that is true of none.
        OutOfRange: a value of a layer that is not run.
    """
    if isinstance(which, str):
        if which not in reach.sites and which not in reach.derived:
            check_name(config, which)
            first, last = reach.sites[0], reach.sites[-1]
            raise OutOfRange(f"hook {which!r} is not reached in this call: it runs {first} to {last}")
        return [which]
    if not callable(which):
        raise UnknownName(f"hook {which!r}: expected a name, such as 'blocks.0.attn.hook_z', or a function of names")
    found = [name for name in reach.sites if which(name)]
    if not found:
        large = [name for name in reach.derived if which(name)]
        hint = f"; it is of {either(large[:2])}: such values are made only where named, one by one" if large else ""
        raise UnknownName(f"the function of names is true of no site that this call computes{hint}")
    return found


def check_name(config: GPTConfig, name: str) -> None:
    """Raise unless a pass of the whole model comes by this name; of what other models have, the message says why.

    Raises:
        UnknownName: a name that does not exist, or not in this model.
        OutOfRange: a layer that it does not have.
    """
    known = [*site_names(config), *derived_names(config)]
    if name in known:
        return
    layer, suffix = split_name(name)
    if layer is not None:
        check_layers(config, [layer])
    if any(site.suffix == suffix and not site.exists(config) for site in (*BEFORE_BLOCKS, *IN_BLOCK)):
        find_sites(config, [name])  # raises, and says why this model has none
    if suffix == MLP_IN.suffix and not config.d_mlp:
        raise UnknownName(f"hook {name!r} does not exist in this model: its layers {NO_MLP}")
    raise unknown_name("hook", name, known)


class HookedPass:
    """The hooks of one call. It belongs to that call: hand `interventions` and `kept` to `record`, then `attach`."""

    def __init__(
        self,
        model: GPT,
        forward: Iterable[Hook],
        backward: Iterable[Hook],
        reach: Reach,
        *,
        differentiable: Iterable[str] = (),
    ):
        """`differentiable`: names of values whose gradient will be asked for, beside those of backward hooks."""
        self._model, self._backward = model, _by_name(model.config, backward, reach)
        graph = {*self._backward, *differentiable}
        hooks = {**dict.fromkeys(graph, ()), **_by_name(model.config, forward, reach)}
        self._sites = {name: HookedSite(name) for name in hooks}
        changes = {
            name: _change(self._sites[name], functions, begins_graph=name in graph) for name, functions in hooks.items()
        }
        self._routes = {
            name: _Route(model, *kind, changes.pop(name))
            for name in hooks
            if (kind := derived(model.config, name)) is not None
        }
        for name, route in self._routes.items():
            passed_by = [site for site in route.bypassed if site in changes]
            if passed_by:
                raise BadIntervention(f"hooks at {name!r} and at {passed_by[0]!r}: the one passes the other by")
        self.interventions: list[Intervention] = [
            *(one for route in self._routes.values() for one in route.hand_on()),
            *(edit(name, change) for name, change in changes.items()),
            *(route.read_source() for route in self._routes.values()),
        ]
        self.kept = [name for name in graph if name in changes]
        """Sites that `record` must keep."""

    def value(self, recording: Recording, name: str) -> Tensor:
        """A value of the pass by full name: a site, or what is derived from one that was kept."""
        if name in self._routes:
            return self._routes[name].value
        found = derived(self._model.config, name)
        if found is None:
            return recording.values[name]
        layer, kind = found
        return kind.make(self._model, layer, recording.values[kept_for(self._model.config, name)])

    def attach(self, recording: Recording) -> None:
        """Hang the backward hooks on the values of this pass; they run whenever its graph is walked."""
        for name, functions in self._backward.items():
            value = self.value(recording, name)
            for function in functions:
                value.register_hook(_gradient_hook(self._sites[name], function))


def kept_for(config: GPTConfig, name: str) -> str:
    """The site that `record` must keep for this value: itself, or what it is derived from."""
    found = derived(config, name)
    return name if found is None else f"blocks.{found[0]}.{found[1].source}"


class _Route:
    """A derived value of one call: made of its source, shown to the hooks, and handed on to the sites after it."""

    def __init__(self, model: GPT, layer: int, kind: Derived, change: Change):
        self._model, self._layer, self._kind, self._change = model, layer, kind, change
        self._onward: Mapping[str, Tensor] = {}
        self.value: Tensor

    @property
    def bypassed(self) -> list[str]:
        return [self._name(suffix) for suffix in self._kind.bypassed]

    def read_source(self) -> Intervention:
        """Changes nothing: the value is made of what the pass goes on with at the source."""
        return edit(self._name(self._kind.source), self._read)

    def hand_on(self) -> list[Intervention]:
        """At the sites after it: what is made of the value."""
        return [edit(self._name(site), lambda old, site=site: self._onward[site]) for site in self._kind.after]

    def _read(self, source: Tensor) -> Tensor:
        made = self._kind.make(self._model, self._layer, source).clone()
        name = self._name(self._kind.suffix)
        self.value = check_change(f"at {name}", self._change(made), made, self._kind.dims)
        if contains_nan(self.value):
            raise BadIntervention(f"at {name} the new value holds NaN")
        self._onward = self._kind.onward(self._model, self._layer, self.value)
        return source

    def _name(self, suffix: str) -> str:
        return f"blocks.{self._layer}.{suffix}"


def _by_name(config: GPTConfig, hooks: Iterable[Hook], reach: Reach) -> dict[str, list[Callable[..., Any]]]:
    found: dict[str, list[Callable[..., Any]]] = {}
    for hook in hooks:
        if not isinstance(hook, tuple) or len(hook) != 2 or not callable(hook[1]):
            raise BadIntervention(f"hook {hook!r}: expected (name, function), the function called as (value, hook=...)")
        for name in names_meant(config, hook[0], reach):
            found.setdefault(name, []).append(hook[1])
    return found


def _change(site: HookedSite, functions: Sequence[Callable[..., Any]], *, begins_graph: bool) -> Change:
    def change(value: Tensor) -> Tensor:
        if begins_graph and torch.is_grad_enabled() and not value.requires_grad:
            value = value.requires_grad_().clone()  # frozen weights: the graph begins here
        for function in functions:
            new = function(value, hook=site)
            value = value if new is None else new
        return value

    return change


def _gradient_hook(site: HookedSite, function: Callable[..., Any]) -> Callable[[Tensor], Any]:
    def change(grad: Tensor) -> Any:
        new = function(grad, hook=site)
        return new[0] if isinstance(new, tuple) and len(new) == 1 else new  # both are allowed in TransformerLens

    return change
