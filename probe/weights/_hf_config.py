"""A Hugging Face config.json <-> GPTConfig, for the families gpt2, llama, mistral and qwen2.

Three kinds of key. Those in a family's `required` and `defaults` are read. Those in `NEUTRAL` change what other models
compute, so any value but a neutral one is an error. All others are ignored, as transformers ignores them for these
families: dropout, token ids, dtype, cache and version keys, and whatever tools have written there besides.
"""

from collections.abc import Mapping
from typing import Any

from probe.config import MOST_LAYERS, GPTConfig
from probe.errors import UnsupportedModel
from probe.weights._hf_families import (
    ACTIVATION_NAMES,
    FAMILIES,
    GPT2,
    GPT2_SPELLINGS,
    LLAMA,
    MISTRAL,
    NEUTRAL,
    QWEN2,
    WRITTEN_ACTIVATIONS,
    Family,
)
from probe.weights._hf_rotary import read_rotary, write_rotary


def read_config(values: Mapping[str, Any], *, source: str) -> tuple[GPTConfig, Family]:
    """The config of a model and its family, from what config.json holds. `source` is named in errors.

    Raises:
        UnsupportedModel: another architecture; a required key that is missing; a key that changes the computation in
            a way that this GPT does not follow.
        UnknownName, BadShape, OutOfRange: values that GPTConfig does not take.
    """
    family = find_family(values, source=source)
    _check_neutral(values, family, source)
    known = _with_defaults(values, family, source)
    config = (_read_gpt2 if family is GPT2 else _read_llama_like)(known, family, source)
    return config, family


def find_family(values: Mapping[str, Any], *, source: str) -> Family:
    """The family that `model_type` and `architectures` name; they must agree."""
    model_type, architectures = values.get("model_type"), values.get("architectures") or []
    if not isinstance(architectures, (list, tuple)):
        raise UnsupportedModel(f"{source}: architectures is {_brief(architectures)}; expected a list of names")
    for family in FAMILIES:
        names = {name.lower() for name in family.architectures}
        named = [str(name).lower() in names for name in architectures]
        if (model_type == family.model_type and all(named)) or (model_type is None and named and all(named)):
            return family
    came = ", ".join(map(str, architectures)) or "no architecture"
    supported = ", ".join(f"{family.architectures[0]} ({family.model_type})" for family in FAMILIES)
    raise UnsupportedModel(f"{source}: {came} (model_type {model_type!r}) is not supported; supported: {supported}")


def _check_neutral(values: Mapping[str, Any], family: Family, source: str) -> None:
    wrong = [
        f"{key} = {_brief(values[key])}"
        for key, neutral in {**NEUTRAL, **family.fixed}.items()
        if key in values and values[key] and values[key] != neutral
    ]
    if wrong:
        raise UnsupportedModel(
            f"{source}: this GPT does not compute {', '.join(wrong)}; if the key does not matter for these weights, "
            "remove it from config.json"
        )


def _with_defaults(values: Mapping[str, Any], family: Family, source: str) -> dict[str, Any]:
    known = dict(values)
    if family is GPT2:
        known = {ours: values[theirs] for ours, theirs in GPT2_SPELLINGS.items() if theirs in values} | known
    missing = [key for key in family.required if known.get(key) is None]
    if missing:
        raise UnsupportedModel(f"{source}: config.json lacks {', '.join(missing)}")
    known = {**family.defaults, **known}
    wrong = [key for key in family.required if type(known[key]) is not int or known[key] < 1]
    wrong += [key for key in ("num_hidden_layers",) if key in known and not wrong and known[key] > MOST_LAYERS]
    wrong += [key for key in ("layer_norm_epsilon", "rms_norm_eps") if type(known.get(key, 0)) not in (int, float)]
    if wrong:
        raise UnsupportedModel(f"{source}: {wrong[0]} is {_brief(known[wrong[0]])}; expected a possible number")
    return known


def _read_gpt2(values: dict[str, Any], family: Family, source: str) -> GPTConfig:
    d_model, n_heads = values["n_embd"], values["n_head"]
    return GPTConfig(
        n_layers=values["n_layer"],
        d_model=d_model,
        n_heads=n_heads,
        d_head=_head_size(d_model, n_heads, source),
        d_mlp=4 * d_model if values["n_inner"] is None else values["n_inner"],
        d_vocab=values["vocab_size"],
        n_ctx=values["n_positions"],
        norm_eps=values["layer_norm_epsilon"],
        activation=_activation(values, "activation_function", source),
        tied_embeddings=bool(values["tie_word_embeddings"]),
        attn_scale=None if values["scale_attn_weights"] else 1.0,
        attn_scale_by_layer=bool(values["scale_attn_by_inverse_layer_idx"]),
    )


