"""A model's weights under the names and in the shapes that TransformerLens's tools read.

The final norm's gain is folded into ``W_U`` and its bias into ``b_U``, where the unembedding's own is added to it, and
``ln_final`` divides and no more: the tools multiply by a cached scale and ``W_U`` alone, and unfolded their numbers
would be wrong. Nothing else is folded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.config import GPTConfig
from probe.errors import UnsupportedModel, check_index
from probe.gpt import GPT
from probe.norms import NORMS
from probe.prompts import token_id
from probe.sites import NO_MLP

ATTENTION = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
MLP = ("W_in", "W_out", "b_in", "b_out")
GATED_MLP = (*MLP, "W_gate", "b_gate")


@dataclass(frozen=True, eq=False)
class FoldedUnembedding:
    """From the normalised stream to logits."""

    W_U: Float[Tensor, "d_model d_vocab_out"]
    b_U: Float[Tensor, " d_vocab_out"]  # noqa: N815

    def __call__(self, normalized: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab_out"]:
        """Raw logits of what `ln_final` gave."""
        return normalized.to(self.W_U.dtype) @ self.W_U + self.b_U


class Blocks(Sequence[Any]):
    """A layer's weights: ``blocks[3].attn.W_O`` (head, d_head, d_model); keys and values by their own heads."""

    def __init__(self, model: GPT):
        self._model = model

    def __len__(self) -> int:
        return self._model.config.n_layers

    def __getitem__(self, layer: Any) -> Any:
        layer = check_index("layer", layer, len(self), owner="this model")
        config, block = self._model.config, self._model.blocks[layer]

        def read(names: Sequence[str]) -> SimpleNamespace:
            return SimpleNamespace(**{name: weight_of(self._model, name, layer) for name in names})

        norms = {
            name: SimpleNamespace(w=norm.gain.detach(), **({"b": norm.b.detach()} if hasattr(norm, "b") else {}))
            for name, norm in (("ln1", block.ln1), *([("ln2", block.ln2)] if config.d_mlp else []))
        }
        return SimpleNamespace(
            attn=read(ATTENTION),
            **({"mlp": read(mlp_weights(config))} if config.d_mlp else {}),
            **norms,
            hook_out_is_single_residual_stream=True,  # the lens asks for it
        )


class AdapterWeights:
    """What the adapter answers when asked for weights: views without graph, but for those that are folded."""

    _model: GPT

    @property
    def blocks(self) -> Blocks:
        """Layer by layer."""
        return Blocks(self._model)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding."""
        return self._model.W_E.detach()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """Unembedding, the final norm's gain folded in; of a LayerNorm also the mean taken out. float32 or better."""
        return self._model.logit_directions

    @property
    def b_U(self) -> Float[Tensor, " d_vocab_out"]:
        """What is added to each logit: the final norm's bias through `W_U`, the unembedding's own, or zeros."""
        weight, own = self._model.W_U.detach(), self._model.unembed.b_U
        weight = weight.to(torch.promote_types(self._model.dtype, torch.float32))
        total = weight.new_zeros(weight.shape[1]) if own is None else own.detach().to(weight.dtype)
        if self._model.config.norm != "layer":
            return total
        return total + self._model.ln_final.b.detach().to(weight.dtype) @ weight

    @property
    def unembed(self) -> FoldedUnembedding:
        """The two together."""
        return FoldedUnembedding(self.W_U, self.b_U)

    @property
    def ln_final(self) -> nn.Module:
        """The final norm without its gain and bias, which stand in `W_U` and `b_U`."""
        norm = NORMS[self._model.config.norm](self._model.config)  # begins with gain 1 and bias 0
        return norm.to(self._model.device, self._model.dtype).requires_grad_(False).eval()

    def __getattr__(self, name: str) -> Tensor:
        """A kind of weight of all layers: ``W_Q`` (layer, head, d_model, d_head), ...; ``W_pos`` if it is learned."""
        if name.startswith("_"):  # what `copy` asks for before there is a model
            raise AttributeError(name)
        config = self._model.config
        if name in (*ATTENTION, *mlp_weights(config)):
            return torch.stack([weight_of(self._model, name, layer) for layer in range(config.n_layers)])
        if name == "W_pos" and config.positions == "learned":
            return self._model.W_pos.detach()
        raise AttributeError(f"{name!r}: TransformerLens may have it, what as_transformer_lens gives has not")

    def tokens_to_residual_directions(self, tokens: str | int | Tensor) -> Float[Tensor, "... d_model"]:
        """Columns of `W_U`: of one token, as text or id, (d_model,); of a tensor of ids (..., d_model)."""
        if isinstance(tokens, Tensor) and tokens.numel() > 1:
            for id in (int(tokens.min()), int(tokens.max())):
                token_id(self._model.config, self._model.tokenizer, id)
            return self.W_U[:, tokens.to(self._model.device)].movedim(0, -1)
        single = int(tokens) if isinstance(tokens, Tensor) else tokens
        return self.W_U[:, token_id(self._model.config, self._model.tokenizer, single)]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases of attention and MLPs before `layer`; with `mlp_input` of its attention too.

        Raises:
            OutOfRange: no such layer.
            UnsupportedModel: `mlp_input` where no MLP reads what its layer's attention writes.
        """
        check_mlp_input(self._model.config, mlp_input)
        n_layers = self._model.config.n_layers
        if layer != n_layers or mlp_input:
            layer = check_index("layer", layer, n_layers, owner="this model")
        total = torch.zeros_like(weight_of(self._model, "b_O", 0))
        for before in range(layer + mlp_input):
            total = total + weight_of(self._model, "b_O", before)
            if include_mlp_biases and before < layer and self._model.config.d_mlp:
                total = total + weight_of(self._model, "b_out", before)
        return total


def check_mlp_input(config: GPTConfig, mlp_input: bool) -> None:
    """Raise UnsupportedModel if the input of a layer's MLP is asked for as a sum with what its attention writes."""
    if mlp_input and not config.d_mlp:
        raise UnsupportedModel(f"mlp_input=True: the layers of this model {NO_MLP}")
    if mlp_input and config.parallel:
        raise UnsupportedModel(
            "mlp_input=True would add what the layer's attention writes, and in parallel layers the MLP does not read "
            "that: it reads resid_pre. Leave it out; apply_ln_to_stack(stack, layer, mlp_input=True) has the MLP's norm"
        )


def mlp_weights(config: GPTConfig) -> tuple[str, ...]:
    """The names of an MLP's weights; none where there is none."""
    if not config.d_mlp:
        return ()
    return GATED_MLP if config.gated_mlp else MLP


def weight_of(model: GPT, name: str, layer: int) -> Tensor:
    """One layer's weight of one kind; zeros for a bias that the family does not have."""
    config, block = model.config, model.blocks[layer]
    if getattr(block.attn if name in ATTENTION else block.mlp, name) is not None:
        return getattr(model, name)[layer].detach()
    shape = {
        "b_Q": (config.n_heads, config.d_head),
        "b_K": (config.kv_heads, config.d_head),
        "b_V": (config.kv_heads, config.d_head),
        "b_in": (config.d_mlp,),
        "b_gate": (config.d_mlp,),
    }.get(name, (config.d_model,))
    return torch.zeros(shape, device=model.device, dtype=model.dtype)
