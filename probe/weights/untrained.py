"""The shape of a model -> its untrained twin: the control that shows what learning did."""

from typing import Any

import torch

from probe.config import GPTConfig
from probe.gpt import GPT
from probe.weights._tensors import empty_model


def draw_model(
    config: GPTConfig, tokenizer: Any, *, name: str, seed: int, dtype: torch.dtype, device: torch.device
) -> GPT:
    """Weights drawn on the CPU in float32, so that a seed means the same numbers everywhere."""
    model = empty_model(config, f"{name} (untrained, seed {seed})", tokenizer).to_empty(device="cpu")
    model.draw_weights(torch.Generator().manual_seed(seed))
    return model.to(device=device, dtype=dtype)
