"""The families of Hugging Face models that this GPT computes: their names, the keys of config.json, the defaults.

Source: the configuration classes of transformers 5 (`models/*/configuration_*.py`), whose defaults a test compares.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """What Hugging Face calls a family, and how it names things."""

    model_type: str
    architectures: tuple[str, ...]
    """The causal language model first; then others whose weights are the same but for the unembedding."""
    prefix: str
    """What tensor names begin with, unless they were saved without it."""
    required: tuple[str, ...]
    """Keys of config.json that say how large the weights are: without them there is nothing to load."""
    defaults: Mapping[str, Any]
    """What transformers takes for a key that is missing."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keys that this family does not compute, with their neutral value."""


_LLAMA_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_LLAMA_DEFAULTS = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "head_dim": None}
GPT2 = Family(
    "gpt2",
    ("GPT2LMHeadModel", "GPT2Model"),
    "transformer.",
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
)
LLAMA = Family(
    "llama",
    ("LlamaForCausalLM", "LlamaModel"),
    "model.",
    _LLAMA_SIZES,
    {
        **_LLAMA_DEFAULTS,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
    {"sliding_window": None},
)
MISTRAL = Family(
    "mistral",
    ("MistralForCausalLM", "MistralModel"),
    "model.",
    _LLAMA_SIZES,
    {**_LLAMA_DEFAULTS, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    {"attention_bias": False, "mlp_bias": False},
)
QWEN2 = Family(
    "qwen2",
    ("Qwen2ForCausalLM", "Qwen2Model"),
    "model.",
    _LLAMA_SIZES,
    {
        **_LLAMA_DEFAULTS,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    },
    {"mlp_bias": False},
)
FAMILIES = (GPT2, LLAMA, MISTRAL, QWEN2)

GPT2_SPELLINGS = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}
"""Second spellings that transformers reads in GPT-2's config.json."""

NEUTRAL: dict[str, Any] = {
    "add_cross_attention": False,
    "alibi": False,
    "attention_multiplier": None,
    "attn_logit_softcapping": None,
    "auto_map": None,
    "clip_qkv": None,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": None,
    "is_encoder_decoder": False,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "no_rope_layers": None,
    "num_experts": 1,
    "num_local_experts": 1,
    "parallel_attn": False,
    "partial_rotary_factor": 1.0,
    "pretraining_tp": 1,
    "pruned_heads": None,
    "qk_layernorm": False,
    "qk_norm": False,
    "quantization_config": None,
    "residual_multiplier": 1.0,
    "rotary_pct": 1.0,
    "use_parallel_residual": False,
    "use_qk_norm": False,
}
"""Keys, of these or of related families, that change the computation; the value of each that does not.

None, False, 0 and empty values are neutral too. `pretraining_tp` changes rounding only, but asks for what no current
code does; `auto_map` brings code of its own, which is never run.
"""

ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Hugging Face's name of an activation -> ours. Several of theirs are one function, written in several ways."""
WRITTEN_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "gelu_quick": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
"""Our name of an activation -> the one to write."""
