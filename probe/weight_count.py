"""The weights of a GPT counted by kind, from its config alone: no model is built, so the largest costs nothing.

As in the video "But what is a GPT?" by 3Blue1Brown (2024): matrices are counted, queries, keys and values one for each
head and layer, the output once a layer. The position table, biases and norms stand apart, outside the total.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from probe.arguments import checked
from probe.config import GPTConfig
from probe.shown import Shown, Summary

if TYPE_CHECKING:
    import pandas

GPT3 = GPTConfig(
    n_layers=96, d_model=12_288, n_heads=96, d_head=128, d_mlp=4 * 12_288, d_vocab=50_257, n_ctx=2048
)  # fmt: skip
"""The largest GPT-3, tied as GPT-2 is; that every other layer attends locally changes no weight. Source: Brown et al.,
"Language models are few-shot learners" (2020), table 2.1; the vocabulary is GPT-2's."""


@dataclass(frozen=True)
class WeightKind:
    """The matrices that do one job."""

    kind: str
    """What the matrices do: 'embedding', 'query', ..."""
    matrices: int
    """How many matrices; 0 for an unembedding that is the embedding."""
    shape: tuple[int, int]
    """Shape of one of them, (in, out) as `model.W_Q[layer, head]` has it; the embedding's is (d_vocab, d_model)."""
    multiplications: int
    """Multiplications for one token: none for the embedding, which is looked up; an unembedding counts even if tied."""

    @property
    def weights(self) -> int:
        """Weights in all of them."""
        return self.matrices * self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class WeightCount(Shown):
    """How many weights a GPT has, kind by kind, in the order of the pass."""

    rows: tuple[WeightKind, ...]
    extras: Mapping[str, int]
    """Numbers outside the total: 'position table', 'biases', 'norms' (gains, and the biases of LayerNorm)."""

    @property
    def weights(self) -> int:
        """The total, without extras."""
        return sum(row.weights for row in self.rows)

    @property
    def matrices(self) -> int:
        """How many matrices the weights stand in."""
        return sum(row.matrices for row in self.rows)

    @property
    def parameters(self) -> int:
        """Weights and extras: every number that training adjusts."""
        return self.weights + sum(self.extras.values())

    @property
    def running(self) -> tuple[int, ...]:
        """The weights up to and including each row."""
        return tuple(accumulate(row.weights for row in self.rows))

    @property
    def multiplications(self) -> int:
        """Multiplications of all matrices for one token; with as many additions, twice as many FLOPs. Those between
        queries, keys and values grow with the text and are not among them."""
        return sum(row.multiplications for row in self.rows)

    def summary(self) -> Summary:
        """How many weights, matrices and multiplications there are."""
        return Summary(
            f"{self.weights:,} weights in {self.matrices:,} matrices",
            {"with biases, norms and positions": self.parameters, "multiplications for a token": self.multiplications},
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per kind, then the extras, which have no matrices and no running total."""
        import pandas  # half a second that only tables need

        kinds = [
            {"kind": row.kind, "matrices": row.matrices, "rows": row.shape[0], "columns": row.shape[1],
             "weights": row.weights, "running_total": running, "share": row.weights / self.weights,
             "multiplications": row.multiplications,
             "share_of_multiplications": row.multiplications / self.multiplications}
            for row, running in zip(self.rows, self.running, strict=True)
        ]  # fmt: skip
        extras = [{"kind": kind, "weights": weights} for kind, weights in self.extras.items()]
        counts = ["matrices", "rows", "columns", "weights", "running_total", "multiplications"]
        return pandas.DataFrame([*kinds, *extras]).astype(dict.fromkeys(counts, "Int64"))


@checked
def count_weights(config: GPTConfig, *, tied: bool | None = None) -> WeightCount:
    """Count the weights of a GPT of this shape; of a loaded model ``count_weights(model.config)``.

    Args:
        tied: whether the unembedding is the embedding, so that its weights count once. None: as the config has it.
            The video counts GPT-3 with ``tied=False``: 175,181,291,520 weights in 27,938 matrices.
    """
    d_model, d_head, d_mlp, n_layers = config.d_model, config.d_head, config.d_mlp, config.n_layers
    query_heads, kv_heads = n_layers * config.n_heads, n_layers * config.kv_heads
    tied = config.tied_embeddings if tied is None else tied
    rows = [
        WeightKind("embedding", 1, (config.d_vocab, d_model), 0),
        _multiplied("query", query_heads, (d_model, d_head)),
        _multiplied("key", kv_heads, (d_model, d_head)),
        _multiplied("value", kv_heads, (d_model, d_head)),
        _multiplied("output", n_layers, (config.n_heads * d_head, d_model)),
        *([_multiplied("gate", n_layers, (d_model, d_mlp))] if config.gated_mlp else []),
        *([_multiplied("up-projection", n_layers, (d_model, d_mlp))] if d_mlp else []),
        *([_multiplied("down-projection", n_layers, (d_mlp, d_model))] if d_mlp else []),
        WeightKind("unembedding", 0 if tied else 1, (d_model, config.n_outputs), d_model * config.n_outputs),
    ]
    return WeightCount(tuple(rows), {"position table": _positions(config), **_biases_and_norms(config)})


def _multiplied(kind: str, matrices: int, shape: tuple[int, int]) -> WeightKind:
    """Every weight of these is multiplied once for each token."""
    return WeightKind(kind, matrices, shape, matrices * shape[0] * shape[1])


def _positions(config: GPTConfig) -> int:
    return config.n_ctx * config.d_model if config.positions == "learned" else 0


def _biases_and_norms(config: GPTConfig) -> dict[str, int]:
    qkv = (config.n_heads + 2 * config.kv_heads) * config.d_head if config.qkv_bias else 0
    attn_out = config.d_model if config.attn_out_bias else 0
    has_mlp = config.d_mlp > 0
    mlp = (2 if config.gated_mlp else 1) * config.d_mlp + config.d_model if config.mlp_bias and has_mlp else 0
    in_layer = (1 + has_mlp) * (1 + config.post_norms) - config.shared_norm
    gains = (in_layer * config.n_layers + 1) * config.d_model + 2 * config.n_layers * config.d_head * config.qk_norm
    of_neurons = 2 * config.n_layers * config.d_mlp * config.mlp_norm
    return {
        "biases": config.n_layers * (qkv + attn_out + mlp) + config.n_outputs * config.unembed_bias,
        "norms": gains * {"layer": 2, "none": 0}.get(config.norm, 1) + of_neurons,
    }
