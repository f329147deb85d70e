"""GPT-NeoX (Pythia) and Phi (1, 1.5, 2) in Hugging Face's words.

Weights are (out, in). GPT-NeoX's query_key_value holds the query, key and value of the first head, then those of the
next. Phi's attention and MLP read one norm, and its unembedding has a bias.
"""

from collections.abc import Iterator
from typing import Any

from probe.config import GPTConfig
from probe.weights._hf_family import WRITTEN_ACTIVATIONS, Family, Stored, activation, head_size, linear, norm
from probe.weights._hf_rotary import read_rotary, write_rotary

_SHARE, _PHI_SHARE = 0.25, 0.5
"""Share of each head's dimensions that turn, where nothing is said."""


def _read(values: dict[str, Any], source: str) -> GPTConfig:
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    d_head, biased = head_size(d_model, n_heads, source), bool(values["attention_bias"])
    share = _SHARE if values["rotary_pct"] is None else values["rotary_pct"]
    return GPTConfig(
        n_layers=values["num_hidden_layers"],
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=values["intermediate_size"],
        d_vocab=values["vocab_size"],
        norm_eps=values["layer_norm_eps"],
        activation=activation(values, "hidden_act", source),
        qkv_bias=biased,
        attn_out_bias=biased,
        parallel=bool(values["use_parallel_residual"]),
        tied_embeddings=bool(values["tie_word_embeddings"]),
        **read_rotary(values, d_head, source=source, share=share, theta_key="rotary_emb_base"),
    )


def _write(config: GPTConfig) -> dict[str, Any]:
    rotary = write_rotary(config, partial=True)
    return {
        "vocab_size": config.d_vocab,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "hidden_act": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias,
        "use_parallel_residual": config.parallel,
        "tie_word_embeddings": config.tied_embeddings,
        "rotary_emb_base": config.rotary_theta,
        "rotary_pct": rotary.pop("partial_rotary_factor"),
        **rotary,
    }


def _layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"layers.{layer}", f"blocks.{layer}"
    yield from norm(f"{theirs}.input_layernorm", f"{ours}.ln1", bias=True)
    yield from norm(f"{theirs}.post_attention_layernorm", f"{ours}.ln2", bias=True)
    for kind, letter in (("weight", "W"), ("bias", "b"))[: 1 + config.qkv_bias]:
        parts = tuple(f"{ours}.attn.{letter}_{part}" for part in "QKV")
        whole = f"{theirs}.attention.query_key_value.{kind}"
        yield Stored(whole, parts, transposed=kind == "weight", groups=config.n_heads)
    yield from linear(f"{theirs}.attention.dense", f"{ours}.attn", "O", bias=config.attn_out_bias)
    yield from linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.mlp", "in", bias=True)
    yield from linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.mlp", "out", bias=True)


GPT_NEOX = Family(
    "gpt_neox",
    ("GPTNeoXForCausalLM", "GPTNeoXModel"),
    ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    {
        "max_position_embeddings": 2048,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "attention_bias": True,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "rotary_pct": None,
        "rotary_emb_base": None,
    },
    _read,
    _write,
    _layer,
    prefix="gpt_neox.",
    embedding="embed_in",
    final_norm="final_layer_norm",
    unembedding="embed_out",
    renamed={"lm_head": "embed_out"},
)


def _read_phi(values: dict[str, Any], source: str) -> GPTConfig:
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    d_head = head_size(d_model, n_heads, source)
    share = _PHI_SHARE if values["partial_rotary_factor"] is None else values["partial_rotary_factor"]
    return GPTConfig(
        n_layers=values["num_hidden_layers"],
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=values["intermediate_size"],
        d_vocab=values["vocab_size"],
        n_kv_heads=values["num_key_value_heads"],
        norm_eps=values["layer_norm_eps"],
        activation=activation(values, "hidden_act", source),
        parallel=True,
        shared_norm=True,
        tied_embeddings=bool(values["tie_word_embeddings"]),
        unembed_bias=True,
        **read_rotary(values, d_head, source=source, share=share),
    )


def _write_phi(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.d_vocab,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_act": WRITTEN_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        **write_rotary(config, partial=True),
    }


def _phi_layer(config: GPTConfig, layer: int) -> Iterator[Stored]:
    theirs, ours = f"layers.{layer}", f"blocks.{layer}"
    yield from norm(f"{theirs}.input_layernorm", f"{ours}.ln1", bias=True)
    for part in "QKV":
        yield from linear(f"{theirs}.self_attn.{part.lower()}_proj", f"{ours}.attn", part, bias=True)
    yield from linear(f"{theirs}.self_attn.dense", f"{ours}.attn", "O", bias=True)
    yield from linear(f"{theirs}.mlp.fc1", f"{ours}.mlp", "in", bias=True)
    yield from linear(f"{theirs}.mlp.fc2", f"{ours}.mlp", "out", bias=True)


PHI = Family(
    "phi",
    ("PhiForCausalLM", "PhiModel"),
    ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    {
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "partial_rotary_factor": None,
    },
    _read_phi,
    _write_phi,
    _phi_layer,
    prefix="model.",
    embedding="embed_tokens",
    final_norm="final_layernorm",
)
