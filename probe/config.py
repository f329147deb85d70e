"""GPTConfig: the shape of a GPT, and the choices that tell one family from another.

A family (GPT-2, GPT-Neo, GPT-NeoX, Llama, Mistral, Qwen 2 and 3, Gemma 2, Phi, and what HookedTransformer trained) is a
set of values here; `gpt.py` has no word for it.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from probe.arguments import check_fields
from probe.errors import BadShape, OutOfRange, UnsupportedModel, check_choice

Norm = Literal["layer", "rms", "rms_plus_one", "none"]
Positions = Literal["learned", "rotary"]
Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "relu", "silu", "solu"]
RotaryScalingKind = Literal["linear", "dynamic", "yarn", "longrope", "llama3"]


SIZES = ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "d_vocab", "n_ctx", "n_kv_heads", "d_vocab_out")
"""Fields that are sizes; d_mlp may be 0, and d_vocab_out None."""
MOST_LAYERS, MOST = 10_000, 2**24
"""No GPT has more layers, or more of anything else: a damaged config costs an error, not all memory."""


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are stretched to reach contexts longer than those of pretraining.

    Only the fields of the chosen kind are read. Source: each kind's own, named in `rotary.py`.

    Raises:
        UnknownName: no such kind.
        OutOfRange: a factor or length that cannot be.
        UnsupportedModel: a field that the kind needs is missing.
    """

    kind: RotaryScalingKind
    factor: float = 1.0
    """Context after / context before (all kinds)."""
    original_n_ctx: int | None = None
    """Context of pretraining, in tokens (all kinds but linear)."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original_n_ctx / this are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original_n_ctx / this are left alone."""
    beta_fast: float = 32.0
    """yarn: dimensions that turn more often than this in the original context are left alone."""
    beta_slow: float = 1.0
    """yarn: dimensions that turn less often than this are divided by `factor`."""
    truncate: bool = True
    """yarn: round the range of dimensions between the two outwards to whole numbers."""
    attention_factor: float | None = None
    """yarn, longrope: factor on cosines and sines; None: the kind's own formula."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    """yarn: the two constants of the formula for `attention_factor` used by some later models."""
    short_factor: tuple[float, ...] | None = None
    """longrope: divisor of each frequency for prompts within the original context."""
    long_factor: tuple[float, ...] | None = None
    """longrope: divisor of each frequency for longer prompts."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("rotary scaling", self.kind, get_args(RotaryScalingKind))
        if not 1 / MOST <= self.factor <= MOST:
            raise OutOfRange(f"rotary scaling factor {self.factor}: expected a number above 0, at most {MOST:,}")
        if self.original_n_ctx is not None and not 1 <= self.original_n_ctx <= MOST:
            raise OutOfRange(f"original_n_ctx {self.original_n_ctx}: expected 1 to {MOST:,} tokens")
        for name in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            if not 1 / MOST <= getattr(self, name) <= MOST:
                raise OutOfRange(f"{name} {getattr(self, name)}: expected a number above 0, at most {MOST:,}")
        if self.kind == "llama3" and self.low_freq_factor == self.high_freq_factor:
            raise OutOfRange(f"low_freq_factor and high_freq_factor are both {self.low_freq_factor}: nothing between")
        for name in ("short_factor", "long_factor"):
            if not all(1 / MOST <= divisor <= MOST for divisor in getattr(self, name) or ()):
                raise OutOfRange(f"{name}: expected numbers above 0, at most {MOST:,}")
        if self.kind == "longrope" and self.original_n_ctx == 1 and self.attention_factor is None:
            raise OutOfRange("original_n_ctx 1: 'longrope' needs a longer one, or attention_factor")
        if self.mscale_all_dim is not None and self.mscale is not None and self.factor > 1:
            if 0.1 * self.mscale_all_dim * math.log(self.factor) + 1.0 == 0:
                raise OutOfRange(f"mscale_all_dim {self.mscale_all_dim}: the attention factor would be infinite")
        if self.kind != "linear" and self.original_n_ctx is None:
            raise UnsupportedModel(f"rotary scaling {self.kind!r} needs the original context length")
        if self.kind == "longrope" and (self.short_factor is None or self.long_factor is None):
            raise UnsupportedModel("rotary scaling 'longrope' needs short_factor and long_factor")

    def differs(self, n_tokens: int, others: int) -> bool:
        """Whether a text of so many tokens is turned by other angles than a text of so many others."""
        if self.kind not in ("dynamic", "longrope"):
            return False
        assert self.original_n_ctx is not None, "checked above"
        if self.kind == "longrope":  # one set of angles up to there, another beyond
            return (n_tokens > self.original_n_ctx) != (others > self.original_n_ctx)
        return max(n_tokens, self.original_n_ctx) != max(others, self.original_n_ctx)


