"""A model's weights by the field's names: ``model.W_Q[layer, head]``. Views: writing to one changes the model."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import OutOfRange, ProbeError, as_integer, check_index

View = Callable[[Any], Tensor | None]
"""A layer's block -> its weight of one kind, or None where the family has none."""


class PerLayer:
    """One kind of weight over all layers. Indexing gives a view of that layer's parameter: ``model.W_Q[3, 1]``.

    Raises:
        OutOfRange: a layer or head that the model does not have.
        ProbeError: the model has no such weight.
    """

    def __init__(self, config: GPTConfig, blocks: Any, name: str, view: View, *, by_head: bool = False):
        self._config, self._blocks, self._name, self._view, self._by_head = config, blocks, name, view, by_head

    def __getitem__(self, index: Any) -> Tensor:
        layer, *rest = index if isinstance(index, tuple) and index else (index,)
        layer = check_index("layer", layer, len(self), owner="this model")
        weight = self._view(self._blocks[layer])
        if weight is None:
            raise ProbeError(f"no {self._name}: this model was built without it")
        shape, further = tuple(weight.shape), rest
        if rest and self._by_head and not isinstance(rest[0], (slice, list, Tensor, type(None), type(...))):
            # A method, which lets other threads go on meanwhile; [head] would not: see linear.py.
            weight, further = weight.select(0, self._check_head(rest[0], shape[0])), rest[1:]
        try:
            return weight[tuple(further)] if further else weight
        except (IndexError, TypeError) as error:
            raise OutOfRange(f"{self._name}[{layer}] has shape {shape}: {rest} is no index into it") from error

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[layer] for layer in range(len(self)))

    def __repr__(self) -> str:
        return f"{self._name}: {len(self)} layers of shape {tuple(self[0].shape)}"

    def stack(self) -> Tensor:
        """(layer, ...): a copy of all layers."""
        return torch.stack(list(self))

    def _check_head(self, head: object, n_heads: int) -> int:
        number = as_integer(head)
        if number is not None and n_heads <= number < self._config.n_heads:
            raise OutOfRange(
                f"{self._name} has {n_heads} key/value heads: query head {number} reads key/value head "
                f"{number // self._config.heads_per_group}"
            )
        return check_index("head", head, n_heads, owner=self._name)


class NamedWeights:
    """What a `GPT` answers when asked for a weight by name. Matrices are (in, out): vectors stand on their left."""

    config: GPTConfig
    blocks: Any
    embed: Any
    unembed: Any
    ln_final: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.W_E.dtype

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding: each token's own vector."""
        return self.embed.W_E

    @property
    def token_vectors(self) -> Float[Tensor, "d_vocab d_model"]:
        """W_E as it enters the residual stream: times the embedding's scale, where it has one."""
        return self.embed.scaled(self.W_E)

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Each position's own vector.

        Raises:
            ProbeError: positions are rotary.
        """
        if self.embed.W_pos is None:
            raise ProbeError("no W_pos: this model's positions are rotary; they turn queries and keys (rot_q, rot_k)")
        return self.embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding: each token's output direction (tied: a view of W_E)."""
        return self.embed.W_E.t() if self.unembed.W_U is None else self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab_out"]:
        """What is added to the logits.

        Raises:
            ProbeError: the unembedding has no bias.
        """
        if self.unembed.b_U is None:
            raise ProbeError("no b_U: this model's unembedding has no bias")
        return self.unembed.b_U

    @property
    def logit_directions(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """W_U as the normalised residual stream meets it: the final norm's gain folded in, and the mean that a
        LayerNorm subtracts taken out. Without graph, in float32 or better."""
        with torch.no_grad():
            both = self.W_U, self.ln_final.gain
            weight, gain = (w.detach().to(torch.promote_types(w.dtype, torch.float32)) for w in both)
            folded = gain[:, None] * weight
            return folded - folded.mean(0) if self.config.norm == "layer" else folded

    @property
    def W_Q(self) -> PerLayer:
        """Query weights, [layer, head]: (d_model, d_head)."""
        return self._into_heads("W_Q", self.config.n_heads)

    @property
    def W_K(self) -> PerLayer:
        """Key weights, [layer, kv_head]: (d_model, d_head)."""
        return self._into_heads("W_K", self.config.kv_heads)

    @property
    def W_V(self) -> PerLayer:
        """Value weights, [layer, kv_head]: (d_model, d_head)."""
        return self._into_heads("W_V", self.config.kv_heads)

    @property
    def W_O(self) -> PerLayer:
        """Output weights of heads, [layer, head]: (d_head, d_model)."""
        n_heads = self.config.n_heads
        return self._per_layer("W_O", lambda block: block.attn.W_O.unflatten(0, (n_heads, -1)), by_head=True)

    @property
    def b_Q(self) -> PerLayer:
        """Query biases, [layer, head]: (d_head,)."""
        return self._into_heads("b_Q", self.config.n_heads)

    @property
    def b_K(self) -> PerLayer:
        """Key biases, [layer, kv_head]: (d_head,)."""
        return self._into_heads("b_K", self.config.kv_heads)

    @property
    def b_V(self) -> PerLayer:
        """Value biases, [layer, kv_head]: (d_head,)."""
        return self._into_heads("b_V", self.config.kv_heads)

    @property
    def b_O(self) -> PerLayer:
        """Biases of what attention adds, [layer]: (d_model,)."""
        return self._per_layer("b_O", lambda block: block.attn.b_O)

    @property
    def W_in(self) -> PerLayer:
        """Input weights of neurons, [layer]: (d_model, d_mlp); column i is the question that neuron i asks."""
        return self._of_mlp("W_in")

    @property
    def W_gate(self) -> PerLayer:
        """Gate weights of neurons, [layer]: (d_model, d_mlp), of a gated MLP."""
        return self._of_mlp("W_gate")

    @property
    def W_out(self) -> PerLayer:
        """Output weights of neurons, [layer]: (d_mlp, d_model); row i is what neuron i adds."""
        return self._of_mlp("W_out")

    @property
    def b_in(self) -> PerLayer:
        """Biases of neurons, [layer]: (d_mlp,)."""
        return self._of_mlp("b_in")

    @property
    def b_gate(self) -> PerLayer:
        """Biases of gates, [layer]: (d_mlp,), of a gated MLP."""
        return self._of_mlp("b_gate")

    @property
    def b_out(self) -> PerLayer:
        """Biases of what MLPs add, [layer]: (d_model,)."""
        return self._of_mlp("b_out")

    def _of_mlp(self, name: str) -> PerLayer:
        return self._per_layer(name, lambda block: getattr(getattr(block, "mlp", None), name, None))

    def _into_heads(self, name: str, n_heads: int) -> PerLayer:
        def view(block: Any) -> Tensor | None:
            weight = getattr(block.attn, name)
            return None if weight is None else weight.unflatten(-1, (n_heads, -1)).movedim(-2, 0)

        return self._per_layer(name, view, by_head=True)

    def _per_layer(self, name: str, view: View, *, by_head: bool = False) -> PerLayer:
        return PerLayer(self.config, self.blocks, name, view, by_head=by_head)
