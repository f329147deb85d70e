"""Tiny random Hugging Face modules, and a tap that keeps everything."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything here is made on the spot

import pytest
import torch


class KeepAll:
    """A tap that wants every value, so that attention is computed step by step, and keeps a copy of each."""

    def __init__(self, kept=None, prefix=""):
        self.kept = {} if kept is None else kept
        self.prefix = prefix

    def __call__(self, name, value):
        self.kept[self.prefix + name] = value.detach().clone()
        return value

    def wants(self, name):
        return True

    def scope(self, prefix):
        return KeepAll(self.kept, f"{self.prefix}{prefix}.")


@pytest.fixture
def keep_all():
    return KeepAll


@pytest.fixture(scope="session")
def make_module():
    """A module of a transformers config. Its weights are large enough that every part of it shows in the logits:
    with the usual 0.02 attention is uniform, and a wrong scale or rotation would pass."""
    from transformers import AutoModelForCausalLM

    def make(config, dtype=torch.float32):
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(config).eval().to(dtype)
        generator = torch.Generator().manual_seed(0)
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(1 + 0.2 * drawn if parameter.ndim == 1 else 0.15 * drawn)
        return module

    return make


@pytest.fixture(scope="session")
def tokens():
    """Random token ids: tokens(length) of shape (2, length)."""

    def draw(length, d_vocab=50):
        return torch.randint(0, d_vocab, (2, length), generator=torch.Generator().manual_seed(length))

    return draw
