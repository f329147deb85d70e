"""Models in Hugging Face's layout: a folder with config.json and safetensors, or a module in memory.

Pickle files are never opened: reading one can run any code that it holds.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.config import GPTConfig
from probe.errors import BrokenFile, UnsupportedModel
from probe.gpt import GPT
from probe.json_files import read_object
from probe.weights._hf_config import read_config
from probe.weights._hf_family import Family
from probe.weights._hf_tensors import fill_model
from probe.weights._tensors import CONFIG, SafetensorsFiles, empty_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONVERT = (
    "if you trust it, convert it with transformers: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
)


def load_folder(
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    tokenizer: Any = None,
    dtype=torch.float32,
    device: torch.device | str = "cpu",
) -> GPT:
    """The model in a folder that Hugging Face or `save_model` wrote, with this tokenizer: none is read.

    Raises:
        UnsupportedModel: an architecture or setting that this GPT does not compute; weights only as pickle.
        BrokenFile: no config or weights; a file that is truncated or no JSON; tensors that do not fit config.json.
    """
    folder = Path(folder)
    config, family = read_folder_config(folder)
    with SafetensorsFiles(find_weights(folder)) as files:
        if config.n_layers > len(files.shapes):  # found before so many layers are made
            raise BrokenFile(f"{folder}: {config.n_layers:,} layers, but only {len(files.shapes):,} tensors")
        model = empty_model(config, name or folder.resolve().name, tokenizer)
        fill_model(model, family, files, where=str(folder), dtype=dtype, device=torch.device(device))
    return model


def load_module(
    module: Any, *, name: str | None = None, dtype=torch.float32, device: torch.device | str = "cpu"
) -> GPT:
    """A copy of a Hugging Face module in memory; changing the module later changes nothing here.

    Raises:
        UnsupportedModel: a module of another class, or a setting that this GPT does not compute.
        BrokenFile: tensors that do not fit the module's config.
    """
    config, family = read_module_config(module)
    model = empty_model(config, name or module_name(module))
    source = ModuleTensors(module)
    fill_model(model, family, source, where=type(module).__name__, dtype=dtype, device=torch.device(device))
    return model


def read_folder_config(folder: str | os.PathLike[str]) -> tuple[GPTConfig, Family]:
    """The config of the model in a folder; no weights are read.

    Raises:
        BrokenFile: there is no config.json, or it is not a JSON object.
        UnsupportedModel: an architecture or setting that this GPT does not compute.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        gguf = sorted(Path(folder).glob("*.gguf"))
        hint = f"; for the GGUF file in it, give its path: {gguf[0]}" if gguf else ""
        raise BrokenFile(f"{folder}: no {CONFIG} in it, so it is no Hugging Face folder{hint}")
    return read_config(read_object(path), source=str(path))


def read_module_config(module: Any) -> tuple[GPTConfig, Family]:
    """The config of a Hugging Face module in memory; its class decides what it computes, whatever its config says."""
    values = {**module.config.to_dict(), "architectures": [type(module).__name__]}
    return read_config(values, source=type(module).__name__)


def module_name(module: Any) -> str:
    """What results call a module in memory: where it was loaded from, if it knows, else its class."""
    return getattr(module.config, "_name_or_path", "") or type(module).__name__


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: model.safetensors, or those of the index, or all there are.

    Raises:
        UnsupportedModel: the weights are there only as pickle.
        BrokenFile: there are none, or a file of the index is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _files_of_index(folder / INDEX)
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickles = sorted(path.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(ending))
    if pickles:
        raise UnsupportedModel(
            f"{folder}: its weights are pickle files ({', '.join(pickles[:3])}), which can run any code when read and "
            f"so are never read; {CONVERT}"
        )
    raise BrokenFile(f"{folder}: no weights in it; expected {WEIGHTS} or {INDEX}")


def _files_of_index(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map or not all(map(_is_file_name, weight_map.values())):
        raise BrokenFile(f"{index}: expected weight_map, an object from each tensor to the name of a file beside it")
    paths = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise BrokenFile(f"{index}: {len(missing)} of its {len(paths)} files are missing: {', '.join(missing[:4])}")
    return paths


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


class ModuleTensors:
    """The tensors of a module in memory."""

    def __init__(self, module: Any):
        self._tensors: dict[str, Tensor] = module.state_dict()
        self._kind = type(module).__name__
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name].detach()

    def place(self, name: str) -> str:
        return self._kind
