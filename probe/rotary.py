"""Rotary positions: how far each pair of dimensions of a query or key turns at each position, and the turning.

Sources: Su et al., "RoFormer" (2021); Peng et al., "YaRN" (2023), also for linear and dynamic (NTK-aware) scaling;
Ding et al., "LongRoPE" (2024); Meta's Llama 3.1 for its own kind.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.config import GPTConfig, RotaryScaling

Turn = tuple[Float[Tensor, "#batch pos 1 turned"], Float[Tensor, "#batch pos 1 turned"]]
"""Cosines and sines by position, the same for every head, of the dimensions that turn."""


def rotary_turn(config: GPTConfig, positions: Int[Tensor, "#batch pos"], dtype: torch.dtype, length: int) -> Turn:
    """Cosine and sine of every angle: position times frequency, the frequencies repeated for both halves of what turns.

    `length` is the number of tokens of the prompt, on which two kinds of scaling depend. Angles are computed in
    float32 (float64 for a float64 model), as the models were trained, and then cast.
    """
    precision = torch.promote_types(dtype, torch.float32)
    frequency, factor = rotary_frequencies(config, length, precision, positions.device)
    angle = positions[..., None].to(precision) * frequency
    angle = torch.cat([angle, angle], dim=-1)[:, :, None, :]
    return (angle.cos() * factor).to(dtype), (angle.sin() * factor).to(dtype)


def rotate(x: Float[Tensor, "batch pos head d_head"], turn: Turn) -> Float[Tensor, "batch pos head d_head"]:
    """Turn each pair (i, i + turned / 2) of the first `turned` dimensions by its angle; the others stay as they are.

    Lengths stay, relative angles tell distance.
    """
    cos, sin = turn
    x, still = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], dim=-1)
    first, second = x.chunk(2, dim=-1)
    x = x * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([x, still], dim=-1) if still.shape[-1] else x


def rotary_frequencies(
    config: GPTConfig, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, " half"], float]:
    """Radians per position of each pair of dimensions, and the factor on cosines and sines."""
    scaling = config.rotary_scaling
    if scaling is None:
        return _frequencies(config.rotary_theta, config.turned, dtype, device), 1.0
    return _SCALED[scaling.kind](config, scaling, length, dtype, device)


def _frequencies(theta: float, turned: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    exponent = torch.arange(0, turned, 2, dtype=dtype, device=device) / turned
    return 1.0 / theta**exponent


def _linear(config: GPTConfig, scaling: RotaryScaling, length: int, dtype: torch.dtype, device: torch.device):
    return _frequencies(config.rotary_theta, config.turned, dtype, device) / scaling.factor, 1.0


def _dynamic(config: GPTConfig, scaling: RotaryScaling, length: int, dtype: torch.dtype, device: torch.device):
    original, turned = scaling.original_n_ctx, config.turned
    assert original is not None, "checked by RotaryScaling"
    stretch = scaling.factor * max(length, original) / original - (scaling.factor - 1)
    return _frequencies(config.rotary_theta * stretch ** (turned / (turned - 2)), turned, dtype, device), 1.0


def _llama3(config: GPTConfig, scaling: RotaryScaling, length: int, dtype: torch.dtype, device: torch.device):
    frequency = _frequencies(config.rotary_theta, config.turned, dtype, device)
    assert scaling.original_n_ctx is not None, "checked by RotaryScaling"
    turns = scaling.original_n_ctx * frequency / (2 * math.pi)  # in the original context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return keep * frequency + (1 - keep) * frequency / scaling.factor, 1.0


def _yarn(config: GPTConfig, scaling: RotaryScaling, length: int, dtype: torch.dtype, device: torch.device):
    frequency = _frequencies(config.rotary_theta, config.turned, dtype, device)
    turned, original = config.turned, scaling.original_n_ctx
    assert original is not None, "checked by RotaryScaling"

    def pair_that_turns(times: float) -> float:
        return turned * math.log(original / (times * 2 * math.pi)) / (2 * math.log(config.rotary_theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, turned - 1)
    high = high + 0.001 if low == high else high  # as published: no division by zero
    ramp = (torch.arange(turned // 2, dtype=dtype, device=device) - low) / (high - low)
    keep = 1 - ramp.clamp(0, 1)
    return keep * frequency + (1 - keep) * frequency / scaling.factor, _yarn_factor(scaling)


def _yarn_factor(scaling: RotaryScaling) -> float:
    def mscale(weight: float = 1.0) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return mscale(scaling.mscale) / mscale(scaling.mscale_all_dim)
    return mscale()


def _longrope(config: GPTConfig, scaling: RotaryScaling, length: int, dtype: torch.dtype, device: torch.device):
    original = scaling.original_n_ctx
    assert original is not None, "checked by RotaryScaling"
    divisor = scaling.long_factor if length > original else scaling.short_factor
    frequency = _frequencies(config.rotary_theta, config.turned, dtype, device)
    factor = scaling.attention_factor
    if factor is None:
        factor = 1.0 if scaling.factor <= 1 else math.sqrt(1 + math.log(scaling.factor) / math.log(original))
    return frequency / torch.tensor(divisor, dtype=dtype, device=device), factor


_SCALED = {"linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "longrope": _longrope, "llama3": _llama3}
