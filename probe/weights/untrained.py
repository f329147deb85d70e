"""The shape of a model -> its untrained twin: the control that shows what learning did."""

from typing import Any

import torch

from probe.arguments import checked
from probe.config import GPTConfig
from probe.gpt import GPT
from probe.weights._tensors import empty_model


@checked
def untrained_twin(model: GPT, seed: int = 0) -> GPT:
    """The same config and tokenizer with weights drawn from `seed`, alike on every device; where the model is, in its
    dtype."""
    return draw_model(model.config, model.tokenizer, name=model.name, seed=seed, dtype=model.dtype, device=model.device)


def draw_model(
    config: GPTConfig, tokenizer: Any, *, name: str, seed: int, dtype: torch.dtype, device: torch.device
) -> GPT:
    """Weights drawn on the CPU in float32, so that a seed means the same numbers everywhere."""
    model = empty_model(config, f"{name} (untrained, seed {seed})", tokenizer).to_empty(device="cpu")
    model.draw_weights(torch.Generator().manual_seed(seed))
    return model.to(device=device, dtype=dtype)
