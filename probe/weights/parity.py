"""A model's files through Hugging Face's own code: an oracle to compare with, slow and memory-hungry."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.catalogue import known_models
from probe.errors import UnsupportedModel
from probe.fetching import cached_path
from probe.weights._hooked_config import ENDINGS, is_hooked_folder


def huggingface_logits(
    source: Any, tokens: Int[Tensor, "batch pos"], *, dtype: torch.dtype
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Raw logits on the CPU of what `source` names; see `huggingface_model`."""
    model = huggingface_model(source, dtype=dtype)
    with torch.no_grad():
        return model(tokens).logits


def huggingface_model(source: Any, *, dtype: torch.dtype) -> Any:
    """Hugging Face's module, on the CPU, of a cached catalogue name, a folder, a .gguf file or a Hub name.

    Raises:
        UnsupportedModel: Hugging Face cannot read these files; the message has its words.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    where, arguments = _place(source)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars, of which one cannot be switched off
            return AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **arguments).eval()
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise UnsupportedModel(f"transformers cannot read {source}: {str(error).strip().splitlines()[0]}") from error
    finally:
        logging.set_verbosity(verbosity)


def _place(source: Any) -> tuple[str, dict[str, str]]:
    """What from_pretrained is given."""
    path = Path(source).expanduser()
    if not path.exists() and source in [known.name for known in known_models()]:
        path = cached_path(source)
    if not path.exists():
        return str(source), {}  # a name on the Hub
    if path.suffix in ENDINGS or (path.is_dir() and is_hooked_folder(path)):
        raise UnsupportedModel(f"{source} is a state dict of HookedTransformer")
    return (str(path.parent), {"gguf_file": path.name}) if path.is_file() else (str(path), {})
