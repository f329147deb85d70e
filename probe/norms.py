"""Norms: what attention, the MLP and the unembedding read is the residual stream divided by its own size.

Sources: Ba et al., "Layer normalization" (2016); Zhang and Sennrich, "Root mean square layer normalization" (2019).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.config import GPTConfig
from probe.tap_protocol import NO_TAP, Tap

Vectors = Float[Tensor, "*rows d"]
"""The residual stream, or queries or keys head by head."""


class LayerNorm(nn.Module):
    """(x - mean) / standard deviation, times a gain, plus a bias."""

    def __init__(self, config: GPTConfig, size: int | None = None):
        super().__init__()
        self.eps = config.norm_eps
        self.w = nn.Parameter(torch.ones(config.d_model if size is None else size))
        self.b = nn.Parameter(torch.zeros_like(self.w))

    def forward(self, x: Vectors, tap: Tap = NO_TAP) -> Vectors:
        centred = at_least_float32(x)
        centred = centred - centred.mean(-1, keepdim=True)
        scale = tap("hook_scale", (centred.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return tap("hook_normalized", (centred / scale).to(x.dtype)) * self.w + self.b


class RMSNorm(nn.Module):
    """x / root mean square, times a gain."""

    def __init__(self, config: GPTConfig, size: int | None = None):
        super().__init__()
        self.eps = config.norm_eps
        self.w = nn.Parameter(torch.ones(config.d_model if size is None else size))

    def forward(self, x: Vectors, tap: Tap = NO_TAP) -> Vectors:
        precise = at_least_float32(x)
        scale = tap("hook_scale", (precise.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return tap("hook_normalized", (precise / scale).to(x.dtype)) * self.w


class Unchanged(nn.Module):
    """Stands where a family has no norm."""

    def forward(self, x: Vectors, tap: Tap = NO_TAP) -> Vectors:
        return x


def at_least_float32(x: Tensor) -> Tensor:
    """Norms and softmax lose too much in half precision; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


NORMS: dict[str, Callable[..., nn.Module]] = {"layer": LayerNorm, "rms": RMSNorm}
