"""A model -> a folder in Hugging Face's layout, which `load_model` and transformers both read back.

A new folder appears whole or not at all. In a folder that holds a model already, each file is replaced by a whole one.
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from probe.arguments import checked
from probe.errors import NotSaved
from probe.gpt import GPT
from probe.weights._hf_config import write_config
from probe.weights._hf_tensors import their_tensors
from probe.weights._tensors import CONFIG
from probe.whole_files import new_folder

WEIGHTS = "model.safetensors"
OF_THE_OLD_MODEL = (
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "model-*-of-*.safetensors",
    "*.safetensors.index.json",
)
"""Files of a replaced model that would be taken for parts of the new one."""


@checked
def save_model(model: GPT, folder: str | os.PathLike[str]) -> Path:
    """Write config.json, model.safetensors and the tokenizer, if there is one; returns the folder.

    `load_model(folder)` gives the same model bit for bit, and `AutoModelForCausalLM.from_pretrained(folder)`
    one with the same logits.

    Raises:
        UnsupportedModel: no family of Hugging Face computes this config; the message names what.
        NotSaved: the folder holds other things than a model, or cannot be written; nothing is left behind.
    """
    folder = Path(folder)
    values, family = write_config(model.config)
    values |= _facts_for_transformers(model)
    _check_place(folder)
    with new_folder(folder) as part:
        try:
            save_file(their_tensors(model, family), part / WEIGHTS, metadata={"format": "pt"})
            (part / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            if model.tokenizer is not None:
                model.tokenizer.save(part)
            _move(part, folder)
        except (OSError, SafetensorError) as error:
            raise NotSaved(f"cannot write {folder}: {error}") from error
    return folder


def _facts_for_transformers(model: GPT) -> dict[str, object]:
    """What this GPT does not read, but transformers would guess wrongly: dtype (in both spellings) and token ids."""
    kind, tokenizer = str(model.dtype).removeprefix("torch."), model.tokenizer
    bos, eos = (None, None) if tokenizer is None else (tokenizer.bos_id, tokenizer.eos_id)
    return {"dtype": kind, "torch_dtype": kind, "bos_token_id": bos, "eos_token_id": eos}


def _check_place(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotSaved(f"{folder} is a file; choose a folder that does not exist yet")
    if any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise NotSaved(f"{folder} holds other things than a model; choose another folder, nothing was written")


def _move(part: Path, folder: Path) -> None:
    """Into a folder that holds a model, file by file: a folder cannot take the place of one that is not empty."""
    if not folder.exists():
        os.replace(part, folder)
        return
    written = {path.name for path in part.iterdir()}
    for path in sorted(part.iterdir(), key=lambda path: path.name == CONFIG):  # config.json last: it makes the model
        os.replace(path, folder / path.name)
    for pattern in OF_THE_OLD_MODEL:
        for path in folder.glob(pattern):
            if path.name not in written and path.is_file():
                path.unlink()
