"""Attention: how values travel from token to token, at once or step by step, with or without a cache.

Sources: Vaswani et al., "Attention is all you need" (2017); grouped heads: Ainslie et al., "GQA" (2023); windows:
Beltagy et al., "Longformer" (2020); norms of queries and keys: Henry et al., "Query-key normalization" (2020).
"""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probe.config import GPTConfig
from probe.errors import OutOfRange
from probe.linear import affine, bias
from probe.norms import NORMS, Unchanged, at_least_float32, soft_cap
from probe.rotary import Turn, rotate
from probe.tap_protocol import NO_TAP, Resid, Tap


@runtime_checkable
class Seen(Protocol):
    """What attention asks of a cache: keys and values of tokens that came before, to stand before the new ones."""

    length: int
    """How many tokens came before."""

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
        """Store a layer's new keys and values; return all of them, (batch, seen + new, kv_head, d_head).

        Raises:
            OutOfRange: more tokens than the capacity.
        """
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
        self.q_norm = NORMS[config.norm](config, config.d_head) if config.qk_norm else Unchanged()
        self.k_norm = NORMS[config.norm](config, config.d_head) if config.qk_norm else Unchanged()
        self.soft_cap = soft_cap(config.attn_soft_cap)
        self.can_fuse = config.attn_soft_cap is None  # the kernel has no place for a cap

    def forward(self, x: Resid, tap: Tap = NO_TAP, turn: Turn | None = None, cache: Seen | None = None) -> Resid:
        q = tap("hook_q", affine(x, self.W_Q, self.b_Q).unflatten(-1, (self.n_heads, self.d_head)))
        k = tap("hook_k", affine(x, self.W_K, self.b_K).unflatten(-1, (self.kv_heads, self.d_head)))
        v = tap("hook_v", affine(x, self.W_V, self.b_V).unflatten(-1, (self.kv_heads, self.d_head)))
        q, k = self.q_norm(q, tap.scope("q_norm")), self.k_norm(k, tap.scope("k_norm"))
        if turn is not None:
            q, k = tap("hook_rot_q", rotate(q, turn)), tap("hook_rot_k", rotate(k, turn))
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        asked = tap.wants("hook_attn_scores") or tap.wants("hook_pattern")
        fuse = self.can_fuse and not asked
        return self.write(tap("hook_z", self.fused(q, k, v) if fuse else self.step_by_step(q, k, v, tap)))

    def write(self, z: Float[Tensor, "batch pos head d_head"]) -> Resid:
        """What all heads write together."""
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
        grouped = (q * self.scale).transpose(1, 2).reshape(batch, self.kv_heads, -1, self.d_head)
        scores = self.soft_cap(grouped @ k.permute(0, 2, 3, 1))
        scores = tap("hook_attn_scores", scores.view(batch, self.n_heads, n_query, n_key))
        visible = visible_keys(n_query, n_key, self.window, q.device)
        pattern = masked_softmax(scores, visible, keep_scores=tap.wants("hook_attn_scores"))
        pattern = tap("hook_pattern", pattern.to(v.dtype))
        z = pattern.reshape(batch, self.kv_heads, -1, n_key) @ v.transpose(1, 2)
        return z.view(batch, self.n_heads, n_query, self.d_head).transpose(1, 2)

    def fused(
        self,
        q: Float[Tensor, "batch query_pos head d_head"],
        k: Float[Tensor, "batch key_pos kv_head d_head"],
        v: Float[Tensor, "batch key_pos kv_head d_head"],
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """What `step_by_step` gives, to rounding, in one kernel that never holds the scores."""
        n_query, n_key, group = q.shape[1], k.shape[1], self.n_heads // self.kv_heads
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        grouped = group > 1 and q.device.type == "cpu"  # elsewhere not every kernel knows groups
        if group > 1 and not grouped:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        causal = n_query == n_key and (self.window is None or self.window >= n_key)
        mask = None if causal else visible_keys(n_query, n_key, self.window, q.device)
        z = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=grouped
        )
        return z.transpose(1, 2)


def masked_softmax(
    scores: Float[Tensor, "batch head query_pos key_pos"],
    visible: Bool[Tensor, "query_pos key_pos"],
    *,
    keep_scores: bool = True,
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """How each query divides its attention over the keys that it sees.

    Where no gradient is asked for, the softmax overwrites the masked copy, and the mask the scores if nobody keeps
    them: at hundreds of tokens, fresh memory costs more than the sums.
    """
    if torch.is_grad_enabled():
        return at_least_float32(scores.masked_fill(~visible, -torch.inf)).softmax(-1)
    masked = (scores.masked_fill if keep_scores else scores.masked_fill_)(~visible, -torch.inf)
    masked = at_least_float32(masked)
    return torch.softmax(masked, -1, out=masked)


def visible_keys(
    n_query: int, n_key: int, window: int | None, device: torch.device
) -> Bool[Tensor, "query_pos key_pos"]:
    """Which keys each query sees: itself and those before it, at most `window` of them. Queries are the last tokens."""
    key = torch.arange(n_key, device=device)
    query = torch.arange(n_key - n_query, n_key, device=device)[:, None]
    return key <= query if window is None else (key <= query) & (key > query - window)
