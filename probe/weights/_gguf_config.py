"""The shape of the model in a GGUF file: its metadata -> GPTConfig.

Every key of the architecture is accounted for: read, known to change nothing, or an error. A key that this GPT does
not know might change what the model computes, and then the answers would be wrong without anybody noticing.
"""

import math
from typing import Any

import numpy as np

from probe.config import GPTConfig, RotaryScaling
from probe.errors import BrokenFile, UnsupportedModel, either
from probe.weights._gguf_file import GGUFFile

ARCHITECTURES = ("llama", "qwen2", "gpt2")
"""Mistral's files call themselves llama."""

_READ = (
    "attention.head_count attention.head_count_kv attention.key_length attention.layer_norm_epsilon "
    "attention.layer_norm_rms_epsilon attention.scale attention.sliding_window attention.value_length block_count "
    "context_length embedding_length feed_forward_length rope.dimension_count rope.freq_base rope.scale_linear "
    "rope.scaling.attn_factor rope.scaling.factor rope.scaling.original_context_length rope.scaling.type "
    "rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow vocab_size"
).split()
_CHANGES_NOTHING = ("rope.scaling.finetuned", "tensor_data_layout")
_NEUTRAL: dict[str, Any] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "attn_logit_softcapping": 0.0,
    "embedding_scale": 1.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "final_logit_softcapping": 0.0,
    "logit_scale": 1.0,
    "pooling_type": 0,
    "residual_scale": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "use_parallel_residual": False,
}
"""Settings that this GPT does not have, at the values where they change nothing."""


def config_of(file: GGUFFile) -> GPTConfig:
    """The config of the model in this file.

    Raises:
        BrokenFile: keys that are missing, of the wrong type, or do not fit the tensors.
        UnsupportedModel: an architecture or a setting that this GPT does not compute; the message names it.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(f"{file.path}: architecture {architecture!r}; supported are {either(ARCHITECTURES)}")
    keys = _Keys(file, architecture)
    keys.check_all_known()
    return _gpt2(keys) if architecture == "gpt2" else _llama_like(keys, architecture)


class _Keys:
    """The metadata of one architecture, by type."""

    def __init__(self, file: GGUFFile, architecture: str):
        self.file, self.prefix = file, f"{architecture}."

    def has(self, key: str) -> bool:
        return self.prefix + key in self.file.metadata

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 0; a list with one value per layer counts if they are all the same."""
        value = self._get(key, default)
        if hasattr(value, "tolist"):
            different = sorted(set(value.tolist()))
            if len(different) > 1:
                raise UnsupportedModel(f"{self.file.path}: {self.prefix}{key} differs between layers: {different[:8]}")
            value = different[0] if different else None
        if type(value) is not int or value < 0:
            raise BrokenFile(f"{self.file.path}: {self.prefix}{key} is {value!r}: expected a whole number")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.whole(key, default)
        if value < 1:
            raise BrokenFile(f"{self.file.path}: {self.prefix}{key} is {value}: expected at least 1")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0. Files hold 1e-5 as float32; the fewest digits that give it are what was meant."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
            raise BrokenFile(f"{self.file.path}: {self.prefix}{key} is {value!r}: expected a finite number above 0")
        return float(str(np.float32(value))) if np.float32(value) == value else float(value)

    def check_all_known(self) -> None:
        for key, value in self.file.metadata.items():
            setting = key.removeprefix(self.prefix)
            if not key.startswith(self.prefix) or setting in _READ or setting in _CHANGES_NOTHING:
                continue
            if setting not in _NEUTRAL or hasattr(value, "tolist") or value != _NEUTRAL[setting]:
                shown = str(value)[:60]
                raise UnsupportedModel(f"{self.file.path}: {key} = {shown}: a setting that this GPT does not have")
        if self.file.metadata.get("split.count", 1) not in (0, 1):
            raise UnsupportedModel(
                f"{self.file.path}: one of several files; join them first (`llama-gguf-split --merge`)"
            )

    def _get(self, key: str, default: Any) -> Any:
        value = self.file.metadata.get(self.prefix + key, default)
        if value is None:
            raise BrokenFile(f"{self.file.path}: metadata key {self.prefix + key!r} is missing")
        return value


def _sizes(keys: _Keys) -> dict[str, Any]:
    """What every architecture states alike."""
    n_layers, file = keys.size("block_count"), keys.file
    if n_layers > len(file.tensors):
        raise BrokenFile(f"{file.path}: {n_layers:,} layers, but only {len(file.tensors):,} tensors")
    if "token_embd.weight" not in file.tensors:
        raise BrokenFile(f"{file.path}: tensor 'token_embd.weight' is missing")
    d_vocab = file.tensors["token_embd.weight"].shape[0]
    if keys.whole("vocab_size", d_vocab) != d_vocab:
        raise BrokenFile(
            f"{file.path}: vocab_size is {keys.whole('vocab_size')}, but token_embd.weight has {d_vocab} rows"
        )
    return {
        "n_layers": n_layers,
        "d_model": keys.size("embedding_length"),
        "n_heads": keys.size("attention.head_count"),
        "d_mlp": keys.size("feed_forward_length"),
        "d_vocab": d_vocab,
        "n_ctx": keys.size("context_length"),
        "tied_embeddings": "output.weight" not in file.tensors,
    }


