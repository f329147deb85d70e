"""The same weights in other libraries, each loaded when a case first asks for it, through a folder that we write."""

import os
import tempfile
import warnings
from functools import cached_property
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here already

import torch

import probe


class Rivals:
    """Of one model of ours, on the same device."""

    def __init__(self, model: probe.GPT):
        self._model = model
        self._kept = tempfile.TemporaryDirectory()  # for as long as this object
        self.folder = str(probe.save_model(model, Path(self._kept.name) / "model"))

    @cached_property
    def huggingface(self):
        """With fused attention (sdpa), its default."""
        return self._huggingface("sdpa")

    @cached_property
    def huggingface_eager(self):
        """With attention step by step, which alone gives attention patterns."""
        return self._huggingface("eager")

    @cached_property
    def transformer_lens(self):
        """TransformerLens's bridge, as it comes."""
        from transformer_lens.model_bridge import TransformerBridge

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return TransformerBridge.boot_transformers(self.folder, dtype=torch.float32, device=str(self._model.device))

    @cached_property
    def nnsight(self):
        """nnsight around Hugging Face's eager model; None where it is not installed."""
        try:
            from nnsight import NNsight
        except ImportError:
            return None
        return NNsight(self.huggingface_eager)

    def _huggingface(self, attention: str):
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32, attn_implementation=attention)
        return model.eval().to(self._model.device)
