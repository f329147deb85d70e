"""Hugging Face's tensors <-> our parameters: one table, read in both directions.

Ours are stored as (in, out). So are GPT-2's, whose c_attn holds queries, keys and values side by side; Llama-like ones
are (out, in).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from probe.config import GPTConfig
from probe.errors import BrokenFile, UnsupportedModel
from probe.gpt import GPT
from probe.weights._hf_families import GPT2, Family

NO_WEIGHTS = re.compile(
    r"(h|layers)\.\d+\.(attn\.(bias|masked_bias)|self_attn\.rotary_emb\.inv_freq)|rotary_emb\.inv_freq"
)
"""Tensors that some versions of transformers saved though they follow from the config: masks and frequencies."""
STORED_AS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
UNEMBEDDING = "lm_head.weight"


@runtime_checkable
class TensorSource(Protocol):
    """Where tensors come from: files, or a module in memory."""

    shapes: dict[str, tuple[int, ...]]
    """Every tensor there is."""

    def read(self, name: str) -> Tensor:
        """One of them; it may share memory with the source."""
        ...

    def place(self, name: str) -> str:
        """Where it stands, for messages."""
        ...


@dataclass(frozen=True)
class Stored:
    """One tensor of Hugging Face's, and our parameters that it holds."""

    name: str
    ours: tuple[str, ...]
    """More than one stand side by side along the last dim."""
    transposed: bool = False

    def shape(self, model: GPT) -> tuple[int, ...]:
        """The shape that it has in Hugging Face's layout."""
        parts = [model.get_parameter(name).shape for name in self.ours]
        shape = (*parts[0][:-1], sum(part[-1] for part in parts))
        return shape[::-1] if self.transposed else shape


def stored_tensors(config: GPTConfig, family: Family) -> Iterator[Stored]:
    """Every tensor that a model of this config has, named without the family's prefix."""
    layer_tensors, embedding, norm = (
        (_gpt2_layer, "wte", "ln_f") if family is GPT2 else (_llama_layer, "embed_tokens", "norm")
    )
    yield Stored(f"{embedding}.weight", ("embed.W_E",))
    if config.positions == "learned":
        yield Stored("wpe.weight", ("embed.W_pos",))
    for layer in range(config.n_layers):
        yield from layer_tensors(config, layer)
    yield Stored(f"{norm}.weight", ("ln_final.w",))
    if config.norm == "layer":
        yield Stored(f"{norm}.bias", ("ln_final.b",))
    if not config.tied_embeddings:
        yield Stored(UNEMBEDDING, ("unembed.W_U",), transposed=True)


def _gpt2_layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"h.{layer}", f"blocks.{layer}"
    for norm_theirs, norm_ours in (("ln_1", "ln1"), ("ln_2", "ln2")):
        yield Stored(f"{theirs}.{norm_theirs}.weight", (f"{ours}.{norm_ours}.w",))
        yield Stored(f"{theirs}.{norm_theirs}.bias", (f"{ours}.{norm_ours}.b",))
    for kind, letter in (("weight", "W"), ("bias", "b")):
        yield Stored(f"{theirs}.attn.c_attn.{kind}", tuple(f"{ours}.attn.{letter}_{part}" for part in "QKV"))
        yield Stored(f"{theirs}.attn.c_proj.{kind}", (f"{ours}.attn.{letter}_O",))
        yield Stored(f"{theirs}.mlp.c_fc.{kind}", (f"{ours}.mlp.{letter}_in",))
        yield Stored(f"{theirs}.mlp.c_proj.{kind}", (f"{ours}.mlp.{letter}_out",))


def _llama_layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"layers.{layer}", f"blocks.{layer}"
    yield Stored(f"{theirs}.input_layernorm.weight", (f"{ours}.ln1.w",))
    yield Stored(f"{theirs}.post_attention_layernorm.weight", (f"{ours}.ln2.w",))
    projections = (
        *((f"self_attn.{part.lower()}_proj", "attn", part, config.qkv_bias) for part in "QKV"),
        ("self_attn.o_proj", "attn", "O", config.attn_out_bias),
        ("mlp.gate_proj", "mlp", "gate", config.mlp_bias),
        ("mlp.up_proj", "mlp", "in", config.mlp_bias),
        ("mlp.down_proj", "mlp", "out", config.mlp_bias),
    )
    for projection, module, part, biased in projections:
        yield Stored(f"{theirs}.{projection}.weight", (f"{ours}.{module}.W_{part}",), transposed=True)
        if biased:
            yield Stored(f"{theirs}.{projection}.bias", (f"{ours}.{module}.b_{part}",))


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
    _check_names(model, names, wanted, where)
    _check_shapes(model, source, names, wanted, where)
    for stored in wanted.values():
        tensor = _checked(source, names[stored.name])
        tensor = tensor.T if stored.transposed else tensor
        parts = tensor.split([model.get_parameter(ours).shape[-1] for ours in stored.ours], dim=-1)
        for ours, part in zip(stored.ours, parts, strict=True):
            set_parameter(model, ours, own_copy(part, dtype, device, place=source.place(names[stored.name])))
    if model.config.tied_embeddings and UNEMBEDDING in names:
        _check_tied(source, names, family, where)