def _read_llama_like(values: dict[str, Any], family: Family, source: str) -> GPTConfig:
    d_model, n_heads = values["hidden_size"], values["num_attention_heads"]
    theta, scaling, n_ctx = read_rotary(values, source=source)
    return GPTConfig(
        n_layers=values["num_hidden_layers"],
        d_model=d_model,
        n_heads=n_heads,
        d_head=_head_size(d_model, n_heads, source) if values["head_dim"] is None else values["head_dim"],
        d_mlp=values["intermediate_size"],
        d_vocab=values["vocab_size"],
        n_ctx=n_ctx,
        n_kv_heads=values["num_key_value_heads"],
        norm="rms",
        norm_eps=values["rms_norm_eps"],
        positions="rotary",
        rotary_theta=theta,
        rotary_scaling=scaling,
        activation=_activation(values, "hidden_act", source),
        gated_mlp=True,
        qkv_bias=True if family is QWEN2 else bool(values.get("attention_bias")),
        attn_out_bias=family is LLAMA and bool(values["attention_bias"]),
        mlp_bias=bool(values.get("mlp_bias")),
        tied_embeddings=bool(values["tie_word_embeddings"]),
        windows=_windows(values, family, source),
    )


def _head_size(d_model: int, n_heads: int, source: str) -> int:
    if d_model % n_heads:
        raise UnsupportedModel(f"{source}: hidden size {d_model} does not divide into {n_heads} heads")
    return d_model // n_heads


def _activation(values: Mapping[str, Any], key: str, source: str) -> Any:
    name = values[key]
    if not isinstance(name, str) or name not in ACTIVATION_NAMES:
        known = ", ".join(ACTIVATION_NAMES)
        raise UnsupportedModel(f"{source}: {key} = {name!r} is not supported; supported: {known}")
    return ACTIVATION_NAMES[name]


def _windows(values: dict[str, Any], family: Family, source: str) -> tuple[int | None, ...] | None:
    """Per layer, how far back a query sees. Mistral slides in all layers or none; Qwen 2 layer by layer."""
    n_layers, window = values["num_hidden_layers"], values.get("sliding_window")
    if family is QWEN2 and not values["use_sliding_window"]:
        window = None
    first = values["max_window_layers"] if family is QWEN2 else 0
    if not isinstance(first, int):
        raise UnsupportedModel(f"{source}: max_window_layers is {_brief(first)}; expected a number of layers")
    expected = ["full_attention" if window is None or i < first else "sliding_attention" for i in range(n_layers)]
    kinds = values.get("layer_types") or expected
    if not isinstance(kinds, list):
        raise UnsupportedModel(f"{source}: layer_types is {_brief(kinds)}; expected a list")
    free = (
        family is QWEN2
        and window is not None
        and all(kind in ("full_attention", "sliding_attention") for kind in kinds)
    )
    if len(kinds) != n_layers or not (free or kinds == expected):
        raise UnsupportedModel(
            f"{source}: layer_types = {_brief(kinds)} does not fit {family.model_type} of {n_layers} layers "
            f"with sliding window {window}"
        )
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise UnsupportedModel(f"{source}: sliding_window is {window!r}; expected a number of tokens, or null")
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else None


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def write_config(config: GPTConfig) -> tuple[dict[str, Any], Family]:
    """What config.json says about this model, and in whose words.

    Old and new spellings are both written where they differ, so that old and new versions of transformers read them.

    Raises:
        UnsupportedModel: no family of Hugging Face computes this; the message names what.
    """
    family = _family_of(config)
    values = (_write_gpt2 if family is GPT2 else _write_llama_like)(config, family)
    values = {"architectures": [family.architectures[0]], "model_type": family.model_type, **values}
    back, _ = read_config(values, source=f"{family.model_type} config.json")
    wanted, lost = _comparable(config), _comparable(back)
    different = [f"{key} = {_brief(wanted[key])}" for key in wanted if wanted[key] != lost[key]]
    if different:
        raise UnsupportedModel(
            f"cannot save in Hugging Face's layout: {family.model_type}, the nearest family, "
            f"has no {', no '.join(different)}"
        )
    return values, family


def _family_of(config: GPTConfig) -> Family:
    """The family nearest to this config; `write_config` then checks that it is exact."""
    if config.positions == "learned":
        return GPT2
    if config.qkv_bias and not config.attn_out_bias:
        return QWEN2
    windowed = config.windows is not None and any(config.windows)
    return MISTRAL if windowed or config.d_model % config.n_heads else LLAMA


def _comparable(config: GPTConfig) -> dict[str, Any]:
    """The fields of a config, without the differences that compute the same."""
    values = config.to_dict()
    if not any(config.windows or ()):
        values["windows"] = None
    if config.positions == "learned":
        del values["rotary_theta"]
    if config.attn_scale == config.d_head**-0.5:
        values["attn_scale"] = None
    if config.rotary_scaling is not None:
        values["rotary_scaling"] = write_rotary(config)["rope_scaling"]
    return values


def _write_gpt2(config: GPTConfig, family: Family) -> dict[str, Any]:
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


def _write_llama_like(config: GPTConfig, family: Family) -> dict[str, Any]:
    values = {
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
    window = next((width for width in config.windows or () if width is not None), None)
    if family is LLAMA:
        return values | {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    if family is MISTRAL:
        return values | {"sliding_window": window}
    kinds = ["full_attention" if width is None else "sliding_attention" for width in config.windows or ()]
    return values | {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": config.n_layers,
        "layer_types": kinds or ["full_attention"] * config.n_layers,
    }
