"""GGUF files, as llama.cpp uses them: one file with a model's shape, weights (often quantised) and tokenizer.

Weights are expanded to plain numbers: what a 4-bit file gives are not the full-precision model's numbers.
Sources: the GGUF specification of the ggml project; llama.cpp (2025) for what names and keys mean.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from probe.catalogue import known_models
from probe.config import GPTConfig
from probe.errors import BrokenFile, UnknownName, UnsupportedModel
from probe.gpt import GPT
from probe.tokens import Tokenizer
from probe.weights._gguf_config import config_of
from probe.weights._gguf_file import GGUFFile
from probe.weights._gguf_tokenizer import tokenizer_of
from probe.weights._tensors import empty_model

MOST_THREADS = 4
"""Each holds one expanded tensor and its transposed copy, so memory grows with them; four keep up with most disks."""


def load_gguf(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> GPT:
    """The model in a GGUF file, with its tokenizer (None if the file has none). `name` None: the file's.

    Raises:
        UnknownName: no such file.
        BrokenFile: truncated or damaged, tensors missing, too many or of the wrong shape, weights that are not finite.
        UnsupportedModel: an architecture, a setting or a type of tensor that this GPT does not compute.
    """
    file = _open(path)
    config = config_of(file)
    sources = list(_sources(file, config))
    _check_tensors(file, sources)
    tokenizer = _tokenizer(file, config, name)
    read = partial(_read, file, dtype=dtype, device=torch.device(device))
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        weights = {ours: weight for part in pool.map(read, sources) for ours, weight in part.items()}
    model = empty_model(config, name or file.path.stem, tokenizer)
    model.load_state_dict(weights, strict=True, assign=True)
    return model


def read_gguf_config(path: str | os.PathLike, *, name: str | None = None) -> tuple[GPTConfig, Tokenizer | None]:
    """The shape and the tokenizer of the model in a GGUF file, without its weights. Raises as `load_gguf`."""
    file = _open(path)
    config = config_of(file)
    return config, _tokenizer(file, config, name)


def _open(path: str | os.PathLike) -> GGUFFile:
    if not Path(path).is_file():
        raise UnknownName(f"no file {os.fspath(path)!r}")
    return GGUFFile(path)


def _tokenizer(file: GGUFFile, config: GPTConfig, name: str | None) -> Tokenizer | None:
    separator = next((known.document_separator for known in known_models() if known.name == name), None)
    tokenizer = tokenizer_of(file.path, file.metadata, document_start=separator)
    if tokenizer is not None and tokenizer.d_vocab > config.d_vocab:
        raise BrokenFile(f"{file.path}: {tokenizer.d_vocab} tokens, but token_embd.weight has {config.d_vocab} rows")
    return tokenizer


@dataclass(frozen=True)
class _Source:
    """One tensor of the file, and what becomes of it."""

    name: str
    shape: tuple[int, ...]
    """The shape that it must have in the file: (out, in) for matrices."""
    arrange: Callable[[Tensor], dict[str, Tensor]]
    """The file's tensor -> our parameters by name, contiguous."""


def _sources(file: GGUFFile, config: GPTConfig) -> Iterator[_Source]:
    """Every tensor that a model of this config must have."""
    d_model, d_vocab = config.d_model, config.d_vocab
    layer_sources = _gpt2_layer if config.positions == "learned" else _llama_layer
    yield _Source("token_embd.weight", (d_vocab, d_model), _as_is("embed.W_E"))
    if config.positions == "learned":
        yield _Source("position_embd.weight", (config.n_ctx, d_model), _as_is("embed.W_pos"))
    if not config.tied_embeddings:
        yield _Source("output.weight", (d_vocab, d_model), _transposed("unembed.W_U"))
    yield from _norm(config, "output_norm", "ln_final")
    for layer in range(config.n_layers):
        yield from _norm(config, f"blk.{layer}.attn_norm", f"blocks.{layer}.ln1")
        yield from _norm(config, f"blk.{layer}.ffn_norm", f"blocks.{layer}.ln2")
        yield from layer_sources(config, f"blk.{layer}", f"blocks.{layer}", file.metadata["general.architecture"])


def _norm(config: GPTConfig, theirs: str, ours: str) -> Iterator[_Source]:
    yield _Source(f"{theirs}.weight", (config.d_model,), _as_is(f"{ours}.w"))
    if config.norm == "layer":
        yield _Source(f"{theirs}.bias", (config.d_model,), _as_is(f"{ours}.b"))


