"""The GPT: tokens -> vectors -> layers of attention and MLP -> the next token's logits.

Every value on the way is handed to a *tap* under its name (see `sites.py`), and the pass goes on with what the tap
returns: recording keeps the value, an intervention changes it. Nothing is ever attached to the model, so any number of
threads can use one model at once. Families differ in the modules that `__init__` picks, not in the forward pass.

Weights are stored as (in, out) and named as the field names them; `model.W_Q[layer, head]` is a view.
Source: Radford et al., "Language models are unsupervised multitask learners" (2019); Touvron et al., "LLaMA" (2023).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.arguments import checked
from probe.config import GPTConfig
from probe.errors import BadPrompt, BadShape, OutOfRange, WrongType
from probe.named_weights import NamedWeights
from probe.rotary import Turn, rotary_turn, rotate

Resid = Float[Tensor, "batch pos d_model"]


@runtime_checkable
class Tap(Protocol):
    """What watches a pass. `NO_TAP` watches nothing."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """See one value; the pass goes on with what is returned."""
        ...

    def wants(self, name: str) -> bool:
        """Whether this value is wanted; attention computes scores and pattern one by one only if it is."""
        ...

    def scope(self, prefix: str) -> "Tap":
        """The same tap, for a module whose names all begin with `prefix`."""
        ...


class NoTap:
    """Lets every value pass."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        return value

    def wants(self, name: str) -> bool:
        return False

    def scope(self, prefix: str) -> "NoTap":
        return self


NO_TAP = NoTap()


