"""GPT-2 in Hugging Face's words. Weights are (in, out), as ours; c_attn holds queries, keys and values side by side."""

from collections.abc import Iterator
from typing import Any

from probe.config import GPTConfig
from probe.weights._hf_family import WRITTEN_ACTIVATIONS, Family, Stored, activation, head_size, norm


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
