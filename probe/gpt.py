"""The GPT: tokens -> vectors -> layers of attention and MLP -> the next token's logits.

Every value on the way is handed to a *tap* under its name (see `sites.py`), and the pass goes on with what the tap
returns: recording keeps the value, an intervention changes it. Nothing is ever attached to the model, so any number of
threads can use one model at once. Families differ in the modules that `__init__` picks, not in the forward pass.

Weights are stored as (in, out) and named as the field names them; `model.W_Q[layer, head]` is a view.
Source: Radford et al., "Language models are unsupervised multitask learners" (2019); Touvron et al., "LLaMA" (2023);
parallel layers: Black et al., "GPT-NeoX-20B" (2022).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.arguments import checked
from probe.attention import Attention, KeyValueCache, Seen
from probe.config import GPTConfig
from probe.errors import BadPrompt, BadShape, OutOfRange, WrongType
from probe.linear import affine, bias
from probe.named_weights import NamedWeights
from probe.norms import ANY_NORM, NORMS, LayerNorm, Unchanged, soft_cap
from probe.rotary import Turn, rotary_turn
from probe.tap_protocol import NO_TAP, Resid, Tap


class MLP(nn.Module):
    """Each neuron asks a question of a token's vector; where the answer is yes, its output direction is added."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.W_in = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.W_out = nn.Parameter(torch.empty(config.d_mlp, config.d_model))
        self.b_in = bias(config.d_mlp, config.mlp_bias)
        self.b_out = bias(config.d_model, config.mlp_bias)

    def forward(self, x: Resid, tap: Tap = NO_TAP) -> Resid:
        post = tap("hook_post", self.neurons(x, tap))
        return affine(post, self.W_out, self.b_out)

    def neurons(self, x: Resid, tap: Tap) -> Float[Tensor, "batch pos d_mlp"]:
        """The neurons' answers to each token's vector."""
        return self.activation(tap("hook_pre", affine(x, self.W_in, self.b_in)))


class NormedMLP(MLP):
    """An MLP with a LayerNorm between the neurons' answers and what they add."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        self.ln = LayerNorm(config, config.d_mlp)

    def neurons(self, x: Resid, tap: Tap) -> Float[Tensor, "batch pos d_mlp"]:
        """The neurons' answers, normalised together."""
        return self.ln(tap("hook_mid", super().neurons(x, tap)), tap.scope("ln"))


class GatedMLP(MLP):
    """An MLP with a second question per neuron: the answer to the gate scales the answer to the other."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        self.W_gate = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.b_gate = bias(config.d_mlp, config.mlp_bias)

    def neurons(self, x: Resid, tap: Tap) -> Float[Tensor, "batch pos d_mlp"]:
        """The neurons' answers, each scaled by its gate."""
        pre = tap("hook_pre", affine(x, self.W_gate, self.b_gate))
        return self.activation(pre) * tap("hook_pre_linear", affine(x, self.W_in, self.b_in))


