"""Formats on disk -> a model: Hugging Face folders and modules, GGUF files, state dicts, names; and back."""

from probe.weights.loading import load_model
from probe.weights.saving import save_model
from probe.weights.untrained import untrained_twin

__all__ = ["load_model", "save_model", "untrained_twin"]
