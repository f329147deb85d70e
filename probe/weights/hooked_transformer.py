"""Checkpoints of TransformerLens's HookedTransformer, which its version 4 no longer loads: a state dict and its config.

A state dict that torch saved is read by torch's weights-only loader, which builds tensors and plain values and runs no
code of the file; the config object that many files hold beside it is read as the values it has. Heads stand apart in
these tensors, (head, d_model, d_head), and side by side in ours.
"""

import contextlib
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.arguments import brief
from probe.config import GPTConfig
from probe.errors import BrokenFile, UnsupportedModel
from probe.gpt import GPT
from probe.json_files import read_object
from probe.weights._hf_tensors import TensorSource, checked_tensor, first_of, own_copy, set_parameter
from probe.weights._hooked_config import gains_are_folded, is_hooked_config, read_hooked_config
from probe.weights.huggingface import CONFIG, SafetensorsFiles, empty_model

ENDINGS = (".pt", ".pth")
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before every name: data-parallel training, compilation, a module around the model."""
NO_WEIGHTS = (".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos")
"""Tensors that follow from the config."""
GIVE_CONFIG = (
    "give it: load_model(path, config={...}) with the arguments of HookedTransformerConfig, or those as config.json "
    "beside the file"
)


class SavedConfig:
    """Stands for HookedTransformerConfig in a file that holds one: its values, and none of its code."""

    def to_dict(self) -> dict[str, Any]:
        """As the original's."""
        return dict(vars(self))


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds."""

    config: GPTConfig
    folded: bool
    """Whether its norms have no gains."""
    tensors: TensorSource
    where: str


class StateDict:
    """The tensors of a state dict; each stands whole in its file."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path):
        self._tensors, self._path = tensors, path
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        tensor = self._tensors[name].detach()
        if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise BrokenFile(f"{self._path}: tensor {name} is larger than what the file holds of it")
        return tensor

    def place(self, name: str) -> str:
        return str(self._path)


