"""GPT-2 and GPT-Neo (TinyStories) in Hugging Face's words.

GPT-2's weights are (in, out), as ours; its c_attn holds queries, keys and values side by side. GPT-Neo's are (out, in);
its scores are not scaled, and its local layers see a window.
"""

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


def _read(values: dict[str, Any], source: str) -> GPTConfig:
    d_model, n_heads = values["n_embd"], values["n_head"]
    return GPTConfig(
        n_layers=values["n_layer"],
        d_model=d_model,
        n_heads=n_heads,
        d_head=head_size(d_model, n_heads, source),
        d_mlp=4 * d_model if values["n_inner"] is None else values["n_inner"],
        d_vocab=values["vocab_size"],
        n_ctx=values["n_positions"],
        norm_eps=values["layer_norm_epsilon"],
        activation=activation(values, "activation_function", source),
        tied_embeddings=bool(values["tie_word_embeddings"]),
        attn_scale=None if values["scale_attn_weights"] else 1.0,
        attn_scale_by_layer=bool(values["scale_attn_by_inverse_layer_idx"]),
    )


def _write(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.d_vocab,
        "n_positions": config.n_ctx,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_mlp,
        "activation_function": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attn_scale != 1.0,
        "scale_attn_by_inverse_layer_idx": config.attn_scale_by_layer,
        "tie_word_embeddings": config.tied_embeddings,
    }


def _layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"h.{layer}", f"blocks.{layer}"
    yield from norm(f"{theirs}.ln_1", f"{ours}.ln1", bias=True)
    yield from norm(f"{theirs}.ln_2", f"{ours}.ln2", bias=True)
    for kind, letter in (("weight", "W"), ("bias", "b")):
        yield Stored(f"{theirs}.attn.c_attn.{kind}", tuple(f"{ours}.attn.{letter}_{part}" for part in "QKV"))
        yield Stored(f"{theirs}.attn.c_proj.{kind}", (f"{ours}.attn.{letter}_O",))
        yield Stored(f"{theirs}.mlp.c_fc.{kind}", (f"{ours}.mlp.{letter}_in",))
        yield Stored(f"{theirs}.mlp.c_proj.{kind}", (f"{ours}.mlp.{letter}_out",))


GPT2 = Family(
    "gpt2",
    ("GPT2LMHeadModel", "GPT2Model"),
    ("vocab_size", "n_embd", "n_layer", "n_head"),
    {
        "n_positions": 1024,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
    },
    _read,
    _write,
    _layer,
    prefix="transformer.",
    embedding="wte",
    final_norm="ln_f",
    spellings={
        "n_embd": "hidden_size",
        "n_positions": "max_position_embeddings",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
    },
)


def _read_neo(values: dict[str, Any], source: str) -> GPTConfig:
    d_model, n_heads, n_layers = values["hidden_size"], values["num_heads"], values["num_layers"]
    return GPTConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=head_size(d_model, n_heads, source),
        d_mlp=4 * d_model if values["intermediate_size"] is None else values["intermediate_size"],
        d_vocab=values["vocab_size"],
        n_ctx=values["max_position_embeddings"],
        norm_eps=values["layer_norm_epsilon"],
        activation=activation(values, "activation_function", source),
        qkv_bias=False,
        tied_embeddings=bool(values["tie_word_embeddings"]),
        attn_scale=1.0,
        windows=_neo_windows(values, n_layers, source),
    )


def _neo_windows(values: dict[str, Any], n_layers: int, source: str) -> tuple[int | None, ...] | None:
    """Local layers see a window, global ones everything: [[["global", "local"], 12]] is the two in turn, 12 times."""
    types, window = values["attention_types"], values["window_size"]
    types = [[["global", "local"], 12]] if types is None else types
    try:
        n_named = sum(len(some) * times for some, times in types)  # before so many are written out
        kinds = [kind for some, times in types for _ in range(times) for kind in some] if n_named == n_layers else []
    except (TypeError, ValueError):
        kinds = []
    fits = len(kinds) == n_layers and all(kind in ("global", "local") for kind in kinds)
    if not fits or (values.get("attention_layers") or kinds) != kinds:
        raise UnsupportedModel(
            f"{source}: attention_types = {brief(types)} does not fit: expected pairs such as "
            f"[['global', 'local'], 6] that make {n_layers} layers, and attention_layers the same if it is there"
        )
    if type(window) is not int or window < 1:
        raise UnsupportedModel(f"{source}: window_size is {window!r}; expected a number of tokens")
    windows = tuple(window if kind == "local" else None for kind in kinds)
    return windows if any(windows) else None


def _write_neo(config: GPTConfig) -> dict[str, Any]:
    windows = [config.window_of_layer(layer) for layer in range(config.n_layers)]
    kinds = ["global" if window is None else "local" for window in windows]
    return {
        "vocab_size": config.d_vocab,
        "max_position_embeddings": config.n_ctx,
        "hidden_size": config.d_model,
        "num_layers": config.n_layers,
        "num_heads": config.n_heads,
        "intermediate_size": config.d_mlp,
        "activation_function": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "attention_types": [[kinds, 1]],
        "attention_layers": kinds,
        "window_size": next((window for window in windows if window is not None), 256),
        "tie_word_embeddings": config.tied_embeddings,
    }


def _neo_layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"h.{layer}", f"blocks.{layer}"
    yield from norm(f"{theirs}.ln_1", f"{ours}.ln1", bias=True)
    yield from norm(f"{theirs}.ln_2", f"{ours}.ln2", bias=True)
    for part in "QKV":
        yield from linear(f"{theirs}.attn.attention.{part.lower()}_proj", f"{ours}.attn", part, bias=False)
    yield from linear(f"{theirs}.attn.attention.out_proj", f"{ours}.attn", "O", bias=True)
    yield from linear(f"{theirs}.mlp.c_fc", f"{ours}.mlp", "in", bias=True)
    yield from linear(f"{theirs}.mlp.c_proj", f"{ours}.mlp", "out", bias=True)


GPT_NEO = Family(
    "gpt_neo",
    ("GPTNeoForCausalLM", "GPTNeoModel"),
    ("vocab_size", "hidden_size", "num_layers", "num_heads"),
    {
        "max_position_embeddings": 2048,
        "intermediate_size": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "attention_types": None,
        "window_size": 256,
        "tie_word_embeddings": True,
    },
    _read_neo,
    _write_neo,
    _neo_layer,
    prefix="transformer.",
    embedding="wte",
    final_norm="ln_f",
    spellings={"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"},
)