@runtime_checkable
class Seen(Protocol):
    """What attention asks of a cache: keys and values of tokens that came before, to stand before the new ones."""

    length: int
    """How many tokens those are."""

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, (batch, seen + new, kv_head, d_head), given the new ones."""
        ...


class KeyValueCache:
    """Keys (after rotation) and values of the tokens already seen, so that each new token costs only itself.

    Belongs to one conversation: pass it to consecutive calls of one model. `capacity` tokens are set aside at once.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        """Tokens seen so far."""
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return all of them, (batch, seen + new, kv_head, d_head)."""
        end = self.length + k.shape[1]
        if end > self.capacity:
            raise OutOfRange(f"key/value cache: token {end} does not fit its capacity of {self.capacity}")
        for store, new in ((self._keys, k), (self._values, v)):
            if layer not in store:
                store[layer] = new.new_empty(new.shape[0], self.capacity, *new.shape[2:])
            store[layer][:, self.length : end] = new
        return self._keys[layer][:, :end], self._values[layer][:, :end]

    def repeated(self, n: int, capacity: int) -> "KeyValueCache":
        """A cache of its own for n texts that all begin with the one text that this cache has seen."""
        copy = KeyValueCache(capacity)
        copy.length = self.length
        for old, new in ((self._keys, copy._keys), (self._values, copy._values)):
            for layer, seen in old.items():
                new[layer] = seen.new_empty(n, capacity, *seen.shape[2:])
                new[layer][:, : self.length] = seen[:, : self.length]
        return copy


class LayerNorm(nn.Module):
    """(x - mean) / standard deviation, times a gain, plus a bias."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.eps = config.norm_eps
        self.w = nn.Parameter(torch.ones(config.d_model))
        self.b = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, x: Resid, tap: Tap = NO_TAP) -> Resid:
        centred = at_least_float32(x)
        centred = centred - centred.mean(-1, keepdim=True)
        scale = tap("hook_scale", (centred.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return tap("hook_normalized", (centred / scale).to(x.dtype)) * self.w + self.b


class RMSNorm(nn.Module):
    """x / root mean square, times a gain."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.eps = config.norm_eps
        self.w = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x: Resid, tap: Tap = NO_TAP) -> Resid:
        precise = at_least_float32(x)
        scale = tap("hook_scale", (precise.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return tap("hook_normalized", (precise / scale).to(x.dtype)) * self.w


class Attention(nn.Module):
    """Each token asks a question (query), finds whom it concerns (keys), and takes in what they offer (values)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.window, self.scale = layer, config.window_of_layer(layer), config.scale_of_layer(layer)
        self.n_heads, self.kv_heads, self.d_head = config.n_heads, config.kv_heads, config.d_head
        query, key = config.n_heads * config.d_head, config.kv_heads * config.d_head
        self.W_Q = nn.Parameter(torch.empty(config.d_model, query))
        self.W_K = nn.Parameter(torch.empty(config.d_model, key))
        self.W_V = nn.Parameter(torch.empty(config.d_model, key))
        self.W_O = nn.Parameter(torch.empty(query, config.d_model))
        self.b_Q = bias(query, config.qkv_bias)
        self.b_K = bias(key, config.qkv_bias)
        self.b_V = bias(key, config.qkv_bias)
        self.b_O = bias(config.d_model, config.attn_out_bias)

    def forward(self, x: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        q = tap("hook_q", affine(x, self.W_Q, self.b_Q).unflatten(-1, (self.n_heads, self.d_head)))
        k = tap("hook_k", affine(x, self.W_K, self.b_K).unflatten(-1, (self.kv_heads, self.d_head)))
        v = tap("hook_v", affine(x, self.W_V, self.b_V).unflatten(-1, (self.kv_heads, self.d_head)))
        if turn is not None:
            q, k = tap("hook_rot_q", rotate(q, turn)), tap("hook_rot_k", rotate(k, turn))
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        asked = tap.wants("hook_attn_scores") or tap.wants("hook_pattern")
        z = tap("hook_z", self.step_by_step(q, k, v, tap) if asked else self.fused(q, k, v))
        return affine(z.flatten(-2), self.W_O, self.b_O)

    def step_by_step(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
        tap: Tap,
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """Scores, mask, softmax, mixture, one at a time. The heads of a group share one product with their key."""
        batch, n_query, n_key = q.shape[0], q.shape[1], k.shape[1]
        grouped = q.transpose(1, 2).reshape(batch, self.kv_heads, -1, self.d_head)
        scores = grouped @ k.permute(0, 2, 3, 1) * self.scale
        scores = tap("hook_attn_scores", scores.view(batch, self.n_heads, n_query, n_key))
        visible = visible_keys(n_query, n_key, self.window, q.device)
        pattern = at_least_float32(scores.masked_fill(~visible, -torch.inf)).softmax(-1).to(v.dtype)
        pattern = tap("hook_pattern", pattern)
        z = pattern.reshape(batch, self.kv_heads, -1, n_key) @ v.transpose(1, 2)
        return z.view(batch, self.n_heads, n_query, self.d_head).transpose(1, 2)

    def fused(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """The same in one kernel that never holds the scores; it agrees to rounding."""
        n_query, n_key, group = q.shape[1], k.shape[1], self.n_heads // self.kv_heads
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        causal = n_query == n_key and (self.window is None or self.window >= n_key)
        mask = None if causal else visible_keys(n_query, n_key, self.window, q.device)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale)
        return z.transpose(1, 2)


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
        pre = tap("hook_pre", affine(x, self.W_in, self.b_in))
        post = tap("hook_post", self.activation(pre))
        return affine(post, self.W_out, self.b_out)


class GatedMLP(MLP):
    """The same with a second question per neuron: the answer to the gate scales the answer to the other."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        self.W_gate = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.b_gate = bias(config.d_mlp, config.mlp_bias)

    def forward(self, x: Resid, tap: Tap = NO_TAP) -> Resid:
        pre = tap("hook_pre", affine(x, self.W_gate, self.b_gate))
        pre_linear = tap("hook_pre_linear", affine(x, self.W_in, self.b_in))
        post = tap("hook_post", self.activation(pre) * pre_linear)
        return affine(post, self.W_out, self.b_out)


class Block(nn.Module):
    """One layer: attention adds to the residual stream, then the MLP does."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln1, self.attn = NORMS[config.norm](config), Attention(config, layer)
        self.ln2, self.mlp = NORMS[config.norm](config), (GatedMLP if config.gated_mlp else MLP)(config)

    def forward(self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        return self.add_mlp(self.add_attention(resid, tap, turn, cache), tap)

    def add_attention(
        self, resid: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None
    ) -> Resid:
        """The first half of a layer: tokens talk."""
        resid = tap("hook_resid_pre", resid)
        attn_out = self.attn(self.ln1(resid, tap.scope("ln1")), tap.scope("attn"), turn, cache)
        return tap("hook_resid_mid", resid + tap("hook_attn_out", attn_out))

    def add_mlp(self, resid: Resid, tap: Tap = NO_TAP) -> Resid:
        """The second half: each token by itself."""
        mlp_out = self.mlp(self.ln2(resid, tap.scope("ln2")), tap.scope("mlp"))
        return tap("hook_resid_post", resid + tap("hook_mlp_out", mlp_out))


class Embedding(nn.Module):
    """Each token becomes a vector; with learned positions, each position adds one of its own."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(config.d_vocab, config.d_model))
        learned = config.positions == "learned"
        self.W_pos = nn.Parameter(torch.empty(config.n_ctx, config.d_model)) if learned else None

    def forward(self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "1 pos"], tap: Tap = NO_TAP) -> Resid:
        resid = tap("hook_embed", F.embedding(tokens.long(), self.W_E))
        if self.W_pos is None:
            return resid
        return resid + tap("hook_pos_embed", F.embedding(positions.expand_as(tokens), self.W_pos))


class Unembedding(nn.Module):
    """A vector is compared with every token's output direction: one logit each."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.W_U = None if config.tied_embeddings else nn.Parameter(torch.empty(config.d_model, config.d_vocab))


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
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))  # type: ignore[assignment]
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
    ) -> Float[Tensor, "batch kept d_vocab"]:
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
        turn = None
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
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Raw logits from the residual stream after the last layer: final norm, then unembedding."""
        final = self.ln_final(resid, tap.scope("ln_final"))
        if unembed_at is not None:
            final = final.gather(1, unembed_at[..., None].expand(-1, -1, final.shape[-1]))
        return affine(final, self.W_U, None)

    @torch.no_grad()
    def draw_weights(self, generator: torch.Generator | None = None) -> None:
        """Random weights as GPT-2 began: normal with standard deviation 0.02, gains 1, biases 0; the two projections
        that write to the residual stream divided by sqrt(2 n_layers), so that its size does not grow with depth."""
        for name, parameter in self.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind == "w":
                parameter.fill_(1.0)
            elif kind.startswith("b"):
                parameter.zero_()
            else:
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


NORMS: dict[str, Callable[[GPTConfig], nn.Module]] = {"layer": LayerNorm, "rms": RMSNorm}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_quick": gelu_quick,
    "relu": F.relu,
    "silu": F.silu,
}


def affine(x: Float[Tensor, "... n"], weight: Float[Tensor, "n m"], offset: Tensor | None) -> Float[Tensor, "... m"]:
    """x weight + offset, for weights stored as (in, out)."""
    if x.numel() == x.shape[-1] and x.device.type == "cpu" and not torch.is_grad_enabled():
        product = times_matrix(x.reshape(-1), weight).view(*x.shape[:-1], -1)
        return product if offset is None else product + offset
    return F.linear(x, weight.T, offset)


def times_matrix(x: Float[Tensor, " n"], weight: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """One vector times a matrix, every thread with a share of it: a cached step of generation is little else.

    torch's own product of one row mostly runs on one thread. Streaming the default model's weights on two cores it
    reaches 11-14 GB/s, this 17-25, and 31 in place of 12 for the unembedding, which is stored as (out, in).
    """
    threads = torch.get_num_threads()
    by_output = weight.T.is_contiguous()  # the unembedding, where it is the embedding
    if weight.shape[int(by_output)] % threads:
        return x @ weight
    if by_output:
        return torch.bmm(weight.T.view(threads, -1, len(x)), x.expand(threads, 1, -1).mT).flatten()
    return torch.bmm(x.view(threads, 1, -1), weight.view(threads, -1, weight.shape[1])).sum(0)[0]


def bias(size: int, present: bool) -> nn.Parameter | None:
    """A bias, or none."""
    return nn.Parameter(torch.empty(size)) if present else None


def at_least_float32(x: Tensor) -> Tensor:
    """Norms and softmax lose too much in half precision; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def visible_keys(
    n_query: int, n_key: int, window: int | None, device: torch.device
) -> Bool[Tensor, "query_pos key_pos"]:
    """Which keys each query sees: itself and those before it, at most `window` of them. Queries are the last tokens."""
    key = torch.arange(n_key, device=device)
    query = torch.arange(n_key - n_query, n_key, device=device)[:, None]
    return key <= query if window is None else (key <= query) & (key > query - window)


def check_tokens(config: GPTConfig, tokens: Tensor, *, seen: int = 0) -> None:
    """Raise unless the tokens can be run: integers (batch, pos) in the vocabulary, that fit the context.

    Ids on an accelerator are not looked at, since that would wait for it; `record` checks them before they go there.
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
    if tokens.device.type == "cpu":
        for token in (int(tokens.min()), int(tokens.max())):
            if not 0 <= token < config.d_vocab:
                raise OutOfRange(f"token id {token}: this model's vocabulary has ids 0 to {config.d_vocab - 1}")