@dataclass(frozen=True)
class Stored:
    """One of their tensors, and our parameter."""

    name: str
    ours: str
    by_head: str = ""
    """How heads stand there: "reads" (head, d_model, d_head); "writes" (head, d_head, d_model); "bias" (head, d_head);
    empty: none do."""

    def shape(self, config: GPTConfig, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Theirs, of ours."""
        size = config.d_head
        return {
            "": ours,
            "reads": (ours[-1] // size, ours[0], size),
            "writes": (ours[0] // size, size, ours[-1]),
            "bias": (ours[0] // size, size),
        }[self.by_head]

    def turned(self, theirs: Tensor) -> Tensor:
        """Ours, of theirs."""
        if self.by_head == "reads":
            return theirs.movedim(0, 1).flatten(1)
        return theirs.flatten(0, 1) if self.by_head else theirs


def load_hooked_transformer(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | str | os.PathLike[str] | Any = None,
    name: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GPT:
    """The model in a state dict of HookedTransformer, without a tokenizer.

    Args:
        path: a .pt or .pth file, or a folder with one of them or with safetensors.
        config: the values of its HookedTransformerConfig, or a JSON file that holds them. None: those in the file, else
            those of a .json of the same name, else those of config.json beside it.

    Raises:
        UnsupportedModel: a setting that this GPT does not compute; no config; a file that needs code to be read.
        BrokenFile: truncated, damaged, or tensors that do not fit the config.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        checkpoint = _open(path, config, stack)
        if checkpoint.config.n_layers > len(checkpoint.tensors.shapes):  # found before so many layers are made
            raise BrokenFile(
                f"{path}: {checkpoint.config.n_layers:,} layers, but {len(checkpoint.tensors.shapes):,} tensors"
            )
        model = empty_model(checkpoint.config, name or path.resolve().stem)
        _fill(model, checkpoint, dtype, torch.device(device))
    return model.to(device=device, dtype=dtype)  # also what is no weight, such as a gain of 1


def read_config_of(path: str | os.PathLike[str], *, config: Any = None) -> GPTConfig:
    """The config of the model in a file or folder. Raises as `load_hooked_transformer`."""
    with contextlib.ExitStack() as stack:
        return _open(Path(path), config, stack).config


def is_hooked_folder(folder: Path) -> bool:
    """Whether the config.json of a folder is one of HookedTransformer's."""
    path = folder / CONFIG
    return path.is_file() and is_hooked_config(read_object(path))


def _open(path: Path, given: Any, stack: contextlib.ExitStack) -> Checkpoint:
    tensors: TensorSource
    if path.is_dir() and (safe := sorted(path.glob("*.safetensors"))):
        tensors = stack.enter_context(SafetensorsFiles(safe))
        values, where = _config_values(given, {}, path / CONFIG), str(path)
    else:
        file = _only_file(path) if path.is_dir() else path
        saved = _load(file)
        tensors = StateDict(_state_dict(saved, file), file)
        values, where = _config_values(given, saved, file), str(file)
    embedding = tensors.shapes.get("embed.W_E")
    has_b_U = "unembed.b_U" in tensors.shapes and bool(tensors.read("unembed.b_U").any())  # a bias of zeros is none
    config = read_hooked_config(values, d_vocab=embedding[0] if embedding else None, has_b_U=has_b_U, source=where)
    return Checkpoint(config, gains_are_folded(values), tensors, where)


def the_checkpoint(names: Iterable[str]) -> str | None:
    """The file that is meant among these names: the only one, or the only one whose name ends in "final"; else None."""
    files = [name for name in names if name.endswith(ENDINGS)]
    final = [name for name in files if Path(name).stem.endswith("final")]
    chosen = final if len(final) == 1 else files
    return chosen[0] if len(chosen) == 1 else None


def _only_file(folder: Path) -> Path:
    names = sorted(path.name for path in folder.iterdir())
    chosen = the_checkpoint(names)
    if chosen is None:
        found = ", ".join(name for name in names if name.endswith(ENDINGS)) or "none"
        raise UnsupportedModel(
            f"{folder}: expected one .pt, .pth or .safetensors file, found {found}; give the path of one"
        )
    return folder / chosen


def _config_values(given: Any, saved: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """The settings: those given, those saved with the weights, or those of a JSON file beside them."""
    where = "config"
    if isinstance(given, (str, os.PathLike)):
        given, where = read_object(Path(given)), str(given)
    if given is None:
        found = [value for value in map(_as_mapping, saved.values()) if is_hooked_config(value)]
        beside = [path for path in (file.with_suffix(".json"), file.parent / CONFIG) if path.is_file()]
        found += [values for values in map(read_object, beside) if is_hooked_config(values)]
        if not found:
            raise UnsupportedModel(f"{file}: a state dict without the config of its HookedTransformer; {GIVE_CONFIG}")
        given, where = found[0], str(file)
    values = _as_mapping(given)
    if not is_hooked_config(values):
        raise UnsupportedModel(
            f"{where}: {brief(given)} is no config of HookedTransformer, which has n_layers, d_model, d_head, ..."
        )
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def _as_mapping(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _state_dict(saved: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in what was saved: itself, or one of its values; named without what wrappers put before it."""
    inside = [saved, *(saved.values() if isinstance(saved, Mapping) else [])]
    for values in inside:
        if isinstance(values, Mapping) and all(isinstance(name, str) for name in values):
            for prefix in ("", *PREFIXES):
                if isinstance(values.get(f"{prefix}embed.W_E"), Tensor):
                    tensors = {name.removeprefix(prefix): value for name, value in values.items()}
                    return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    raise UnsupportedModel(
        f"{file}: no state dict of HookedTransformer in it (there is no tensor embed.W_E); of a Hugging Face model, "
        "give its folder with config.json and safetensors"
    )


def _load(file: Path) -> Any:
    """What torch saved; nothing in the file is run."""
    scalar: Any = np.float64(0).__reduce__()[0]  # what numpy's own numbers are saved with: a type and some bytes
    allowed = [
        (SavedConfig, "transformer_lens.HookedTransformerConfig.HookedTransformerConfig"),
        (SavedConfig, "easy_transformer.EasyTransformerConfig.EasyTransformerConfig"),
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    ]
    try:
        file.open("rb").close()
    except OSError as error:
        raise BrokenFile(f"{file}: cannot be read ({error.strerror})") from error
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise BrokenFile(f"{file}: truncated, corrupt or nothing that torch saved ({_line(error)})") from error
        raise UnsupportedModel(
            f"{file}: it holds more than tensors and plain values: reading it would run {asked[1]}, and no code that a "
            "file names is ever run; save the state dict and cfg.to_dict() alone"
        ) from error
    except Exception as error:  # a damaged archive or pickle fails in as many ways as there are bytes
        raise BrokenFile(f"{file}: truncated, corrupt or nothing that torch saved ({_line(error)})") from error


def _line(error: Exception) -> str:
    """The beginning of torch's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _fill(model: GPT, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
    tensors, where = checkpoint.tensors, checkpoint.where
    wanted = {stored.ours: stored for stored in _stored(model, checkpoint)}
    names = {stored.name for stored in wanted.values()}
    optional = {"unembed.b_U"}
    missing = [name for name in names if name not in tensors.shapes]
    surplus = [name for name in tensors.shapes if name not in names | optional and not name.endswith(NO_WEIGHTS)]
    if missing or surplus:
        faults = [f"{first_of(missing)} missing"] * bool(missing) + [f"{first_of(surplus)} surplus"] * bool(surplus)
        raise BrokenFile(f"{where}: the tensors do not fit the config: {'; '.join(faults)}")
    sizes = {ours: tuple(parameter.shape) for ours, parameter in model.named_parameters()}
    for ours, stored in wanted.items():
        came, expected = tensors.shapes[stored.name], stored.shape(model.config, sizes[ours])
        if came != expected:
            raise BrokenFile(f"{where}: {stored.name} is {came}, expected {expected} by the config")
    for ours, size in sizes.items():
        if ours in wanted:
            tensor = wanted[ours].turned(checked_tensor(tensors, wanted[ours].name))
            if model.config.gated_mlp and ours.endswith(".b_in") and tensor.any():
                raise UnsupportedModel(
                    f"{where}: {ours} is not zero: HookedTransformer adds it after the gate, this GPT before it"
                )
        else:  # folded into the weights that follow: gain 1, bias 0
            tensor = torch.full(size, 1.0 if ours.endswith(".w") else 0.0)
        set_parameter(model, ours, own_copy(tensor, dtype, device, place=where))


def _stored(model: GPT, checkpoint: Checkpoint) -> Iterator[Stored]:
    """Every tensor that a checkpoint of this config has."""
    kinds = {"W_Q": "reads", "W_K": "reads", "W_V": "reads", "W_O": "writes", "b_Q": "bias", "b_K": "bias",
             "b_V": "bias"}  # fmt: skip
    for ours, _ in model.named_parameters():
        module, leaf = ours.rsplit(".", 1)
        part = module.rsplit(".", 1)[-1]
        if part in ("ln1", "ln2", "ln_final", "ln") and checkpoint.folded:
            continue
        if leaf == "b_gate":  # theirs has none
            continue
        place = "pos_embed" if leaf == "W_pos" else module
        grouped = f"{place}._{leaf}"  # so they name keys and values that several heads share
        theirs = grouped if grouped in checkpoint.tensors.shapes else f"{place}.{leaf}"
        yield Stored(theirs, ours, kinds.get(leaf, "") if part == "attn" else "")
