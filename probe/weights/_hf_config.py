"""A Hugging Face config.json <-> GPTConfig, for the families in `_hf_families.py`.

Three kinds of key. Those in a family's `required` and `defaults` are read. Those in `neutral` change what other models
compute, so any value but a neutral one is an error. All others are ignored, as transformers ignores them for these
families: dropout, token ids, dtype, cache and version keys, and whatever tools have written there besides.
"""

from collections.abc import Collection, Mapping
from typing import Any

from probe.arguments import brief
from probe.config import MOST_LAYERS, GPTConfig
from probe.errors import UnsupportedModel
from probe.weights._hf_families import find_family, nearest_family
from probe.weights._hf_family import WRITTEN_ACTIVATIONS, Family
from probe.weights._hf_rotary import write_rotary

USUAL: dict[str, Collection[Any]] = {
    "norm": ("layer", "rms", "rms_plus_one"),
    "activation": WRITTEN_ACTIVATIONS,
    "mlp_norm": (False,),
    "d_vocab_out": (None,),
}
"""Fields of which some values are those of no family, with those that are."""
NUMBERS = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps")


def read_config(values: Mapping[str, Any], *, source: str) -> tuple[GPTConfig, Family]:
    """The config of a model and its family, from what config.json holds. `source` is named in errors.

    Raises:
        UnsupportedModel: another architecture; a required key that is missing; a key that changes the computation in
            a way that this GPT does not follow.
        UnknownName, BadShape, OutOfRange: values that GPTConfig does not take.
    """
    family = find_family(values, source=source)
    _check_neutral(values, family, source)
    return family.read(_with_defaults(values, family, source), source), family


def _check_neutral(values: Mapping[str, Any], family: Family, source: str) -> None:
    wrong = [
        f"{key} = {brief(values[key])}"
        for key, neutral in family.neutral.items()
        if key in values and values[key] and values[key] != neutral
    ]
    if wrong:
        raise UnsupportedModel(
            f"{source}: this GPT does not compute {', '.join(wrong)}; if the key does not matter for these weights, "
            "remove it from config.json"
        )


def _with_defaults(values: Mapping[str, Any], family: Family, source: str) -> dict[str, Any]:
    known = {ours: values[theirs] for ours, theirs in family.spellings.items() if theirs in values} | dict(values)
    missing = [key for key in family.required if known.get(key) is None]
    if missing:
        raise UnsupportedModel(f"{source}: config.json lacks {', '.join(missing)}")
    known = {**family.defaults, **known}
    wrong = [key for key in family.required if type(known[key]) is not int or known[key] < 1]
    wrong += [key for key in ("num_hidden_layers",) if key in known and not wrong and known[key] > MOST_LAYERS]
    wrong += [key for key in NUMBERS if type(known.get(key, 0)) not in (int, float)]
    if wrong:
        raise UnsupportedModel(f"{source}: {wrong[0]} is {brief(known[wrong[0]])}; expected a possible number")
    return known


def write_config(config: GPTConfig) -> tuple[dict[str, Any], Family]:
    """What config.json says about this model, and in whose words.

    Old and new spellings are both written where they differ, so that old and new versions of transformers read them.

    Raises:
        UnsupportedModel: no family of Hugging Face computes this; the message names what.
    """
    strange = [name for name, usual in USUAL.items() if getattr(config, name) not in usual]
    if config.d_mlp == 0:
        strange.append("d_mlp")
    if strange:
        named = ", ".join(f"{name} = {brief(getattr(config, name))}" for name in strange)
        raise UnsupportedModel(f"cannot save in Hugging Face's layout: no family has {named}")
    family = nearest_family(config)
    values = {"architectures": [family.architectures[0]], "model_type": family.model_type, **family.write(config)}
    back, _ = read_config(values, source=f"{family.model_type} config.json")
    wanted, lost = _comparable(config), _comparable(back)
    different = [f"{key} = {brief(wanted[key])}" for key in wanted if wanted[key] != lost[key]]
    if different:
        raise UnsupportedModel(
            f"cannot save in Hugging Face's layout: {family.model_type}, the nearest family, "
            f"has no {', no '.join(different)}"
        )
    return values, family


def _comparable(config: GPTConfig) -> dict[str, Any]:
    """The fields of a config, without the differences that compute the same."""
    values = {**config.to_dict(), "rotary_dim": config.turned}
    if not any(config.windows or ()):
        values["windows"] = None
    if config.positions == "learned":
        del values["rotary_theta"]
    if config.attn_scale == config.d_head**-0.5:
        values["attn_scale"] = None
    if config.rotary_scaling is not None:
        values["rotary_scaling"] = write_rotary(config)["rope_scaling"]
    return values