@dataclass(frozen=True)
class GPTConfig:
    """Everything that the forward pass needs to know besides the weights.

    Sizes use the field's names. The defaults describe a small GPT-2.

    Raises:
        UnknownName: a choice that does not exist.
        BadShape: sizes that do not fit each other, such as heads that do not divide into groups.
        OutOfRange: a size below 1 or beyond any GPT's; a factor, cap, scale or window that cannot be.
        UnsupportedModel: choices that exclude each other, such as qk_norm with learned positions.
        WrongType: a value of another kind, such as a text for True.
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_mlp: int
    """0: layers of attention alone, without an MLP."""
    d_vocab: int
    n_ctx: int
    """Most tokens of one prompt."""
    n_kv_heads: int | None = None
    """Key and value heads; query head h reads key head h // (n_heads / n_kv_heads). None: as many as query heads."""
    norm: Norm = "layer"
    """"rms_plus_one": an RMSNorm whose gain is 1 + its weight. "none": the stream as it is, divided by 1."""
    norm_eps: float = 1e-5
    positions: Positions = "learned"
    rotary_theta: float = 10_000.0
    rotary_dim: int | None = None
    """How many dimensions of each head turn with position, the first ones. None: all of them."""
    rotary_scaling: RotaryScaling | None = None
    activation: Activation = "gelu_tanh"
    gated_mlp: bool = False
    """MLP output = (activation(x W_gate) * x W_in) W_out instead of activation(x W_in) W_out."""
    mlp_norm: bool = False
    """Neurons go through a LayerNorm of their own after the activation, as they do after SoLU."""
    qkv_bias: bool = True
    qk_norm: bool = False
    """Queries and keys are normalised, each head by itself, before they turn with position."""
    attn_out_bias: bool = True
    mlp_bias: bool = True
    post_norms: bool = False
    """What attention and the MLP write is normalised before it is added to the stream."""
    parallel: bool = False
    """Attention and MLP of a layer read the same stream, and both are added to it: there is no resid_mid."""
    shared_norm: bool = False
    """In parallel layers, attention and MLP read the stream through one norm: ln1 and ln2 are the same weights."""
    tied_embeddings: bool = True
    """W_U is W_E transposed, one parameter."""
    d_vocab_out: int | None = None
    """Tokens that can be predicted, ids 0 to this - 1, fewer than those that can be read. None: all of them."""
    unembed_bias: bool = False
    """A bias b_U is added to the logits."""
    embed_scale: float | None = None
    """Token vectors are multiplied by this, rounded to the weights' dtype, as they enter the stream. None: by 1."""
    logit_soft_cap: float | None = None
    """Logits become cap * tanh(logit / cap), at last. None: they are not capped."""
    attn_scale: float | None = None
    """Factor on query . key before the softmax. None: 1 / sqrt(d_head)."""
    attn_scale_by_layer: bool = False
    """Divide that factor by (layer + 1) as well."""
    attn_soft_cap: float | None = None
    """Scores become cap * tanh(score / cap), before the mask. None: they are not capped."""
    windows: tuple[int | None, ...] | None = None
    """Per layer, how many tokens back a query sees, itself included. None: all of them."""

    def __post_init__(self) -> None:
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        check_fields(self)
        if self.d_vocab_out == self.d_vocab:  # one spelling, so that equal models have equal configs
            object.__setattr__(self, "d_vocab_out", None)
        for name in SIZES:
            size, least = getattr(self, name), 0 if name == "d_mlp" else 1
            if size is None:
                continue
            if size < least:
                raise OutOfRange(f"{name} {size!r}: expected a whole number of at least {least}")
            if size > (MOST_LAYERS if name == "n_layers" else MOST):
                raise OutOfRange(f"{name} {size:,}: more than any GPT has; a damaged config?")
        check_choice("norm", self.norm, get_args(Norm))
        check_choice("positions", self.positions, get_args(Positions))
        check_choice("activation", self.activation, get_args(Activation))
        if self.n_heads * self.d_head > MOST:
            raise OutOfRange(f"n_heads {self.n_heads:,} of d_head {self.d_head:,}: more than any GPT has")
        if self.n_outputs > self.d_vocab:
            raise BadShape(f"d_vocab_out {self.n_outputs:,}: more tokens than d_vocab, {self.d_vocab:,}")
        if self.tied_embeddings and self.d_vocab_out is not None:
            raise UnsupportedModel(
                f"d_vocab_out {self.n_outputs:,} with tied_embeddings: W_U is then W_E, of all {self.d_vocab:,} "
                "tokens; expected tied_embeddings=False, or no d_vocab_out"
            )
        if self.n_heads % self.kv_heads:
            raise BadShape(f"{self.n_heads} query heads do not divide into {self.kv_heads} key heads")
        if self.positions == "rotary" and self.d_head % 2:
            raise BadShape(f"d_head {self.d_head}: rotary positions turn pairs of dimensions, so it must be even")
        for name in ("rotary_scaling", "rotary_dim"):
            if self.positions == "learned" and getattr(self, name) is not None:
                raise UnsupportedModel(f"{name} was given, but positions are learned")
        if self.positions == "rotary":
            self._check_rotary()
        self._check_norms()
        self._check_mlp()
        if self.windows is not None and len(self.windows) != self.n_layers:
            raise BadShape(f"windows has {len(self.windows)} entries for {self.n_layers} layers")
        for window in self.windows or ():
            if window is not None and window < 1:
                raise OutOfRange(f"window of {window} tokens: expected at least 1, the query itself, or None for all")
        self._check_factors()

    def _check_norms(self) -> None:
        if self.qk_norm and self.positions != "rotary":
            raise UnsupportedModel("qk_norm was given, but positions are learned")
        for name in ("qk_norm", "post_norms"):
            if getattr(self, name) and self.norm in ("layer", "none"):
                raise UnsupportedModel(f"{name} needs an RMSNorm, but norm is {self.norm!r}")

    def _check_mlp(self) -> None:
        for name in ("gated_mlp", "mlp_norm", "parallel", "shared_norm"):
            if getattr(self, name) and not self.d_mlp:
                raise UnsupportedModel(f"{name} was given, but d_mlp is 0: there is no MLP")
        if self.gated_mlp and self.mlp_norm:
            raise UnsupportedModel("mlp_norm was given, but the MLP is gated")
        if self.shared_norm and not self.parallel:
            raise UnsupportedModel("shared_norm was given, but attention and MLP do not read the same stream")

    def _check_factors(self) -> None:
        for name in ("embed_scale", "attn_soft_cap", "logit_soft_cap"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OutOfRange(f"{name} {value!r}: expected a finite number above 0, or None")
        if self.attn_scale is not None and not math.isfinite(self.attn_scale):
            raise OutOfRange(f"attn_scale {self.attn_scale!r}: expected a finite number")
        if not (self.norm_eps >= 0 and math.isfinite(self.norm_eps)):
            raise OutOfRange(f"norm_eps {self.norm_eps!r}: expected a finite number of at least 0")

    def _check_rotary(self) -> None:
        if self.turned not in range(2, self.d_head + 1, 2):
            raise BadShape(
                f"rotary_dim {self.rotary_dim!r}: pairs of dimensions turn, expected an even number of at most "
                f"d_head = {self.d_head}"
            )
        if not 1 <= self.rotary_theta < math.inf:  # below 1, pairs turn ever faster until angles are no numbers
            raise OutOfRange(f"rotary_theta {self.rotary_theta!r}: expected a finite number of at least 1")
        scaling = self.rotary_scaling
        if scaling is not None and scaling.kind == "yarn" and self.rotary_theta == 1:
            raise OutOfRange("rotary_theta 1: with 'yarn' all pairs would turn alike, so none can be told apart")
        if scaling is not None and scaling.kind == "dynamic" and self.turned == 2:
            raise BadShape("2 dimensions of each head turn: rotary scaling 'dynamic' needs at least two pairs")
        for name in ("short_factor", "long_factor") if scaling is not None and scaling.kind == "longrope" else ():
            factors = getattr(scaling, name)
            if len(factors) != self.turned // 2:
                raise BadShape(f"{name} has {len(factors)} entries, expected one for each of {self.turned // 2} pairs")

    @property
    def kv_heads(self) -> int:
        """n_kv_heads, never None."""
        assert self.n_kv_heads is not None, "set in __post_init__"
        return self.n_kv_heads

    @property
    def n_outputs(self) -> int:
        """Tokens that can be predicted: d_vocab_out, or d_vocab where that is None."""
        return self.d_vocab if self.d_vocab_out is None else self.d_vocab_out

    @property
    def has_mid(self) -> bool:
        """Whether a layer has a stream between attention and MLP: not where it has no MLP, or both read the same."""
        return self.d_mlp > 0 and not self.parallel

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key and value head."""
        return self.n_heads // self.kv_heads

    @property
    def turned(self) -> int:
        """Dimensions of each head that rotary positions turn: rotary_dim, never None."""
        return self.d_head if self.rotary_dim is None else self.rotary_dim

    def scale_of_layer(self, layer: int) -> float:
        """The factor on query . key in this layer."""
        scale = self.d_head**-0.5 if self.attn_scale is None else self.attn_scale
        return scale / (layer + 1) if self.attn_scale_by_layer else scale

    def window_of_layer(self, layer: int) -> int | None:
        """How many tokens back a query of this layer sees, itself included; None: all."""
        return None if self.windows is None else self.windows[layer]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GPTConfig":
        """The config that `to_dict` wrote."""
        values = dict(values)
        if values.get("rotary_scaling") is not None:
            scaling = dict(values["rotary_scaling"])
            for name in ("short_factor", "long_factor"):
                if scaling.get(name) is not None:
                    scaling[name] = tuple(scaling[name])
            values["rotary_scaling"] = RotaryScaling(**scaling)
        if values.get("windows") is not None:
            values["windows"] = tuple(values["windows"])
        return cls(**values)
