"""The name of every value that a forward pass makes: its spelling, its dims, its shape.

Names are TransformerLens's classical ones ("blocks.3.attn.hook_pattern"). A value inside a block also has a short name
("pattern"), used with a layer. There are no other spellings.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from probe.arguments import checked
from probe.config import GPTConfig
from probe.errors import OutOfRange, UnknownName, as_integer, check_index, unknown_name


class Need(NamedTuple):
    """Something that a model must have to make a value."""

    holds: Callable[[GPTConfig], bool]
    why_not: str
    """What is so where it does not hold."""


@dataclass(frozen=True, eq=False)
class Site:
    """One kind of value: where it stands, its dims, and what it is."""

    short: str
    """Name used with a layer, or alone for values outside the blocks: 'pattern'."""
    suffix: str
    """What follows 'blocks.3.', or the whole name outside the blocks: 'attn.hook_pattern'."""
    dims: tuple[str, ...]
    """Names of the dims, in order."""
    meaning: str
    """One line, in plain words."""
    needs: tuple[Need, ...] = ()
    """What a model must have to make the value."""

    def why_absent(self, config: GPTConfig) -> str | None:
        """Why a model of this config does not make the value; None: it does."""
        return next((need.why_not for need in self.needs if not need.holds(config)), None)

    def exists(self, config: GPTConfig) -> bool:
        """Whether a model of this config makes the value."""
        return self.why_absent(config) is None


_RESID = ("batch", "pos", "d_model")
_SCALE = ("batch", "pos", "one")
_QUERY = ("batch", "pos", "head", "d_head")
_KEY = ("batch", "pos", "kv_head", "d_head")
_QUERY_SCALE = ("batch", "pos", "head", "one")
_KEY_SCALE = ("batch", "pos", "kv_head", "one")
_PAIRS = ("batch", "head", "query_pos", "key_pos")
_NEURONS = ("batch", "pos", "d_mlp")

NO_MLP = "are attention alone, without an MLP"
_ROTARY = (Need(lambda config: config.positions == "rotary", "its positions are learned, not rotary"),)
_LEARNED = (
    Need(
        lambda config: config.positions == "learned", "its positions are rotary, so no position has a vector of its own"
    ),
)
_QK_NORM = (Need(lambda config: config.qk_norm, "it does not normalise queries and keys"),)
_MLP = (Need(lambda config: config.d_mlp > 0, f"its layers {NO_MLP}"),)
_GATED = (Need(lambda config: config.gated_mlp, "its MLP has no gate"),)
_MLP_NORM = (Need(lambda config: config.mlp_norm, "it does not normalise its neurons"),)
_POST_NORMS = (Need(lambda config: config.post_norms, "it does not normalise what attention and MLP write"),)
_MLP_POST_NORM = (
    Need(lambda config: config.post_norms and config.d_mlp > 0, "it does not normalise what an MLP writes"),
)
_MID = (
    *_MLP,
    Need(
        lambda config: not config.parallel,
        "nothing lies between attention and MLP: both read the same stream, resid_pre",
    ),
)

BEFORE_BLOCKS = (
    Site("embed", "hook_embed", _RESID, "each token's own vector, a row of W_E (scaled, where a model does)"),
    Site("pos_embed", "hook_pos_embed", _RESID, "each position's own vector, a row of W_pos", _LEARNED),
)
IN_BLOCK = (
    Site("resid_pre", "hook_resid_pre", _RESID, "residual stream entering the layer"),
    Site("ln1.scale", "ln1.hook_scale", _SCALE, "what the norm before attention divides by"),
    Site("ln1.normalized", "ln1.hook_normalized", _RESID, "residual stream normalised, before the norm's gain"),
    Site("q", "attn.hook_q", _QUERY, "queries: what each token looks for"),
    Site("k", "attn.hook_k", _KEY, "keys: what each token can be found by"),
    Site("v", "attn.hook_v", _KEY, "values: what each token passes on when looked at"),
    Site("q_norm.scale", "attn.q_norm.hook_scale", _QUERY_SCALE, "what the norm of each query divides by", _QK_NORM),
    Site("q_norm.normalized", "attn.q_norm.hook_normalized", _QUERY, "queries normalised, before the gain", _QK_NORM),
    Site("k_norm.scale", "attn.k_norm.hook_scale", _KEY_SCALE, "what the norm of each key divides by", _QK_NORM),
    Site("k_norm.normalized", "attn.k_norm.hook_normalized", _KEY, "keys normalised, before the gain", _QK_NORM),
    Site("rot_q", "attn.hook_rot_q", _QUERY, "queries after rotation by position", _ROTARY),
    Site("rot_k", "attn.hook_rot_k", _KEY, "keys after rotation by position", _ROTARY),
    Site(
        "attn_scores",
        "attn.hook_attn_scores",
        _PAIRS,
        "query . key, scaled (and capped by some models), before mask and softmax",
    ),
    Site("pattern", "attn.hook_pattern", _PAIRS, "attention: softmax of the scores over the keys that a query sees"),
    Site("z", "attn.hook_z", _QUERY, "values mixed by the pattern, before the output projection"),
    Site("ln1_post.scale", "ln1_post.hook_scale", _SCALE, "what the norm after attention divides by", _POST_NORMS),
    Site("ln1_post.normalized", "ln1_post.hook_normalized", _RESID, "what heads write, normalised", _POST_NORMS),
    Site("attn_out", "hook_attn_out", _RESID, "what attention adds to the residual stream"),
    Site("resid_mid", "hook_resid_mid", _RESID, "residual stream between attention and MLP", _MID),
    Site("ln2.scale", "ln2.hook_scale", _SCALE, "what the norm before the MLP divides by", _MLP),
    Site("ln2.normalized", "ln2.hook_normalized", _RESID, "residual stream normalised, before the norm's gain", _MLP),
    Site("pre", "mlp.hook_pre", _NEURONS, "neurons before the activation (of a gated MLP: the gate)", _MLP),
    Site("pre_linear", "mlp.hook_pre_linear", _NEURONS, "the linear branch that the gate multiplies", _GATED),
    Site("mid", "mlp.hook_mid", _NEURONS, "neurons after the activation, before their norm", _MLP_NORM),
    Site("mlp.ln.scale", "mlp.ln.hook_scale", _SCALE, "what the norm of all neurons divides by", _MLP_NORM),
    Site("mlp.ln.normalized", "mlp.ln.hook_normalized", _NEURONS, "neurons normalised, before the gain", _MLP_NORM),
    Site("post", "mlp.hook_post", _NEURONS, "neurons as they enter the output projection", _MLP),
    Site("ln2_post.scale", "ln2_post.hook_scale", _SCALE, "what the norm after the MLP divides by", _MLP_POST_NORM),
    Site("ln2_post.normalized", "ln2_post.hook_normalized", _RESID, "what the MLP writes, normalised", _MLP_POST_NORM),
    Site("mlp_out", "hook_mlp_out", _RESID, "what the MLP adds to the residual stream", _MLP),
    Site("resid_post", "hook_resid_post", _RESID, "residual stream leaving the layer"),
)
AFTER_BLOCKS = (
    Site("ln_final.scale", "ln_final.hook_scale", _SCALE, "what the final norm divides by"),
    Site("ln_final.normalized", "ln_final.hook_normalized", _RESID, "last residual stream normalised, before the gain"),
)
_SHORT = {site.short: site for site in (*BEFORE_BLOCKS, *IN_BLOCK, *AFTER_BLOCKS)}
_SUFFIX = {site.suffix: site for site in (*BEFORE_BLOCKS, *IN_BLOCK, *AFTER_BLOCKS)}


RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
"""Where the residual stream is seen in a layer."""


def residual_sites(config: GPTConfig) -> list[str]:
    """Those of `RESIDUAL` that this model has: no resid_mid where nothing lies between attention and MLP."""
    return [site for site in RESIDUAL if _SHORT[site].exists(config)]


def post_scales(config: GPTConfig) -> list[str]:
    """What the norms between attention or MLP and the stream divide by; none where there are no such norms."""
    return [site for site in ("ln1_post.scale", "ln2_post.scale") if _SHORT[site].exists(config)]


@checked
def site_names(config: GPTConfig) -> tuple[str, ...]:
    """Every name that a whole pass of this model emits, in the order in which the values are made."""
    return _site_names(config)


@functools.lru_cache(maxsize=100)  # of a few tokens, a pass is so quick that hundreds of names cost a tenth of it
def _site_names(config: GPTConfig) -> tuple[str, ...]:
    before = [site.suffix for site in BEFORE_BLOCKS if site.exists(config)]
    block = [site.suffix for site in IN_BLOCK if site.exists(config)]
    after = [site.suffix for site in AFTER_BLOCKS if site.exists(config)]
    return (*before, *(f"blocks.{layer}.{suffix}" for layer in range(config.n_layers) for suffix in block), *after)


def site_dims(name: str) -> tuple[str, ...]:
    """Names of the dims of a site, by its full or its short name: ('batch', 'pos', 'd_model')."""
    return describe_site(name).dims


@checked
def site_shape(config: GPTConfig, name: str, *, batch: int, pos: int) -> tuple[int, ...]:
    """The shape of a site's value in a pass over `batch` prompts of `pos` tokens."""
    sizes = {
        "batch": batch, "pos": pos, "query_pos": pos, "key_pos": pos, "one": 1, "head": config.n_heads,
        "kv_head": config.kv_heads, "d_head": config.d_head, "d_model": config.d_model, "d_mlp": config.d_mlp,
    }  # fmt: skip
    return tuple(sizes[dim] for dim in site_dims(name))


