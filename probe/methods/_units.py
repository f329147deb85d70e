"""What an ablation sweep takes out, one unit at a time: heads, MLPs, layers, neurons of a layer, sets of these."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from probe.arguments import several
from probe.config import GPTConfig
from probe.errors import OutOfRange, as_integer, check_choice, check_index, unknown_name
from probe.methods._reruns import Part
from probe.selection import Indices, as_list
from probe.sites import check_has_mlp, check_layers

Kind = Literal["heads", "MLPs", "layers", "neurons"]
LISTED = 6
"""Units of a set that its name lists."""
Head = tuple[int, int]
"""(layer, head)."""
Named = Head | str
"""(layer, head), or a unit by the name that results give it: '9.6', 'MLP 3', 'layer 3', 'neuron 3.120'."""
Units = Kind | Sequence[Named | Sequence[Named]]
"""All of a kind, or a list: single units, or sets of them that are taken out together."""


@dataclass(frozen=True)
class Unit:
    """What is replaced together."""

    name: str
    """'9.6' is layer 9, head 6; 'MLP 3'; 'layer 3'; 'neuron 3.120'; '9.6 + 10.0'."""
    parts: tuple[Part, ...]

    @property
    def layer(self) -> int | None:
        """The layer that it is in; None where it reaches over several."""
        layers = {part.layer for part in self.parts}
        return layers.pop() if len(layers) == 1 else None

    @property
    def index(self) -> int | None:
        """The head or neuron, of a unit that is one."""
        return self.parts[0].index if len(self.parts) == 1 else None


def list_units(config: GPTConfig, units: Units, layers: Indices) -> tuple[str, tuple[Unit, ...]]:
    """What kind of units these are, and all of them, from the first layer up.

    Raises:
        UnknownName: no such kind, or no unit of such a name; the nearest is offered.
        OutOfRange: a layer or head that the model does not have; no units; neurons without one layer; a head twice.
    """
    if isinstance(units, str):
        check_choice("kind of units", units, get_args(Kind))
        if units in ("MLPs", "neurons"):
            check_has_mlp(config, f"units={units!r}")
        chosen = range(config.n_layers) if layers is None else check_layers(config, as_list("layers", layers))
        if units == "neurons" and len(chosen) != 1:
            raise OutOfRange(f"units='neurons': name one layer, as in layers=0; a layer has {config.d_mlp} neurons")
        return units, tuple(unit for layer in sorted(set(chosen)) for unit in _of_layer(config, units, layer))
    if layers is not None:
        raise OutOfRange("layers goes with a kind of units, such as units='heads'; listed heads name their layers")
    found = tuple(_read(config, one) for one in several("units", units))
    if not found:
        raise OutOfRange("units: the list is empty; give (layer, head) pairs, sets of them, or units='heads'")
    names = [unit.parts for unit in found]
    if len(set(names)) < len(names):
        twice = next(unit.name for place, unit in enumerate(found) if unit.parts in names[:place])
        raise OutOfRange(f"units: {twice} is listed twice")
    if all(len(heads_of(unit)) == len(unit.parts) for unit in found):
        return "heads" if all(len(unit.parts) == 1 for unit in found) else "sets of heads", found
    return "listed units", found


def _of_layer(config: GPTConfig, kind: str, layer: int) -> list[Unit]:
    if kind == "heads":
        return [Unit(f"{layer}.{head}", (Part(layer, "z", head),)) for head in range(config.n_heads)]
    if kind == "neurons":
        return [Unit(f"neuron {layer}.{neuron}", (Part(layer, "post", neuron),)) for neuron in range(config.d_mlp)]
    if kind == "MLPs":
        return [Unit(f"MLP {layer}", (Part(layer, "mlp_out"),))]
    writers = ("attn_out", "mlp_out") if config.d_mlp else ("attn_out",)
    return [Unit(f"layer {layer}", tuple(Part(layer, site) for site in writers))]


def _read(config: GPTConfig, given: Any) -> Unit:
    """A head, another unit by its name, or several that are taken out together.

    Raises:
        UnknownName: a text that names no unit.
        OutOfRange: none of these, nothing, what the model does not have, something twice.
    """
    if isinstance(given, str):
        return _by_name(config, given)
    if isinstance(given, (list, tuple, set, frozenset)) and any(isinstance(one, str) for one in given):
        units = [_by_name(config, one) if isinstance(one, str) else read_heads(config, one) for one in given]
        parts = [part for unit in units for part in unit.parts]
        if len(set(parts)) < len(parts):
            raise OutOfRange(f"unit {given!r}: something stands in it twice")
        order = sorted(units, key=lambda unit: (unit.parts[0].layer, unit.name))
        name = " + ".join(unit.name for unit in order) if len(order) <= LISTED else f"{len(order)} units"
        return Unit(name, tuple(part for unit in order for part in unit.parts))
    return read_heads(config, given)


def _by_name(config: GPTConfig, name: str) -> Unit:
    if head := re.fullmatch(r"[Ll]?(\d+)[.Hh](\d+)", name):
        return unit_of_heads([check_head(config, (int(head[1]), int(head[2])))])
    if neuron := re.fullmatch(r"neuron (\d+)\.(\d+)", name):
        check_has_mlp(config, f"unit {name!r}")
        layer = check_index("layer", int(neuron[1]), config.n_layers, owner="this model")
        number = check_index("neuron", int(neuron[2]), config.d_mlp, owner="a layer")
        return Unit(name, (Part(layer, "post", number),))
    if whole := re.fullmatch(r"(MLP|layer) (\d+)", name):
        if whole[1] == "MLP":
            check_has_mlp(config, f"unit {name!r}")
        layer = check_index("layer", int(whole[2]), config.n_layers, owner="this model")
        return _of_layer(config, "MLPs" if whole[1] == "MLP" else "layers", layer)[0]
    kinds = ("layers", "MLPs", "heads") if config.d_mlp else ("layers", "heads")
    known = [unit.name for kind in kinds for layer in range(config.n_layers) for unit in _of_layer(config, kind, layer)]
    raise unknown_name(
        "unit", name, known,
        hint="(expected a name such as '9.6', which is layer 9, head 6; 'MLP 3', 'layer 3' or 'neuron 3.7'; all of a "
        "kind are units='heads')",
    )  # fmt: skip


def read_heads(config: GPTConfig, given: Any) -> Unit:
    """A head as (layer, head), or several that are taken out together.

    Raises:
        OutOfRange: neither, no heads, one that the model does not have, one twice.
    """
    several = isinstance(given, (list, tuple, set, frozenset))
    heads: list[Any] = [given] if _is_head(given) else list(given) if several else [None]
    if not heads or not all(_is_head(head) for head in heads):
        raise OutOfRange(f"unit {given!r}: expected a head as (layer, head), or a list of such pairs")
    checked = [check_head(config, head) for head in heads]
    if len(set(checked)) < len(checked):
        raise OutOfRange(f"unit {given!r}: a head stands in it twice")
    return unit_of_heads(checked)


def unit_of_heads(heads: Sequence[Head]) -> Unit:
    """These heads, taken out together."""
    parts = tuple(Part(layer, "z", head) for layer, head in sorted(heads))
    names = [f"{part.layer}.{part.index}" for part in parts]
    return Unit(" + ".join(names) if len(names) <= LISTED else f"{len(names)} heads", parts)


def heads_of(unit: Unit) -> tuple[Head, ...]:
    """The heads that a unit consists of."""
    return tuple((part.layer, part.index) for part in unit.parts if part.site == "z" and part.index is not None)


def all_heads(config: GPTConfig) -> list[Head]:
    """Every head of a model, from the first layer up."""
    return [(layer, head) for layer in range(config.n_layers) for head in range(config.n_heads)]


def random_sets(config: GPTConfig, size: int, n: int, *, seed: int, but: Sequence[Head]) -> list[tuple[Head, ...]]:
    """n different sets of so many heads, none of them `but`; all there are where that is fewer."""
    heads, avoided = all_heads(config), set(but)
    n = min(n, math.comb(len(heads), size) - (len(avoided) == size))
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[tuple[Head, ...], None] = {}
    while len(drawn) < n:
        one = tuple(heads[place] for place in sorted(torch.randperm(len(heads), generator=generator)[:size].tolist()))
        if set(one) != avoided:
            drawn[one] = None
    return list(drawn)


def check_head(config: GPTConfig, head: Head) -> Head:
    """(layer, head) counted from the front, or OutOfRange."""
    layer = check_index("layer", head[0], config.n_layers, owner="this model")
    return layer, check_index("head", head[1], config.n_heads, owner="this model")


def _is_head(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2 and None not in map(as_integer, given)