class AttentionBlock(nn.Module):
    """A layer of attention alone."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        norm = NORMS[config.norm]
        self.ln1, self.attn = norm(config), Attention(config, layer)
        self.ln1_post = norm(config) if config.post_norms else Unchanged()

    def forward(self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        resid = tap("hook_resid_pre", resid)
        return tap("hook_resid_post", resid + self.attn_out(resid, tap, turn, cache))

    def attn_out(self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        """What attention adds to the stream that it reads."""
        written = self.attn(self.ln1(resid, tap.scope("ln1")), tap.scope("attn"), turn, cache)
        return tap("hook_attn_out", self.ln1_post(written, tap.scope("ln1_post")))


class Block(AttentionBlock):
    """One layer: attention adds to the residual stream, then the MLP does."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        norm = NORMS[config.norm]
        self.ln2 = self.ln1 if config.shared_norm else norm(config)
        self.mlp = (NormedMLP if config.mlp_norm else GatedMLP if config.gated_mlp else MLP)(config)
        self.ln2_post = norm(config) if config.post_norms else Unchanged()

    def forward(self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        return self.add_mlp(self.add_attention(resid, tap, turn, cache), tap)

    def add_attention(
        self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None
    ) -> Resid:
        """The first half of a layer: tokens talk."""
        resid = tap("hook_resid_pre", resid)
        return tap("hook_resid_mid", resid + self.attn_out(resid, tap, turn, cache))

    def add_mlp(self, resid: Resid, tap: Tap = NO_TAP) -> Resid:
        """The second half: each token by itself."""
        return tap("hook_resid_post", resid + self.mlp_out(resid, tap))

    def mlp_out(self, resid: Resid, tap: Tap = NO_TAP) -> Resid:
        """What the MLP adds to the stream that it reads."""
        written = self.mlp(self.ln2(resid, tap.scope("ln2")), tap.scope("mlp"))
        return tap("hook_mlp_out", self.ln2_post(written, tap.scope("ln2_post")))


class ParallelBlock(Block):
    """A layer whose attention and MLP read the same stream, neither seeing what the other adds."""

    def forward(self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        resid = tap("hook_resid_pre", resid)
        return tap("hook_resid_post", resid + self.attn_out(resid, tap, turn, cache) + self.mlp_out(resid, tap))


class Embedding(nn.Module):
    """Each token becomes a vector; with learned positions, each position adds one of its own."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.scale = config.embed_scale
        self.W_E = nn.Parameter(torch.empty(config.d_vocab, config.d_model))
        learned = config.positions == "learned"
        self.W_pos = nn.Parameter(torch.empty(config.n_ctx, config.d_model)) if learned else None

    def forward(self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "1 pos"], tap: Tap = NO_TAP) -> Resid:
        resid = tap("hook_embed", self.scaled(F.embedding(tokens.long(), self.W_E)))
        if self.W_pos is None:
            return resid
        return resid + tap("hook_pos_embed", F.embedding(positions.expand_as(tokens), self.W_pos))

    def scaled(self, vectors: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Rows of W_E as they enter the stream; the factor is rounded to their dtype, as such models were trained."""
        return vectors if self.scale is None else vectors * vectors.new_full((), self.scale)


class Unembedding(nn.Module):
    """A vector is compared with every token's output direction: one logit each."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.W_U = None if config.tied_embeddings else nn.Parameter(torch.empty(config.d_model, config.n_outputs))
        self.b_U = bias(config.n_outputs, config.unembed_bias)
        self.soft_cap = soft_cap(config.logit_soft_cap)


class GPT(NamedWeights, nn.Module):
    """A GPT of any supported family, from scratch: random weights, trainable like any module.

    Use `probe.load_model` for a pretrained one.
    """

    @checked
    def __init__(self, config: GPTConfig, tokenizer: Any = None, name: str = "unnamed"):
        super().__init__()
        if isinstance(tokenizer, nn.Module):  # it would become a part of this model, and its weights be drawn anew
            raise WrongType(f"tokenizer=<{type(tokenizer).__name__}>: expected a probe.tokens.Tokenizer, or None")
        self.config = config
        self.tokenizer: Any = tokenizer
        """A `probe.tokens.Tokenizer`, or None: token ids always work."""
        self.name = name
        """What results call this model."""
        self.embed = Embedding(config)
        block = ParallelBlock if config.parallel else Block if config.d_mlp else AttentionBlock
        self.blocks: Sequence[Block] = nn.ModuleList(block(config, layer) for layer in range(config.n_layers))  # type: ignore[assignment]
        self.ln_final = NORMS[config.norm](config)
        self.unembed = Unembedding(config)
        if not self.W_E.is_meta:  # shapes alone: nothing to draw, and drawing would import torch's symbolic half (2 s)
            self.draw_weights()

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        tap: Tap = NO_TAP,
        cache: KeyValueCache | None = None,
        unembed_at: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch kept d_vocab_out"]:
        """Raw logits of the token after each position (or only after the positions in `unembed_at`).

        With a cache, `tokens` are the next ones after those that it has seen.

        Raises:
            BadShape: tokens that are not integers of shape (batch, pos).
            OutOfRange: a token id outside the vocabulary.
            BadPrompt: no tokens, or more than the context.
        """
        seen = 0 if cache is None else cache.length
        check_tokens(self.config, tokens, seen=seen)
        resid = self.run_layers(self.embed_tokens(tokens, tap=tap, seen=seen), tap=tap, cache=cache)
        return self.read_out(resid, tap=tap, unembed_at=unembed_at)

    def embed_tokens(self, tokens: Int[Tensor, "batch pos"], *, tap: Tap = NO_TAP, seen: int = 0) -> Resid:
        """The residual stream before the first layer. `seen` tokens came before these."""
        positions = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)[None]
        return self.embed(tokens, positions, tap)

    def run_layers(
        self,
        resid: Resid,
        *,
        tap: Tap = NO_TAP,
        start_at_layer: int = 0,
        stop_after_layer: int | None = None,
        cache: KeyValueCache | None = None,
    ) -> Resid:
        """The residual stream after `stop_after_layer` (None: the last), from the one before `start_at_layer`."""
        seen, n_pos = (0 if cache is None else cache.length), resid.shape[1]
        scaling, turn = self.config.rotary_scaling, None
        if seen and scaling is not None and scaling.differs(seen, seen + n_pos):
            raise BadPrompt(
                f"cache: the {seen} tokens that it has seen would be turned by other angles in a text of "
                f"{seen + n_pos} (rotary scaling {scaling.kind!r}); run the whole text without it"
            )
        if self.config.positions == "rotary":
            positions = torch.arange(seen, seen + n_pos, device=resid.device)[None]
            turn = rotary_turn(self.config, positions, resid.dtype, seen + n_pos)
        end = self.config.n_layers if stop_after_layer is None else stop_after_layer + 1
        for layer in range(start_at_layer, end):
            resid = self.blocks[layer](resid, tap.scope(f"blocks.{layer}"), turn, cache)
        if cache is not None:
            cache.length += n_pos
        return resid

    def read_out(
        self, resid: Resid, *, tap: Tap = NO_TAP, unembed_at: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch kept d_vocab_out"]:
        """Raw logits from the residual stream after the last layer: final norm, then unembedding."""
        final = self.ln_final(resid, tap.scope("ln_final"))
        if unembed_at is not None:
            final = final.gather(1, unembed_at[..., None].expand(-1, -1, final.shape[-1]))
        return self.logits_of(final)

    def logits_of(
        self, final: Float[Tensor, "batch kept d_model"], tokens: Int[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch kept token"]:
        """Raw logits from what the final norm gives: of every token, or of a few (each batch row has its own)."""
        b_U = self.unembed.b_U
        if tokens is None:
            return self.unembed.soft_cap(affine(final, self.W_U, b_U))
        logits = torch.einsum("bkd,btd->bkt", final, F.embedding(tokens, self.W_U.t()))
        return self.unembed.soft_cap(logits if b_U is None else logits + b_U[tokens][:, None])

    @torch.no_grad()
    def draw_weights(self, generator: torch.Generator | None = None) -> None:
        """Random weights as GPT-2 began: normal with standard deviation 0.02, gains 1, biases 0; the two projections
        that write to the residual stream divided by sqrt(2 n_layers), so that its size does not grow with depth."""
        for module in self.modules():
            if isinstance(module, ANY_NORM):
                module.reset_parameters()
        for name, parameter in self.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind.startswith("b_"):
                parameter.zero_()
            elif kind.startswith("W_"):
                writes = kind in ("W_O", "W_out")
                parameter.normal_(
                    0.0, 0.02 / (2 * self.config.n_layers) ** 0.5 if writes else 0.02, generator=generator
                )

    def save(self, folder) -> None:
        """Write a folder that `load_model` and Hugging Face read back; see `probe.save_model`."""
        from probe.weights import save_model  # the one upward import: users expect the method here

        save_model(self, folder)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation with tanh."""
    return F.gelu(x, approximate="tanh")


def gelu_quick(x: Tensor) -> Tensor:
    """GELU by its approximation with a logistic function."""
    return x * torch.sigmoid(1.702 * x)


def solu(x: Tensor) -> Tensor:
    """Neurons compete: each times its share of their softmax. Source: Elhage et al., "Softmax linear units" (2022)."""
    return x * x.softmax(-1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_quick": gelu_quick,
    "relu": F.relu,
    "silu": F.silu,
    "solu": solu,
}


def check_tokens(config: GPTConfig, tokens: Tensor, *, seen: int = 0) -> None:
    """Raise unless the tokens can be run: integers (batch, pos) in the vocabulary, that fit the context.

    Ids on an accelerator are not looked at, since that would wait for it (`record` checks them before they go there),
    nor those of a pass that `torch.compile` follows, whose kernels check them.
    """
    if (
        not isinstance(tokens, Tensor)
        or tokens.is_floating_point()
        or tokens.is_complex()
        or tokens.dtype == torch.bool
    ):
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise BadShape(f"tokens: expected a tensor of integer ids, got {kind}")
    if tokens.ndim != 2:
        raise BadShape(f"tokens: expected shape (batch, pos), got {tuple(tokens.shape)}")
    if 0 in tokens.shape:
        raise BadPrompt(f"tokens: no token to run in shape {tuple(tokens.shape)}")
    if seen + tokens.shape[1] > config.n_ctx:
        raise BadPrompt(f"prompt of {seen + tokens.shape[1]} tokens: this model's context holds {config.n_ctx}")
    if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
        for token in (int(tokens.min()), int(tokens.max())):
            if not 0 <= token < config.d_vocab:
                raise OutOfRange(f"token id {token}: this model's vocabulary has ids 0 to {config.d_vocab - 1}")