def _llama_layer(config: GPTConfig, theirs: str, ours: str, architecture: str) -> Iterator[_Source]:
    d_model, d_mlp = config.d_model, config.d_mlp
    query, key = config.n_heads * config.d_head, config.kv_heads * config.d_head
    interleaved = architecture == "llama"
    for kind, out, into, ours_, bias, heads in (
        ("attn_q", query, d_model, "attn.{}_Q", config.qkv_bias, config.n_heads if interleaved else None),
        ("attn_k", key, d_model, "attn.{}_K", config.qkv_bias, config.kv_heads if interleaved else None),
        ("attn_v", key, d_model, "attn.{}_V", config.qkv_bias, None),
        ("attn_output", d_model, query, "attn.{}_O", config.attn_out_bias, None),
        ("ffn_gate", d_mlp, d_model, "mlp.{}_gate", config.mlp_bias, None),
        ("ffn_up", d_mlp, d_model, "mlp.{}_in", config.mlp_bias, None),
        ("ffn_down", d_model, d_mlp, "mlp.{}_out", config.mlp_bias, None),
    ):
        place = f"{ours}.{ours_}"
        yield _Source(f"{theirs}.{kind}.weight", (out, into), _transposed(place.format("W"), heads))
        if bias:
            yield _Source(f"{theirs}.{kind}.bias", (out,), _transposed(place.format("b"), heads))


def _gpt2_layer(config: GPTConfig, theirs: str, ours: str, architecture: str) -> Iterator[_Source]:
    d_model, d_mlp = config.d_model, config.d_mlp
    for letter, shape in (("W", lambda out, into: (out, into)), ("b", lambda out, into: (out,))):
        ending = {"W": "weight", "b": "bias"}[letter]
        three = tuple(f"{ours}.attn.{letter}_{kind}" for kind in "QKV")
        yield _Source(f"{theirs}.attn_qkv.{ending}", shape(3 * d_model, d_model), _in_three(three))
        yield _Source(f"{theirs}.attn_output.{ending}", shape(d_model, d_model), _transposed(f"{ours}.attn.{letter}_O"))
        yield _Source(f"{theirs}.ffn_up.{ending}", shape(d_mlp, d_model), _transposed(f"{ours}.mlp.{letter}_in"))
        yield _Source(f"{theirs}.ffn_down.{ending}", shape(d_model, d_mlp), _transposed(f"{ours}.mlp.{letter}_out"))


def _as_is(ours: str) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda x: {ours: x}


def _transposed(ours: str, heads: int | None = None) -> Callable[[Tensor], dict[str, Tensor]]:
    """(out, in) -> (in, out); a bias (out,) stays.

    With `heads`, their rows are interleaved in the file, the pair that turns together side by side; here the pair is
    half a head apart.
    """

    def arrange(x: Tensor) -> dict[str, Tensor]:
        if heads is not None:
            x = x.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
        return {ours: x.T.contiguous() if x.ndim == 2 else x.contiguous()}

    return arrange


def _in_three(ours: tuple[str, ...]) -> Callable[[Tensor], dict[str, Tensor]]:
    """Queries, keys and values, one after the other in the file."""
    return lambda x: {
        name: part.T.contiguous() if x.ndim == 2 else part.clone() for name, part in zip(ours, x.chunk(3), strict=True)
    }


def _check_tensors(file: GGUFFile, sources: list[_Source]) -> None:
    """Raise unless the file has exactly these tensors, in these shapes."""
    expected = {source.name: source.shape for source in sources}
    missing = [name for name in expected if name not in file.tensors]
    if missing:
        raise BrokenFile(f"{file.path}: {_some(missing)} missing; it has {len(file.tensors)} tensors")
    surplus = [name for name in file.tensors if name not in expected and name != "rope_freqs.weight"]
    if surplus:
        raise UnsupportedModel(f"{file.path}: tensors that this GPT would not use: {_some(surplus)}")
    for name, shape in expected.items():
        if file.tensors[name].shape != shape:
            raise BrokenFile(f"{file.path}: tensor {name!r} has shape {file.tensors[name].shape}, expected {shape}")


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read(file: GGUFFile, source: _Source, *, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    parts = source.arrange(torch.from_numpy(file.read(source.name)))
    return {ours: part.to(device=device, dtype=dtype) for ours, part in parts.items()}
