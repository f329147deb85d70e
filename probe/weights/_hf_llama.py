"""Llama and its relatives Mistral, Qwen 2, Qwen 3 and Gemma 2 in Hugging Face's words; weights are (out, in)."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from probe.arguments import brief
from probe.config import GPTConfig
from probe.errors import UnsupportedModel
from probe.weights._hf_family import (
    WRITTEN_ACTIVATIONS,
    Family,
    Stored,
    activation,
    head_size,
    linear,
    norm,
)
from probe.weights._hf_rotary import read_rotary, write_rotary

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "head_dim": None}
Windows = tuple[int | None, ...] | None


def _read(values: dict[str, Any], source: str) -> GPTConfig:
    """What all of them say alike; without biases and windows."""
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    d_head = head_size(d_model, n_heads, source) if values["head_dim"] is None else values["head_dim"]
    return GPTConfig(
        n_layers=values["num_hidden_layers"],
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=values["intermediate_size"],
        d_vocab=values["vocab_size"],
        n_kv_heads=values["num_key_value_heads"],
        norm="rms",
        norm_eps=values["rms_norm_eps"],
        activation=activation(values, "hidden_act", source),
        gated_mlp=True,
        qkv_bias=False,
        attn_out_bias=False,
        mlp_bias=False,
        tied_embeddings=bool(values["tie_word_embeddings"]),
        **read_rotary(values, d_head, source=source),
    )


def _read_llama(values: dict[str, Any], source: str) -> GPTConfig:
    biased = bool(values["attention_bias"])
    return dataclasses.replace(
        _read(values, source), qkv_bias=biased, attn_out_bias=biased, mlp_bias=bool(values["mlp_bias"]),
        windows=_windows(values, None, [False] * _n(values), source, "llama"),
    )  # fmt: skip


def _read_mistral(values: dict[str, Any], source: str) -> GPTConfig:
    windows = _windows(values, values["sliding_window"], [True] * _n(values), source, "mistral")
    return dataclasses.replace(_read(values, source), windows=windows)


def _read_qwen2(values: dict[str, Any], source: str) -> GPTConfig:
    return dataclasses.replace(_read(values, source), qkv_bias=True, windows=_qwen_windows(values, source, "qwen2"))


def _read_qwen3(values: dict[str, Any], source: str) -> GPTConfig:
    biased = bool(values["attention_bias"])
    return dataclasses.replace(
        _read(values, source), qkv_bias=biased, attn_out_bias=biased, qk_norm=True,
        windows=_qwen_windows(values, source, "qwen3"),
    )  # fmt: skip


def _qwen_windows(values: dict[str, Any], source: str, model_type: str) -> Windows:
    window = values["sliding_window"] if values["use_sliding_window"] else None
    first = values["max_window_layers"]
    if not isinstance(first, int):
        raise UnsupportedModel(f"{source}: max_window_layers is {brief(first)}; expected a number of layers")
    return _windows(values, window, [i >= first for i in range(_n(values))], source, model_type, free=True)


def _read_gemma2(values: dict[str, Any], source: str) -> GPTConfig:
    read = _read(values | {"hidden_act": values["hidden_activation"]}, source)
    scalar, biased = values["query_pre_attn_scalar"], bool(values["attention_bias"])
    if isinstance(scalar, bool) or not isinstance(scalar, (int, float)) or not scalar > 0:
        raise UnsupportedModel(f"{source}: query_pre_attn_scalar is {scalar!r}; expected a number above 0")
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if values[key] is not None and type(values[key]) not in (int, float):
            raise UnsupportedModel(f"{source}: {key} is {values[key]!r}; expected a number, or null")
    return dataclasses.replace(
        read, norm="rms_plus_one", post_norms=True, qkv_bias=biased, attn_out_bias=biased,
        embed_scale=read.d_model**0.5, attn_scale=None if scalar == read.d_head else scalar**-0.5,
        attn_soft_cap=values["attn_logit_softcapping"], logit_soft_cap=values["final_logit_softcapping"],
        windows=_windows(
            values, values["sliding_window"], [i % 2 == 0 for i in range(_n(values))], source, "gemma2", free=True
        ),
    )  # fmt: skip


def _n(values: dict[str, Any]) -> int:
    return values["num_hidden_layers"]


def _windows(
    values: dict[str, Any], window: Any, slides: list[bool], source: str, model_type: str, *, free: bool = False
) -> Windows:
    """Per layer, how far back a query sees: `window` tokens where it `slides`, or (free) as layer_types says."""
    n_layers = len(slides)
    expected = ["sliding_attention" if one and window is not None else "full_attention" for one in slides]
    kinds = values.get("layer_types") or expected
    if not isinstance(kinds, list):
        raise UnsupportedModel(f"{source}: layer_types is {brief(kinds)}; expected a list")
    known = free and window is not None and all(kind in ("full_attention", "sliding_attention") for kind in kinds)
    if len(kinds) != n_layers or not (known or kinds == expected):
        raise UnsupportedModel(
            f"{source}: layer_types = {brief(kinds)} does not fit {model_type} of {n_layers} layers "
            f"with sliding window {window}"
        )
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise UnsupportedModel(f"{source}: sliding_window is {window!r}; expected a number of tokens, or null")
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else None


def _write(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.d_vocab,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.d_head,
        "hidden_act": WRITTEN_ACTIVATIONS[config.activation],
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        **write_rotary(config),
    }


def _write_llama(config: GPTConfig) -> dict[str, Any]:
    return _write(config) | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def _write_mistral(config: GPTConfig) -> dict[str, Any]:
    return _write(config) | {"sliding_window": _width(config)}


def _write_qwen2(config: GPTConfig) -> dict[str, Any]:
    return _write(config) | {
        "use_sliding_window": _width(config) is not None,
        "sliding_window": _width(config),
        "max_window_layers": config.n_layers,
        "layer_types": _layer_types(config),
    }


def _write_qwen3(config: GPTConfig) -> dict[str, Any]:
    return _write_qwen2(config) | {"attention_bias": config.qkv_bias}


def _write_gemma2(config: GPTConfig) -> dict[str, Any]:
    values = _write(config)
    name = values.pop("hidden_act")
    return values | {
        "hidden_activation": "gelu_pytorch_tanh" if config.activation == "gelu_tanh" else name,
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": round(config.scale_of_layer(0) ** -2),
        "attn_logit_softcapping": config.attn_soft_cap,
        "final_logit_softcapping": config.logit_soft_cap,
        "sliding_window": _width(config),
        "layer_types": _layer_types(config),
    }


def _width(config: GPTConfig) -> int | None:
    return next((width for width in config.windows or () if width is not None), None)


def _layer_types(config: GPTConfig) -> list[str]:
    windows = [config.window_of_layer(layer) for layer in range(config.n_layers)]
    return ["full_attention" if width is None else "sliding_attention" for width in windows]


def _layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"layers.{layer}", f"blocks.{layer}"
    yield from norm(f"{theirs}.input_layernorm", f"{ours}.ln1", bias=False)
    yield from norm(f"{theirs}.post_attention_layernorm", f"{ours}.ln2", bias=False)
    yield from _projections(config, theirs, ours)


def _qwen3_layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    yield from _layer(config, layer)
    for part in ("q_norm", "k_norm"):
        yield from norm(f"layers.{layer}.self_attn.{part}", f"blocks.{layer}.attn.{part}", bias=False)


def _gemma2_layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"layers.{layer}", f"blocks.{layer}"
    for name, own in (
        ("input", "ln1"), ("post_attention", "ln1_post"), ("pre_feedforward", "ln2"), ("post_feedforward", "ln2_post")
    ):  # fmt: skip
        yield from norm(f"{theirs}.{name}_layernorm", f"{ours}.{own}", bias=False)
    yield from _projections(config, theirs, ours)


def _projections(config: GPTConfig, theirs: str, ours: str) -> Iterator[Stored]:
    for part in "QKV":
        yield from linear(f"{theirs}.self_attn.{part.lower()}_proj", f"{ours}.attn", part, bias=config.qkv_bias)
    yield from linear(f"{theirs}.self_attn.o_proj", f"{ours}.attn", "O", bias=config.attn_out_bias)
    for part, name in (("gate", "gate_proj"), ("in", "up_proj"), ("out", "down_proj")):
        yield from linear(f"{theirs}.mlp.{name}", f"{ours}.mlp", part, bias=config.mlp_bias)


_NAMES: dict[str, Any] = {"prefix": "model.", "embedding": "embed_tokens", "final_norm": "norm"}
LLAMA = Family(
    "llama",
    ("LlamaForCausalLM", "LlamaModel"),
    _SIZES,
    {
        **_DEFAULTS,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    _read_llama,
    _write_llama,
    _layer,
    **_NAMES,
    fixed={"sliding_window": None},
)
MISTRAL = Family(
    "mistral",
    ("MistralForCausalLM", "MistralModel"),
    _SIZES,
    {**_DEFAULTS, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    _read_mistral,
    _write_mistral,
    _layer,
    **_NAMES,
    fixed={"attention_bias": False, "mlp_bias": False},
)
_QWEN_DEFAULTS = {
    **_DEFAULTS,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
QWEN2 = Family(
    "qwen2",
    ("Qwen2ForCausalLM", "Qwen2Model"),
    _SIZES,
    _QWEN_DEFAULTS,
    _read_qwen2,
    _write_qwen2,
    _layer,
    **_NAMES,
    fixed={"mlp_bias": False},
)
QWEN3 = Family(
    "qwen3",
    ("Qwen3ForCausalLM", "Qwen3Model"),
    _SIZES,
    {**_QWEN_DEFAULTS, "head_dim": 128, "attention_bias": False},
    _read_qwen3,
    _write_qwen3,
    _qwen3_layer,
    **_NAMES,
    fixed={"mlp_bias": False},
)
GEMMA2 = Family(
    "gemma2",
    ("Gemma2ForCausalLM", "Gemma2Model"),
    _SIZES,
    {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    _read_gemma2,
    _write_gemma2,
    _gemma2_layer,
    **_NAMES,
    fixed={"mlp_bias": False, "use_bidirectional_attention": None},
)
