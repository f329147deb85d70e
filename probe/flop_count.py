"""What a pass computes, counted by kind from the config alone: how much of it is products of matrices.

A FLOP is one addition, multiplication, division, root or exponential of floating-point numbers. Attention is counted
for every token with every other, as a matrix product takes them, masked or not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.arguments import checked
from probe.config import Activation, GPTConfig
from probe.errors import check_count
from probe.shown import Shown, Summary, count
from probe.weight_count import WeightCount, count_weights

if TYPE_CHECKING:
    import pandas

ACTIVATION_FLOPS: dict[Activation, int] = {"gelu": 5, "gelu_tanh": 9, "gelu_quick": 5, "relu": 1, "silu": 4, "solu": 5}
"""FLOP of an activation for each number, as its formula is written; tanh and erf count as one."""
NORM_FLOPS = {"layer": 7, "rms": 4, "rms_plus_one": 4, "none": 1}
"""FLOP of a norm for each number: squared, summed, divided, times the gain; LayerNorm also subtracts a mean and adds a
bias. No norm: divided by 1."""
CAP_FLOPS = 3
"""FLOP of a soft cap for each number: divided, tanh, multiplied."""
SOFTMAX_FLOPS = 4
"""FLOP of a softmax for each number: less the largest, exponential, summed, divided."""


@dataclass(frozen=True)
class FlopKind:
    """Operations that do one job."""

    kind: str
    """'query', ...: with the weights of this name (see `count_weights`). 'query · key', 'pattern · value': products of
    what was computed with the text. The others are done number by number."""
    flops: int
    is_product: bool
    """Whether a matrix is multiplied."""


@dataclass(frozen=True)
class PassCount(Shown):
    """What one pass computes."""

    n_tokens: int
    rows: tuple[FlopKind, ...]
    """Products with weights, products of attention, the rest."""

    @property
    def flops(self) -> int:
        """FLOP of the whole pass, all kinds together."""
        return sum(row.flops for row in self.rows)

    @property
    def products(self) -> int:
        """FLOP of the products of matrices alone, which is what `plan_recording` counts."""
        return sum(row.flops for row in self.rows if row.is_product)

    def summary(self) -> Summary:
        """The total, and how much of it is products of matrices."""
        share = f"{self.products / self.flops:.2%}"
        return Summary(f"{self.flops:,} FLOP for {count(self.n_tokens, 'token')}", {"products of matrices": share})

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per kind."""
        import pandas  # half a second that only tables need

        rows = [(row.kind, row.is_product, row.flops, row.flops / self.flops) for row in self.rows]
        return pandas.DataFrame(rows, columns=["kind", "is_product", "flops", "share"])


@checked
def count_pass(config: GPTConfig, n_tokens: int) -> PassCount:
    """Count a pass over so many tokens that predicts after each of them.

    Raises:
        OutOfRange: fewer than 1.
    """
    check_count("n_tokens", n_tokens)
    weights = count_weights(config)
    rows = [
        *(FlopKind(row.kind, 2 * n_tokens * row.multiplications, True) for row in weights.rows),
        *(FlopKind(kind, attention_flops(config, n_tokens) // 2, True) for kind in ("query · key", "pattern · value")),
        *(FlopKind(kind, flops, False) for kind, flops in _one_by_one(config, weights, n_tokens).items()),
    ]
    return PassCount(n_tokens, tuple(rows))


def attention_flops(config: GPTConfig, n_tokens: int) -> int:
    """FLOP of the products of queries with keys, and of patterns with values, in all layers for one prompt."""
    return 4 * config.n_layers * config.n_heads * config.d_head * n_tokens**2


def _one_by_one(config: GPTConfig, weights: WeightCount, n: int) -> dict[str, int]:
    """FLOP of what is no product of matrices, by kind."""
    n_layers, d_model = config.n_layers, config.d_model
    learned = d_model if config.positions == "learned" else 0
    turned = 0 if learned else 3 * n_layers * (config.n_heads + config.kv_heads) * config.turned
    heads = n_layers * (config.n_heads + config.kv_heads) * config.d_head
    parts = 1 + (config.d_mlp > 0)
    vectors = parts * (1 + config.post_norms) * n_layers + 1
    of_neurons = n_layers * config.d_mlp * config.mlp_norm
    normalised = vectors * d_model + heads * config.qk_norm
    plus_one = vectors * d_model if config.norm == "rms_plus_one" else 0  # of the gains, once for all tokens
    capped = {
        "soft cap of scores": n_layers * config.n_heads * n * n * (config.attn_soft_cap is not None),
        "soft cap of logits": n * config.n_outputs * (config.logit_soft_cap is not None),
    }
    scaled = n * d_model * (config.embed_scale is not None)
    return {
        "positions": n * (learned + turned),
        "norms": n * (NORM_FLOPS[config.norm] * normalised + NORM_FLOPS["layer"] * of_neurons) + plus_one,
        "softmax": SOFTMAX_FLOPS * (n_layers * config.n_heads * n * n + n * config.n_outputs),
        "scale of queries": n * n_layers * config.n_heads * config.d_head,
        "activation": n * n_layers * config.d_mlp * (ACTIVATION_FLOPS[config.activation] + config.gated_mlp),
        "sums": n * (parts * n_layers * d_model + weights.extras["biases"]),
        **{kind: CAP_FLOPS * numbers for kind, numbers in capped.items() if numbers},
        **({"scale of embeddings": scaled} if scaled else {}),
    }