def describe_site(name: str) -> Site:
    """The kind of value that a full or short name stands for.

    Raises:
        UnknownName: neither; the message offers the nearest.
    """
    return _described(_text(name))


@functools.lru_cache(maxsize=10_000)  # one call of `record` asks for the same few hundred names again and again
def _described(name: str) -> Site:
    layer, suffix = _split(name)
    found = _SUFFIX.get(suffix) or _SHORT.get(name)
    if found is None or (name != found.short and (layer is not None) != (found in IN_BLOCK)):
        raise unknown_name("site", name, [*_SHORT, *(f"blocks.0.{site.suffix}" for site in IN_BLOCK)])
    return found


def split_name(name: str) -> tuple[int | None, str]:
    """'blocks.3.attn.hook_z' -> (3, 'attn.hook_z'); 'hook_embed' -> (None, 'hook_embed')."""
    return _split(_text(name))


def _text(name: str) -> str:
    if not isinstance(name, str):
        raise UnknownName(f"site {name!r}: expected a name, such as 'z' or 'blocks.0.attn.hook_z'")
    return name


@functools.lru_cache(maxsize=10_000)
def _split(name: str) -> tuple[int | None, str]:
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "blocks" and parts[1].isdecimal():
        return int(parts[1]), parts[2]
    return None, name


