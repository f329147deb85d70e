"""Norms and soft caps. What attention, MLP and unembedding read is the residual stream divided by its own size.

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
        self.w = nn.Parameter(torch.empty(config.d_model if size is None else size))
        self.b = nn.Parameter(torch.empty_like(self.w))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gain 1, bias 0."""
        nn.init.ones_(self.w)
        nn.init.zeros_(self.b)

    def forward(self, x: Vectors, tap: Tap = NO_TAP) -> Vectors:
        centred = at_least_float32(x)
        centred = centred - centred.mean(-1, keepdim=True)
        scale = tap("hook_scale", (centred.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return self.stretch(tap("hook_normalized", (centred / scale).to(x.dtype)))

    @property
    def gain(self) -> Float[Tensor, " d"]:
        """What the normalised vector is multiplied by."""
        return self.w

    def stretch(self, normalized: Vectors) -> Vectors:
        """The last step: gain and bias."""
        return normalized * self.w + self.b


class RMSNorm(nn.Module):
    """x / root mean square, times a gain."""

    def __init__(self, config: GPTConfig, size: int | None = None):
        super().__init__()
        self.eps = config.norm_eps
        self.w = nn.Parameter(torch.empty(config.d_model if size is None else size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gain 1."""
        nn.init.ones_(self.w)

    def forward(self, x: Vectors, tap: Tap = NO_TAP) -> Vectors:
        precise = at_least_float32(x)
        scale = tap("hook_scale", (precise.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return self.stretch(tap("hook_normalized", (precise / scale).to(x.dtype)))

    @property
    def gain(self) -> Float[Tensor, " d"]:
        """What the normalised vector is multiplied by."""
        return self.w

    def stretch(self, normalized: Vectors) -> Vectors:
        """The last step: the gain."""
        return normalized * self.w


class RMSNormPlusOne(RMSNorm):
    """An RMSNorm with a gain of 1 + w: weights near 0 leave the vector alone, and half precision keeps them exact."""

    def reset_parameters(self) -> None:
        """Gain 1."""
        nn.init.zeros_(self.w)

    @property
    def gain(self) -> Float[Tensor, " d"]:
        """What the normalised vector is multiplied by, in float32 or better."""
        return 1 + at_least_float32(self.w)

    def stretch(self, normalized: Vectors) -> Vectors:
        """The last step: the gain."""
        return (normalized * self.gain).to(normalized.dtype)


class NoNorm(nn.Module):
    """Divides by 1: of a model without norms, so that what reads a norm's scale or gain reads what is true of it."""

    def __init__(self, config: GPTConfig, size: int | None = None):
        super().__init__()
        self.gain: Tensor
        size = config.d_model if size is None else size
        # On the CPU even where shapes alone are made (meta): no file has it, so nothing would fill it.
        self.register_buffer("gain", torch.empty(size, device="cpu"), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gain 1."""
        nn.init.ones_(self.gain)

    def forward(self, x: Vectors, tap: Tap = NO_TAP) -> Vectors:
        scale = tap("hook_scale", at_least_float32(x).new_ones(*x.shape[:-1], 1))
        return self.stretch(tap("hook_normalized", (x / scale).to(x.dtype)))

    def stretch(self, normalized: Vectors) -> Vectors:
        """The last step: nothing."""
        return normalized


class SoftCap(nn.Module):
    """cap * tanh(x / cap): nearly x where x is small, never beyond the cap. Source: Gemma 2 (Google, 2024)."""

    def __init__(self, cap: float):
        super().__init__()
        self.cap = cap

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return (x / self.cap).tanh() * self.cap


def soft_cap(cap: float | None) -> nn.Module:
    """A soft cap, or none."""
    return Unchanged() if cap is None else SoftCap(cap)


class Unchanged(nn.Module):
    """Stands where a family has no norm, or no cap."""

    def forward(self, x: Float[Tensor, "*any"], tap: Tap = NO_TAP) -> Float[Tensor, "*any"]:
        return x


def at_least_float32(x: Tensor) -> Tensor:
    """Norms and softmax lose too much in half precision; float64 stays float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.promote_types(x.dtype, torch.float32))


NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer": LayerNorm, "rms": RMSNorm, "rms_plus_one": RMSNormPlusOne, "none": NoNorm
}  # fmt: skip
ANY_NORM = (LayerNorm, RMSNorm, NoNorm)
"""What a module is if it is one of them."""
