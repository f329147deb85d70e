"""What a family of Hugging Face models is, and what reading and writing config.json means for all of them.

Source: the configuration classes of transformers 5 (`models/*/configuration_*.py`), whose defaults a test compares.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from probe.config import GPTConfig
from probe.errors import UnsupportedModel


@dataclass(frozen=True)
class Stored:
    """One tensor of Hugging Face's, and our parameters that it holds."""

    name: str
    ours: tuple[str, ...]
    """More than one stand side by side along the last dim."""
    transposed: bool = False
    groups: int = 1
    """So many times: head by head, where each head's query, key and value follow one another."""


@dataclass(frozen=True)
class Family:
    """What Hugging Face calls a family, and how it names things."""

    model_type: str
    architectures: tuple[str, ...]
    """The causal language model first; then others whose weights are the same but for the unembedding."""
    required: tuple[str, ...]
    """Keys of config.json that say how large the weights are: without them there is nothing to load."""
    defaults: Mapping[str, Any]
    """What transformers takes for a key that is missing."""
    read: Callable[[dict[str, Any], str], GPTConfig]
    """The config, from config.json with the defaults filled in; the text is named in errors."""
    write: Callable[[GPTConfig], dict[str, Any]]
    """The keys of config.json that say so."""
    layer: Callable[[GPTConfig, int], Iterator[Stored]]
    """The tensors of one layer."""
    prefix: str
    """What tensor names begin with, unless they were saved without it. The unembedding stands outside."""
    embedding: str
    final_norm: str
    unembedding: str = "lm_head"
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Modules that a live module names otherwise than files do -> as files do."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keys that this family does not compute, with their neutral value."""
    spellings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Keys for which transformers also reads a second spelling."""

    @property
    def neutral(self) -> dict[str, Any]:
        """Keys that change the computation in ways that are not followed, with the value of each that does not."""
        return {key: value for key, value in NEUTRAL.items() if key not in self.defaults} | dict(self.fixed)


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
"""Keys, of these or of related families, that change the computation; the value of each that does not. A family that
computes one has it among its defaults.

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


def head_size(d_model: int, n_heads: int, source: str) -> int:
    """d_head of a family in which heads share out d_model."""
    if d_model % n_heads:
        raise UnsupportedModel(f"{source}: hidden size {d_model} does not divide into {n_heads} heads")
    return d_model // n_heads


def activation(values: Mapping[str, Any], key: str, source: str) -> Any:
    """Our name of the activation under this key."""
    name = values[key]
    if not isinstance(name, str) or name not in ACTIVATION_NAMES:
        known = ", ".join(ACTIVATION_NAMES)
        raise UnsupportedModel(f"{source}: {key} = {name!r} is not supported; supported: {known}")
    return ACTIVATION_NAMES[name]


def norm(theirs: str, ours: str, *, bias: bool) -> Iterator[Stored]:
    """The tensors of a norm."""
    yield Stored(f"{theirs}.weight", (f"{ours}.w",))
    if bias:
        yield Stored(f"{theirs}.bias", (f"{ours}.b",))


def linear(theirs: str, module: str, part: str, *, bias: bool) -> Iterator[Stored]:
    """The tensors of one projection, which Hugging Face stores as (out, in)."""
    yield Stored(f"{theirs}.weight", (f"{module}.W_{part}",), transposed=True)
    if bias:
        yield Stored(f"{theirs}.bias", (f"{module}.b_{part}",))