def _bare_names(family: Family, source: TensorSource, where: str) -> dict[str, str]:
    """Names without the family's prefix -> names as they stand there; without what holds no weights."""
    bare: dict[str, str] = {}
    for name in source.shapes:
        short = name.removeprefix(family.prefix)
        if short in bare:
            raise BrokenFile(f"{where}: tensor {short} is there twice, as {bare[short]} and as {name}")
        if not NO_WEIGHTS.fullmatch(short):
            bare[short] = name
    return bare


def _check_names(model: GPT, names: dict[str, str], wanted: dict[str, Stored], where: str) -> None:
    allowed = {*wanted, UNEMBEDDING} if model.config.tied_embeddings else set(wanted)
    missing = [name for name in wanted if name not in names]
    surplus = [names[name] for name in names if name not in allowed]
    if missing or surplus:
        faults = [f"{_first_of(missing)} missing"] * bool(missing) + [f"{_first_of(surplus)} surplus"] * bool(surplus)
        hint = ""
        if missing == [UNEMBEDDING]:
            hint = "; if the unembedding is the embedding, config.json must say tie_word_embeddings = true"
        raise BrokenFile(f"{where}: the tensors do not fit config.json: {'; '.join(faults)}{hint}")


def _first_of(names: list[str]) -> str:
    """``3 tensors (a, b, c)``, of many only the first few."""
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} tensor{'s' * (len(names) != 1)} ({shown})"


def _check_shapes(
    model: GPT, source: TensorSource, names: dict[str, str], wanted: dict[str, Stored], where: str
) -> None:
    wrong = []
    for stored in wanted.values():
        came, expected = source.shapes[names[stored.name]], stored.shape(model)
        if came != expected:
            wrong.append(f"{names[stored.name]} is {came}, expected {expected}")
    if wrong:
        more = f" (and {len(wrong) - 4} more)" if len(wrong) > 4 else ""
        raise BrokenFile(f"{where}: {len(wrong)} of the wrong shape for config.json: {'; '.join(wrong[:4])}{more}")


def _checked(source: TensorSource, name: str) -> Tensor:
    tensor = source.read(name)
    if tensor.dtype not in STORED_AS:
        raise UnsupportedModel(
            f"{source.place(name)}: {name} is stored as {tensor.dtype}; only plain floats are read, nothing quantised"
        )
    if tensor.is_meta:
        raise UnsupportedModel(f"{source.place(name)}: {name} is on the meta device, it holds no numbers")
    if not is_finite(tensor):
        raise BrokenFile(f"{source.place(name)}: {name} holds NaN or infinity")
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite: smallest and largest say so, in one pass and without a mask."""
    return all(torch.isfinite(end).item() for end in tensor.aminmax())


def own_copy(view: Tensor, dtype: torch.dtype, device: torch.device, *, place: str) -> Tensor:
    """The same numbers in memory of our own. A view of a mapped file or of another module would change with it."""
    fresh = torch.empty(view.shape, dtype=dtype, device=device)
    fresh.copy_(view)
    if torch.finfo(dtype).max < torch.finfo(view.dtype).max and not is_finite(fresh):
        raise UnsupportedModel(f"{place}: a weight is too large for {dtype}; use bfloat16 or float32")
    return fresh


def set_parameter(model: GPT, name: str, value: Tensor) -> None:
    """Put a tensor in a parameter's place."""
    module, leaf = name.rsplit(".", 1)
    setattr(model.get_submodule(module), leaf, nn.Parameter(value))


def _check_tied(source: TensorSource, names: dict[str, str], family: Family, where: str) -> None:
    embedding = "wte.weight" if family is GPT2 else "embed_tokens.weight"
    W_U, W_E = source.read(names[UNEMBEDDING]), source.read(names[embedding])
    if W_U.shape != W_E.shape or not torch.equal(W_U, W_E):
        raise BrokenFile(
            f"{where}: config.json ties the unembedding to the embedding, but {names[UNEMBEDDING]} differs from "
            f"{names[embedding]}; set tie_word_embeddings = false to use both"
        )


@torch.no_grad()
def their_tensors(model: GPT, family: Family) -> dict[str, Tensor]:
    """The weights in Hugging Face's layout and names, on the CPU; nothing that shares memory with another."""
    tensors = {}
    for stored in stored_tensors(model.config, family):
        parts = [model.get_parameter(name).detach().cpu() for name in stored.ours]
        whole = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        prefix = "" if stored.name == UNEMBEDDING else family.prefix
        tensors[prefix + stored.name] = (whole.T if stored.transposed else whole).contiguous()
    return tensors
