"""Hugging Face's tensors <-> our parameters: each family's table, read in both directions. Ours are (in, out)."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BrokenFile
from probe.gpt import GPT
from probe.weights._hf_family import Family, Stored, norm
from probe.weights._tensors import (
    TensorSource,
    check_shapes,
    checked_tensor,
    other_tensors,
    own_copy,
    set_parameter,
)

NO_WEIGHTS = re.compile(
    r"(h|layers)\.\d+\.((attn|attention|attn\.attention)\.(bias|masked_bias)|(self_attn|attention)\.rotary_emb\.inv_freq)"
    r"|rotary_emb\.inv_freq"
)
"""Tensors that some versions of transformers saved though they follow from the config: masks and frequencies."""


def stored_tensors(config: GPTConfig, family: Family) -> Iterator[Stored]:
    """Every tensor that a model of this config has, named without the family's prefix."""
    yield Stored(f"{family.embedding}.weight", ("embed.W_E",))
    if config.positions == "learned":
        yield Stored("wpe.weight", ("embed.W_pos",))
    for layer in range(config.n_layers):
        yield from family.layer(config, layer)
    yield from norm(family.final_norm, "ln_final", bias=config.norm == "layer")
    if not config.tied_embeddings:
        yield Stored(f"{family.unembedding}.weight", ("unembed.W_U",), transposed=True)
    if config.unembed_bias:
        yield Stored(f"{family.unembedding}.bias", ("unembed.b_U",))


def _their_shape(stored: Stored, model: GPT) -> tuple[int, ...]:
    """The shape that a tensor has in Hugging Face's layout."""
    parts = [model.get_parameter(name).shape for name in stored.ours]
    shape = (*parts[0][:-1], sum(part[-1] for part in parts))
    return shape[::-1] if stored.transposed else shape


def _our_parts(stored: Stored, tensor: Tensor, model: GPT) -> list[Tensor]:
    """Views of one of their tensors, in the shapes of our parameters."""
    tensor = (tensor.T if stored.transposed else tensor).unflatten(-1, (stored.groups, -1))
    sizes = [model.get_parameter(ours).shape[-1] // stored.groups for ours in stored.ours]
    return [part.flatten(-2) for part in tensor.split(sizes, dim=-1)]


def _their_whole(stored: Stored, model: GPT) -> Tensor:
    """One of their tensors, of our parameters."""
    parts = [model.get_parameter(name).detach().cpu().unflatten(-1, (stored.groups, -1)) for name in stored.ours]
    whole = torch.cat(parts, dim=-1).flatten(-2)
    return (whole.T if stored.transposed else whole).contiguous()


@torch.no_grad()
def fill_model(
    model: GPT, family: Family, source: TensorSource, *, where: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Give a model on the meta device its weights, copied tensor by tensor.

    Raises:
        BrokenFile: tensors are missing, surplus, of another shape, or hold NaN or infinity.
        UnsupportedModel: tensors of a type that is not a plain float, such as quantised ones.
    """
    names = _bare_names(family, source, where)
    wanted = {stored.name: stored for stored in stored_tensors(model.config, family)}
    _check_names(model, names, wanted, family, where)
    check_shapes(source, {names[name]: _their_shape(stored, model) for name, stored in wanted.items()}, where)
    for stored in wanted.values():
        tensor = checked_tensor(source, names[stored.name])
        for ours, part in zip(stored.ours, _our_parts(stored, tensor, model), strict=True):
            set_parameter(model, ours, own_copy(part, dtype, device, place=source.place(names[stored.name])))
    if model.config.tied_embeddings and f"{family.unembedding}.weight" in names:
        _check_tied(source, names, family, where)


def _bare_names(family: Family, source: TensorSource, where: str) -> dict[str, str]:
    """Names without the family's prefix -> names as they stand there; without what holds no weights."""
    bare: dict[str, str] = {}
    for name in source.shapes:
        module, _, rest = name.removeprefix(family.prefix).partition(".")
        short = f"{family.renamed.get(module, module)}.{rest}"
        if short in bare:
            raise BrokenFile(f"{where}: tensor {short} is there twice, as {bare[short]} and as {name}")
        if not NO_WEIGHTS.fullmatch(short):
            bare[short] = name
    return bare


def _check_names(model: GPT, names: dict[str, str], wanted: dict[str, Stored], family: Family, where: str) -> None:
    unembedding = f"{family.unembedding}.weight"
    allowed = {*wanted, unembedding} if model.config.tied_embeddings else set(wanted)
    missing = [name for name in wanted if name not in names]
    surplus = [names[name] for name in names if name not in allowed]
    if missing or surplus:
        hint = ""
        if missing == [unembedding]:
            hint = "; if the unembedding is the embedding, config.json must say tie_word_embeddings = true"
        raise other_tensors(where, "config.json", missing, surplus, hint)


def _check_tied(source: TensorSource, names: dict[str, str], family: Family, where: str) -> None:
    embedding, unembedding = f"{family.embedding}.weight", f"{family.unembedding}.weight"
    W_U, W_E = source.read(names[unembedding]), source.read(names[embedding])
    if W_U.shape != W_E.shape or not torch.equal(W_U, W_E):
        raise BrokenFile(
            f"{where}: config.json ties the unembedding to the embedding, but {names[unembedding]} differs from "
            f"{names[embedding]}; set tie_word_embeddings = false to use both"
        )


@torch.no_grad()
def their_tensors(model: GPT, family: Family) -> dict[str, Tensor]:
    """The weights in Hugging Face's layout and names, on the CPU; nothing that shares memory with another."""
    tensors = {}
    for stored in stored_tensors(model.config, family):
        prefix = "" if stored.name.startswith(f"{family.unembedding}.") else family.prefix
        tensors[prefix + stored.name] = _their_whole(stored, model)
    return tensors
