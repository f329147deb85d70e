"""Values that TransformerLens has a name for and that no pass makes: made where a hook or a cache names them.

    attn.hook_q_input, attn.hook_k_input, attn.hook_v_input   the stream entering the layer, a copy for each head
    hook_mlp_in                                               the stream entering the MLP, which alone reads this copy:
                                                              resid_mid, in parallel layers resid_pre
    attn.hook_result                                          what each head writes; the bias b_O belongs to none

Each stands between two sites: made from the one, and what the other holds is made from it again. Of keys and values
there are as many copies as key and value heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probe.config import GPTConfig
from probe.gpt import GPT
from probe.sites import split_name


@dataclass(frozen=True)
class Derived:
    """One kind of derived value, of one layer at a time."""

    suffix: str
    """What follows 'blocks.3.'."""
    dims: tuple[str, ...]
    source: str
    """The site that it is made from, by its suffix."""
    make: Callable[[GPT, int, Tensor], Tensor]
    """(model, layer, source) -> the value."""
    after: tuple[str, ...]
    """The sites that are made from it, by suffix."""
    onward: Callable[[GPT, int, Tensor], Mapping[str, Tensor]]
    """(model, layer, value) -> what those hold."""
    bypassed: tuple[str, ...] = ()
    """Sites on the way between the two: a hook there would be passed by."""


def derived_names(config: GPTConfig) -> tuple[str, ...]:
    """Full names of all derived values of a model."""
    return tuple(f"blocks.{layer}.{kind.suffix}" for layer in range(config.n_layers) for kind in _kinds(config))


def derived(config: GPTConfig, name: str) -> tuple[int, Derived] | None:
    """Layer and kind of a model's derived value by its full name; None: it is none."""
    layer, suffix = split_name(name)
    found = [] if layer is None else [(layer, kind) for kind in _kinds(config) if kind.suffix == suffix]
    return found[0] if found else None


def _kinds(config: GPTConfig) -> tuple[Derived, ...]:
    if not config.d_mlp:
        return _OF_ATTENTION
    return (*_OF_ATTENTION, MLP_IN if config.has_mid else _PARALLEL_MLP_IN)


def _stream_for(letter: str) -> Derived:
    """The stream as the queries, keys or values of each head read it: every head has a norm of its own copy."""

    def make(model: GPT, layer: int, resid: Tensor) -> Tensor:
        n_heads = model.config.n_heads if letter == "Q" else model.config.kv_heads
        return resid[:, :, None].expand(-1, -1, n_heads, -1)

    def onward(model: GPT, layer: int, copies: Tensor) -> dict[str, Tensor]:
        normed = model.blocks[layer].ln1(copies.flatten(0, 1)).view(copies.shape)
        weight = getattr(model, f"W_{letter}")[layer]
        made = torch.einsum("bphd,hde->bphe", normed, weight)
        offset = getattr(model.blocks[layer].attn, f"b_{letter}")
        return {f"attn.hook_{letter.lower()}": made if offset is None else made + offset.view(made.shape[-2:])}

    return Derived(
        suffix=f"attn.hook_{letter.lower()}_input",
        dims=("batch", "pos", "head" if letter == "Q" else "kv_head", "d_model"),
        source="hook_resid_pre",
        make=make,
        after=(f"attn.hook_{letter.lower()}",),
        onward=onward,
        bypassed=("ln1.hook_scale", "ln1.hook_normalized"),
    )


def _head_results(model: GPT, layer: int, z: Tensor) -> Tensor:
    return torch.einsum("bphe,hed->bphd", z, model.W_O[layer])


def _sum_of_heads(model: GPT, layer: int, results: Tensor) -> dict[str, Tensor]:
    written, offset = results.sum(-2), model.blocks[layer].attn.b_O
    return {"hook_attn_out": written if offset is None else written + offset}


def _normed_for_mlp(model: GPT, layer: int, resid: Tensor) -> dict[str, Tensor]:
    tap = _Kept()
    model.blocks[layer].ln2(resid, tap)
    return {f"ln2.{name}": value for name, value in tap.values.items()}


class _Kept:
    """A tap that keeps what a norm makes."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        self.values[name] = value
        return value

    def wants(self, name: str) -> bool:
        return True

    def scope(self, prefix: str) -> "_Kept":
        return self


_OF_ATTENTION = (
    *(_stream_for(letter) for letter in "QKV"),
    Derived(
        suffix="attn.hook_result",
        dims=("batch", "pos", "head", "d_model"),
        source="attn.hook_z",
        make=_head_results,
        after=("hook_attn_out",),
        onward=_sum_of_heads,
    ),
)
MLP_IN = Derived(
    suffix="hook_mlp_in",
    dims=("batch", "pos", "d_model"),
    source="hook_resid_mid",
    make=lambda model, layer, resid: resid,
    after=("ln2.hook_scale", "ln2.hook_normalized"),
    onward=_normed_for_mlp,
    bypassed=("ln2.hook_scale",),
)
_PARALLEL_MLP_IN = replace(MLP_IN, source="hook_resid_pre")