def full_name(config: GPTConfig, site: str, layer: int | None = None) -> str:
    """The full name of one value: ('z', 3) -> 'blocks.3.attn.hook_z'; a full name is checked and returned.

    Raises:
        UnknownName: no such site in this model; the nearest is offered.
        OutOfRange: no such layer.
    """
    names = find_sites(config, [site], None if layer is None else [layer])
    if len(names) != 1:
        raise UnknownName(f"site {site!r} exists in every layer: name one, as in ({site!r}, 0)")
    return names[0]


def find_sites(
    config: GPTConfig, sites: Iterable[str] | None = None, layers: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Full names, in the order of the pass, of what `sites` (short or full; None: all) means in `layers` (None: all).

    Sites outside the blocks ignore `layers` when named; with `sites=None` and `layers` given they are left out.

    Raises:
        UnknownName: a name that this model does not have (the nearest is offered); a full name of a layer outside
            `layers`.
        OutOfRange: a layer that it does not have.
    """
    everything = site_names(config)
    wanted_layers = None if layers is None else check_layers(config, layers)
    if sites is None:
        chosen = {n for n in everything if wanted_layers is None or split_name(n)[0] in wanted_layers}
    else:
        sites = site_list(sites)
        chosen = {name for site in sites for name in _names_of(config, site, wanted_layers, everything)}
    return tuple(name for name in everything if name in chosen)


def site_list(sites: Iterable[str] | str) -> list[str]:
    """One name or several, as a list.

    Raises:
        UnknownName: neither.
    """
    if isinstance(sites, str):
        return [sites]
    if isinstance(sites, bytes) or not hasattr(sites, "__iter__") or getattr(sites, "ndim", 1) == 0:
        raise UnknownName(f"sites {sites!r}: expected names, such as ['z', 'pattern']")
    return list(sites)


def check_has_mlp(config: GPTConfig, what: str) -> None:
    """Raise OutOfRange if what is asked for is of an MLP, and there is none."""
    if not config.d_mlp:
        raise OutOfRange(f"{what}: the layers of this model {NO_MLP}")


def check_layers(config: GPTConfig, layers: Sequence[int] | int) -> tuple[int, ...]:
    """Layers counted from the front, or OutOfRange: ``layer 12: this model has layers 0 to 11``."""
    layers = [layers] if as_integer(layers) is not None else layers  # type: ignore[list-item]
    return tuple(check_index("layer", layer, config.n_layers, owner="this model") for layer in layers)  # type: ignore[union-attr]


def _names_of(config: GPTConfig, site: str, layers: Sequence[int] | None, everything: Sequence[str]) -> list[str]:
    if site in everything:
        layer, _ = split_name(site)
        if layer is not None and layers is not None and layer not in layers:
            raise UnknownName(f"site {site!r} is in layer {layer}, but layers={list(layers)} was asked for")
        return [site]
    if site == "logits":
        raise UnknownName("'logits' is no site: a recording has them anyway, as rec.logits, if the whole model is run")
    layer, suffix = split_name(site)
    if layer is not None and suffix in _SUFFIX and _SUFFIX[suffix] in IN_BLOCK:
        check_layers(config, [layer])
    kind = _SHORT.get(site) or _SUFFIX.get(suffix)
    if kind is not None and (why := kind.why_absent(config)):
        raise UnknownName(f"site {site!r} does not exist in this model: {why}")
    if kind is None or site != kind.short:
        shorts = [s.short for s in _SHORT.values() if s.exists(config)]
        raise unknown_name("site", site, [*everything, *shorts] if "hook" in str(site) else [*shorts, *everything])
    if kind in IN_BLOCK:
        return [f"blocks.{layer}.{kind.suffix}" for layer in (range(config.n_layers) if layers is None else layers)]
    return [kind.suffix]
