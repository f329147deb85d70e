"""What a HookedTransformerConfig says -> GPTConfig; and which files are a HookedTransformer's.

Source: HookedTransformerConfig of TransformerLens 2.16 and 3.9, and the components of 2.16, which read these settings.
Settings that say how to train, to start, to place or to hook a model change nothing that is computed, and are not read.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from probe.arguments import brief
from probe.config import MOST_LAYERS, Activation, GPTConfig, RotaryScaling
from probe.errors import UnsupportedModel
from probe.json_files import read_object
from probe.weights._tensors import CONFIG

ENDINGS = (".pt", ".pth")
"""Endings of files that torch saved."""
REQUIRED = ("n_layers", "d_model", "d_head")
"""Settings that every such config has, and no config.json of Hugging Face."""
NORMS = {None: "none", "LN": "layer", "LNPre": "layer", "RMS": "rms", "RMSPre": "rms"}
"""With "Pre" the gains stand in the weights that follow, and gain 1 and bias 0 are left."""
ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "solu": "solu",
    "solu_ln": "solu",
}
NEUTRAL: dict[str, Any] = {
    "attention_dir": "causal",
    "clip_qkv": None,
    "experts_per_token": None,
    "final_rms": False,
    "load_in_4bit": False,
    "num_experts": None,
    "post_embedding_ln": False,
    "relative_attention_max_distance": None,
    "rotary_adjacent_pairs": False,
    "rotary_base_local": None,
    "rotary_scaling_factor": 1.0,
    "shortformer_pos": False,
    "use_attention_sinks": False,
    "use_dynamic_ntk_rope": False,
    "use_logn_attn": False,
    "use_yarn_rope": False,
}
"""Settings that change what is computed in ways that are not followed, with the value of each that does not."""
PLAIN = (type(None), bool, int, float, str)
"""Types of settings that are compared with others."""


def is_hooked_config(values: object) -> bool:
    """Whether a mapping says what a HookedTransformerConfig says."""
    return isinstance(values, Mapping) and all(name in values for name in REQUIRED) and "model_type" not in values


def is_hooked_folder(folder: Path) -> bool:
    """Whether a folder holds one: its config.json says so, or it has none and a checkpoint that may hold its own."""
    path = folder / CONFIG
    if path.is_file():
        return is_hooked_config(read_object(path))
    return find_checkpoint(one.name for one in folder.iterdir()) is not None


def find_checkpoint(names: Iterable[str]) -> str | None:
    """The file that is meant among these names: the only one, or the only one whose name ends in "final"; else None."""
    files = [name for name in names if name.endswith(ENDINGS)]
    final = [name for name in files if Path(name).stem.endswith("final")]
    chosen = final if len(final) == 1 else files
    return chosen[0] if len(chosen) == 1 else None


def read_hooked_config(values: Mapping[str, Any], *, d_vocab: int | None, has_b_U: bool, source: str) -> GPTConfig:
    """The config; `source` is named in errors. `d_vocab`: rows of W_E, for a config that left it to a tokenizer.

    Raises:
        UnsupportedModel: a setting that is missing, is no possible value, or changes the computation in a way that
            this GPT does not follow.
        UnknownName, BadShape, OutOfRange: values that GPTConfig does not take.
    """
    _check(values, source)
    n_layers, d_model, d_head = (_whole(values, name, source) for name in REQUIRED)
    if n_layers > MOST_LAYERS:
        raise UnsupportedModel(f"{source}: n_layers is {n_layers:,}; expected 1 to {MOST_LAYERS:,}")
    n_heads = _whole(values, "n_heads", source, default=d_model // d_head)
    attention_alone = _flag(values, "attn_only", source)
    act_fn = values.get("act_fn")
    act_fn = act_fn.lower() if isinstance(act_fn, str) else ""
    if act_fn not in ACTIVATIONS and not attention_alone:
        known = ", ".join(ACTIVATIONS)
        raise UnsupportedModel(f"{source}: act_fn = {brief(values.get('act_fn'))} is not supported; supported: {known}")
    d_vocab = _whole(values, "d_vocab", source, default=d_vocab or 0)
    norm = _norm(values, source)
    return GPTConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=0 if attention_alone else _whole(values, "d_mlp", source, default=4 * d_model),
        d_vocab=d_vocab,
        d_vocab_out=_whole(values, "d_vocab_out", source, default=d_vocab),
        n_ctx=_whole(values, "n_ctx", source),
        n_kv_heads=_whole(values, "n_key_value_heads", source, default=n_heads),
        norm=norm,
        norm_eps=_number(values, "eps", source, default=1e-5),
        activation="gelu" if attention_alone else ACTIVATIONS[act_fn],
        mlp_norm=act_fn.endswith("_ln") and not attention_alone,
        gated_mlp=_flag(values, "gated_mlp", source) and not attention_alone,
        parallel=_flag(values, "parallel_attn_mlp", source) and not attention_alone,
        qk_norm=_flag(values, "use_qk_norm", source),
        post_norms=_flag(values, "use_normalization_before_and_after", source) and norm == "rms",
        tied_embeddings=False,
        unembed_bias=has_b_U,
        logit_soft_cap=_above_zero(values, "output_logits_soft_cap", source),
        attn_soft_cap=_above_zero(values, "attn_scores_soft_cap", source),
        attn_scale=_scale(values, d_head, source),
        attn_scale_by_layer=_flag(values, "scale_attn_by_inverse_layer_idx", source),
        windows=_windows(values, n_layers, source),
        **_positions(values, d_head, source),
    )


def _check(values: Mapping[str, Any], source: str) -> None:
    wrong = [f"{name} = {brief(values[name])}" for name in NEUTRAL if _is_other(values, name, source)]
    if wrong:
        raise UnsupportedModel(f"{source}: this GPT does not compute {', '.join(wrong)}")
    missing = [name for name in (*REQUIRED, "n_ctx") if values.get(name) is None]
    if missing:
        raise UnsupportedModel(f"{source}: the config lacks {', '.join(missing)}")


def _is_other(values: Mapping[str, Any], name: str, source: str) -> bool:
    value = values.get(name)
    if name == "final_rms" and _norm(values, source) == "rms":
        return False
    return type(value) not in PLAIN or (bool(value) and value != NEUTRAL[name])


def gains_are_folded(values: Mapping[str, Any]) -> bool:
    """Whether norms have no gains and biases of their own."""
    return _norm_kind(values) in (None, "LNPre", "RMSPre")


def _norm_kind(values: Mapping[str, Any]) -> Any:
    """The oldest configs call it `normalization`."""
    return values.get("normalization_type", values.get("normalization", "LN"))


def _norm(values: Mapping[str, Any], source: str) -> Any:
    kind = _norm_kind(values)
    if type(kind) not in (str, type(None)) or kind not in NORMS:
        known = ", ".join(map(str, NORMS))
        raise UnsupportedModel(f"{source}: normalization_type = {brief(kind)} is not supported; supported: {known}")
    return NORMS[kind]


def _positions(values: Mapping[str, Any], d_head: int, source: str) -> dict[str, Any]:
    kind = values.get("positional_embedding_type", "standard")
    if isinstance(kind, str) and kind == "standard":
        return {"positions": "learned"}
    if not isinstance(kind, str) or kind != "rotary":
        raise UnsupportedModel(
            f"{source}: positional_embedding_type = {brief(kind)} is not supported; supported: standard, rotary"
        )
    scaling = None
    if _flag(values, "use_NTK_by_parts_rope", source):
        scaling = RotaryScaling(
            "llama3",
            factor=_number(values, "NTK_by_parts_factor", source, default=8.0),
            low_freq_factor=_number(values, "NTK_by_parts_low_freq_factor", source, default=1.0),
            high_freq_factor=_number(values, "NTK_by_parts_high_freq_factor", source, default=4.0),
            original_n_ctx=_whole(values, "NTK_original_ctx_len", source, default=8192),
        )
    return {
        "positions": "rotary",
        "rotary_dim": _whole(values, "rotary_dim", source, default=d_head),
        "rotary_theta": _number(values, "rotary_base", source, default=10_000.0),
        "rotary_scaling": scaling,
    }


def _scale(values: Mapping[str, Any], d_head: int, source: str) -> float | None:
    """They divide by it, we multiply."""
    if not _flag(values, "use_attn_scale", source, default=True):
        return 1.0
    divisor = _number(values, "attn_scale", source, default=math.sqrt(d_head))
    return None if math.isclose(divisor, math.sqrt(d_head)) else 1 / divisor


def _windows(values: Mapping[str, Any], n_layers: int, source: str) -> tuple[int | None, ...] | None:
    if not _flag(values, "use_local_attn", source):
        return None
    kinds, window = values.get("attn_types"), _whole(values, "window_size", source)
    if (
        not isinstance(kinds, (list, tuple))
        or not all(isinstance(kind, str) for kind in kinds)
        or (len(kinds) < n_layers or not set(kinds) <= {"global", "local"})
    ):
        raise UnsupportedModel(f"{source}: attn_types is {brief(kinds)}; expected 'global' or 'local' for each layer")
    return tuple(window if kind == "local" else None for kind in kinds[:n_layers])


def _whole(values: Mapping[str, Any], name: str, source: str, *, default: int | None = None) -> int:
    """A size of at least 1. What is not set stands there as None or -1."""
    value = values.get(name)
    if default is not None and (value is None or (type(value) is int and value == -1)):
        return default
    if type(value) is not int or value < 1:
        raise UnsupportedModel(f"{source}: {name} is {brief(value)}; expected a whole number of at least 1")
    return value


def _flag(values: Mapping[str, Any], name: str, source: str, *, default: bool = False) -> bool:
    """A switch. A text such as 'False' would count as true."""
    value = values.get(name)
    if value is None:
        return default
    if type(value) is not bool and not (type(value) is int and value in (0, 1)):
        raise UnsupportedModel(f"{source}: {name} is {brief(value)}; expected True or False")
    return bool(value)


def _number(values: Mapping[str, Any], name: str, source: str, *, default: float) -> float:
    value = values.get(name)
    if value is None or (type(value) in (int, float) and value == -1):
        return default
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UnsupportedModel(f"{source}: {name} is {brief(value)}; expected a number above 0")
    return float(value)


def _above_zero(values: Mapping[str, Any], name: str, source: str) -> float | None:
    """A cap; any value that is not above 0 stands for none."""
    value = values.get(name)
    none = value is None or (type(value) in (int, float) and value <= 0)
    return None if none else _number(values, name, source, default=0.0)