def _gpt2(keys: _Keys) -> GPTConfig:
    sizes = _sizes(keys)
    if keys.whole("attention.head_count_kv", sizes["n_heads"]) != sizes["n_heads"]:
        raise UnsupportedModel(f"{keys.file.path}: a gpt2 whose heads share keys")
    return GPTConfig(**sizes, d_head=_d_head(keys, sizes), norm_eps=keys.positive("attention.layer_norm_epsilon"))


def _llama_like(keys: _Keys, architecture: str) -> GPTConfig:
    sizes, tensors = _sizes(keys), keys.file.tensors
    window = keys.whole("attention.sliding_window", 0)
    scale = keys.positive("attention.scale") if keys.has("attention.scale") else None
    return GPTConfig(
        **sizes,
        d_head=_d_head(keys, sizes),
        n_kv_heads=keys.size("attention.head_count_kv", sizes["n_heads"]),
        norm="rms",
        norm_eps=keys.positive("attention.layer_norm_rms_epsilon"),
        positions="rotary",
        rotary_theta=keys.positive("rope.freq_base", 10_000.0),
        rotary_scaling=_rotary_scaling(keys, sizes["n_ctx"]),
        activation="silu",
        gated_mlp=True,
        qkv_bias=architecture == "qwen2" or "blk.0.attn_q.bias" in tensors,
        attn_out_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        attn_scale=scale,
        windows=(window,) * sizes["n_layers"] if 0 < window < sizes["n_ctx"] else None,
    )


def _d_head(keys: _Keys, sizes: dict[str, Any]) -> int:
    if sizes["d_model"] % sizes["n_heads"] and not keys.has("attention.key_length"):
        raise BrokenFile(f"{keys.file.path}: {sizes['n_heads']} heads do not divide {sizes['d_model']} dimensions")
    d_head = keys.size("attention.key_length", sizes["d_model"] // sizes["n_heads"])
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.size(key, d_head) != d_head:
            raise UnsupportedModel(
                f"{keys.file.path}: {keys.prefix}{key} is {keys.size(key)}, but a head has {d_head} dimensions: "
                "this GPT computes only heads whose keys and values are alike and turn as a whole"
            )
    return d_head


def _rotary_scaling(keys: _Keys, n_ctx: int) -> RotaryScaling | None:
    kind = keys.file.metadata.get(keys.prefix + "rope.scaling.type", "none")
    if "rope_freqs.weight" in keys.file.tensors:
        return _divisors(keys, kind, n_ctx)
    if keys.has("rope.scale_linear") and kind == "none":  # what files said before rope.scaling.type
        return _linear(keys.positive("rope.scale_linear"))
    if kind == "none":
        return None
    if kind == "linear":
        return _linear(keys.positive("rope.scaling.factor"))
    if kind == "yarn":
        return _yarn(keys, n_ctx)
    raise UnsupportedModel(f"{keys.file.path}: rope.scaling.type {kind!r}; supported are 'none', 'linear' or 'yarn'")


def _linear(factor: float) -> RotaryScaling | None:
    return RotaryScaling("linear", factor=factor) if factor != 1 else None


def _yarn(keys: _Keys, n_ctx: int) -> RotaryScaling:
    factor = keys.positive("rope.scaling.factor")
    times = keys.positive("rope.scaling.attn_factor", 1.0)  # on top of YaRN's own factor
    own = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return RotaryScaling(
        "yarn",
        factor=factor,
        original_n_ctx=keys.size("rope.scaling.original_context_length", n_ctx),
        beta_fast=keys.positive("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.positive("rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=None if times == 1 else times * own,
    )


def _divisors(keys: _Keys, kind: object, n_ctx: int) -> RotaryScaling:
    """Llama 3.1 and later: the file holds the divisor of each frequency instead of the constants of its formula."""
    entry, d_head = keys.file.tensors["rope_freqs.weight"], _d_head(keys, _sizes(keys))
    if kind != "none":
        raise UnsupportedModel(f"{keys.file.path}: rope.scaling.type {kind!r} together with rope_freqs.weight")
    if entry.shape != (d_head // 2,):
        raise BrokenFile(
            f"{keys.file.path}: tensor 'rope_freqs.weight' has shape {entry.shape}, expected ({d_head // 2},)"
        )
    divisors = tuple(keys.file.read("rope_freqs.weight").tolist())
    if min(divisors) <= 0:
        raise BrokenFile(
            f"{keys.file.path}: tensor 'rope_freqs.weight' holds {min(divisors)}: expected numbers above 0"
        )
    return RotaryScaling(
        "longrope",
        factor=max(divisors),
        original_n_ctx=n_ctx,
        short_factor=divisors,
        long_factor=divisors,
        attention_factor=1.0,
    )
