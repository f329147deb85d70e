"""Rotary positions as config.json spells them, old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`).

Source: `modeling_rope_utils.py` of transformers 5.
"""

from collections.abc import Mapping
from typing import Any

from probe.arguments import brief
from probe.config import MOST, GPTConfig, RotaryScaling
from probe.errors import UnsupportedModel

DEFAULT_THETA = 10_000.0
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")
_ORIGINAL = "original_max_position_embeddings"
REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""Kinds of scaling, and the keys without which each says nothing."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": (),
    "dynamic": (_ORIGINAL,),
    "yarn": ("factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("factor", _ORIGINAL, "attention_factor"),
    "llama3": (_ORIGINAL,),
}
_OLD_KINDS = {"su": "longrope"}
_BETAS = ("beta_fast", "beta_slow")
"""Where transformers takes its default for 0 as well."""


def read_rotary(
    values: Mapping[str, Any], d_head: int, *, source: str, share: float | None = None, theta_key: str = "rope_theta"
) -> dict[str, Any]:
    """What GPTConfig says about positions and the longest prompt, from the keys of config.json.

    `share` of each head's dimensions turn where the rotary keys do not say otherwise; None: of this family all turn.

    The longest prompt is `max_position_embeddings`, except where that names the context of pretraining:
    always with dynamic scaling, and with yarn and longrope where the original context times the factor is longer.

    Raises:
        UnsupportedModel: an unknown kind or key of scaling, a part of each head in a family that turns
            whole ones, or a key that is missing.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise UnsupportedModel(f"{source}: rope_scaling is {rope!r}; expected a JSON object")
    theta = _number(rope, "rope_theta", source) or _number(values, theta_key, source) or DEFAULT_THETA
    kind = rope.get("rope_type") or rope.get("type") or "default"
    kind = _OLD_KINDS.get(kind, kind) if isinstance(kind, str) else repr(kind)
    turned = _turned(rope, d_head, share, source)
    _check_rope_keys(rope, kind, source)
    n_ctx = values["max_position_embeddings"]
    if not isinstance(n_ctx, int) or isinstance(n_ctx, bool):
        raise UnsupportedModel(f"{source}: max_position_embeddings is {n_ctx!r}; expected a number of tokens")
    found = {"positions": "rotary", "rotary_theta": theta, "rotary_dim": None if turned == d_head else turned}
    if kind == "default":
        return {**found, "n_ctx": n_ctx}
    scaling = _read_scaling(kind, rope, values, n_ctx, turned // 2, source)
    if kind in ("dynamic", "yarn", "longrope"):
        assert scaling.original_n_ctx is not None, "checked by RotaryScaling"
        if scaling.original_n_ctx * scaling.factor > MOST:
            raise UnsupportedModel(f"{source}: rotary scaling by {scaling.factor:g}: no context is that long")
        n_ctx = max(n_ctx, int(scaling.original_n_ctx * scaling.factor))
    return {**found, "rotary_scaling": scaling, "n_ctx": n_ctx}


def _turned(rope: Mapping[str, Any], d_head: Any, share: float | None, source: str) -> int:
    if type(d_head) is not int:  # as config.json has it
        raise UnsupportedModel(f"{source}: the size of a head is {brief(d_head)}; expected a number of dimensions")
    given = rope.get("partial_rotary_factor")
    if share is None and given not in (None, 1, 1.0):
        raise UnsupportedModel(f"{source}: partial_rotary_factor = {given}; in this family whole heads are turned")
    share = 1.0 if share is None else share if given is None else given
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise UnsupportedModel(f"{source}: {share!r} of each head's dimensions turn; expected a share of at most 1")
    return int(d_head * share)


def _check_rope_keys(rope: Mapping[str, Any], kind: str, source: str) -> None:
    if kind not in REQUIRED:
        raise UnsupportedModel(f"{source}: rotary scaling {kind!r} is not supported; supported: {', '.join(REQUIRED)}")
    missing = [key for key in REQUIRED[kind] if rope.get(key) is None]
    if missing:
        raise UnsupportedModel(f"{source}: rotary scaling {kind!r} lacks {', '.join(missing)}")
    allowed = (*_COMMON, *REQUIRED[kind], *OPTIONAL[kind])
    surplus = [key for key in rope if key not in allowed and rope[key] is not None]
    if surplus:
        raise UnsupportedModel(f"{source}: rotary scaling {kind!r} does not know {', '.join(surplus)}")


def _read_scaling(
    kind: Any, rope: Mapping[str, Any], values: Mapping[str, Any], n_positions: int, n_pairs: int, source: str
) -> RotaryScaling:
    original = values.get(_ORIGINAL) or rope.get(_ORIGINAL) or n_positions
    if not isinstance(original, int) or original < 1:
        raise UnsupportedModel(f"{source}: {_ORIGINAL} is {original!r}; expected a number of tokens")
    if kind == "dynamic" and original != n_positions:
        raise UnsupportedModel(
            f"{source}: dynamic rotary scaling starts at max_position_embeddings = {n_positions}, "
            f"but {_ORIGINAL} = {original}"
        )
    factor = _number(rope, "factor", source)
    names = ("low_freq_factor", "high_freq_factor", "attention_factor", "mscale", "mscale_all_dim", *_BETAS)
    given = {name: _number(rope, name, source) for name in names}
    numbers: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    numbers = {name: value for name, value in numbers.items() if value or name not in _BETAS}
    return RotaryScaling(
        kind=kind,
        factor=n_positions / original if factor is None else factor,
        original_n_ctx=None if kind == "linear" else original,
        truncate=bool(rope.get("truncate", True)),
        short_factor=_divisors(rope, "short_factor", n_pairs, source),
        long_factor=_divisors(rope, "long_factor", n_pairs, source),
        **numbers,
    )


def _number(values: Mapping[str, Any], key: str, source: str) -> float | None:
    value = values.get(key)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise UnsupportedModel(f"{source}: {key} is {value!r}; expected a number")


def _divisors(rope: Mapping[str, Any], key: str, n_pairs: int, source: str) -> tuple[float, ...] | None:
    divisors = rope.get(key)
    if divisors is None:
        return None
    numeric = isinstance(divisors, (list, tuple)) and all(isinstance(value, (int, float)) for value in divisors)
    if not numeric or len(divisors) != n_pairs:
        raise UnsupportedModel(f"{source}: {key} must be {n_pairs} numbers, one per pair of dimensions of a head")
    return tuple(float(value) for value in divisors)


def write_rotary(config: GPTConfig, *, partial: bool = False) -> dict[str, Any]:
    """The keys of config.json for rotary positions, in both spellings; `partial`: also the share that turns."""
    share = {"partial_rotary_factor": config.turned / config.d_head} if partial else {}
    scaling = config.rotary_scaling
    scaled = None if scaling is None else _write_scaling(scaling)
    # dynamic scaling knows only the context of pretraining, and has no other place for it
    pretraining = scaling.original_n_ctx if scaling is not None and scaling.kind == "dynamic" else None
    return {
        "max_position_embeddings": pretraining or config.n_ctx,
        "rope_theta": config.rotary_theta,
        "rope_scaling": scaled,
        "rope_parameters": {"rope_type": "default", **(scaled or {}), "rope_theta": config.rotary_theta, **share},
        **share,
    }


def _write_scaling(scaling: RotaryScaling) -> dict[str, Any]:
    fields = {**vars(scaling), _ORIGINAL: scaling.original_n_ctx}
    wanted = [key for key in (*REQUIRED[scaling.kind], *OPTIONAL[scaling.kind]) if fields[key] is not None]
    if scaling.kind == "dynamic":
        wanted.remove(_ORIGINAL)
    plain = {key: list(fields[key]) if isinstance(fields[key], tuple) else fields[key] for key in wanted}
    return {"rope_type": scaling.kind, "type": scaling.kind, **plain}
