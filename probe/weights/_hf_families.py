"""The families of Hugging Face models that this GPT computes, and which of them a model belongs to."""

from collections.abc import Mapping
from typing import Any

from probe.arguments import brief
from probe.config import GPTConfig
from probe.errors import UnsupportedModel
from probe.weights._hf_family import Family
from probe.weights._hf_gpt2 import GPT2, GPT_NEO
from probe.weights._hf_llama import GEMMA2, LLAMA, MISTRAL, QWEN2, QWEN3
from probe.weights._hf_neox import GPT_NEOX, PHI

FAMILIES = (GPT2, GPT_NEO, GPT_NEOX, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, PHI)


def find_family(values: Mapping[str, Any], *, source: str) -> Family:
    """The family that `model_type` and `architectures` of a config.json name; they must agree.

    Raises:
        UnsupportedModel: another one, or none; the message names those there are.
    """
    model_type, architectures = values.get("model_type"), values.get("architectures") or []
    if not isinstance(architectures, (list, tuple)):
        raise UnsupportedModel(f"{source}: architectures is {brief(architectures)}; expected a list of names")
    for family in FAMILIES:
        names = {name.lower() for name in family.architectures}
        named = [str(name).lower() in names for name in architectures]
        if (model_type == family.model_type and all(named)) or (model_type is None and named and all(named)):
            return family
    came = ", ".join(map(str, architectures)) or "no architecture"
    supported = ", ".join(f"{family.architectures[0]} ({family.model_type})" for family in FAMILIES)
    raise UnsupportedModel(f"{source}: {came} (model_type {model_type!r}) is not supported; supported: {supported}")


def nearest_family(config: GPTConfig) -> Family:
    """The family to save a model as, if any is right."""
    if config.positions == "learned":
        return GPT_NEO if config.attn_scale == 1.0 and not config.qkv_bias else GPT2
    if config.norm == "rms_plus_one" or config.post_norms:
        return GEMMA2
    if config.shared_norm or (config.unembed_bias and config.parallel):
        return PHI
    if config.parallel or (config.norm == "layer" and not config.gated_mlp):
        return GPT_NEOX
    if config.qk_norm:
        return QWEN3
    if config.qkv_bias and not config.attn_out_bias:
        return QWEN2
    windowed = config.windows is not None and any(config.windows)
    return MISTRAL if windowed or config.d_model % config.n_heads else LLAMA
