"""State dicts of TransformerLens's HookedTransformer -> a model.

Heads stand apart in these tensors, (head, d_model, d_head), and side by side in ours; of a gated MLP, b_in, which they
add after the gate, goes into b_out.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probe.arguments import brief
from probe.config import GPTConfig
from probe.errors import BrokenFile, UnsupportedModel
from probe.gpt import GPT
from probe.json_files import read_object
from probe.weights._hooked_config import (
    ENDINGS,
    REQUIRED,
    find_checkpoint,
    gains_are_folded,
    is_hooked_config,
    read_hooked_config,
)
from probe.weights._tensors import (
    CONFIG,
    SafetensorsFiles,
    TensorSource,
    check_shapes,
    checked_tensor,
    empty_model,
    other_tensors,
    own_copy,
    set_parameter,
)
from probe.weights._torch_file import SavedConfig, load_saved

PREFIXES = ("", "module.", "_orig_mod.", "model.")
"""What wrappers put before every name: data-parallel training, compilation, a module around the model."""
NO_WEIGHTS = (".attn.mask", ".attn.IGNORE", ".attn.rotary_sin", ".attn.rotary_cos", "unembed.b_U")
"""Ends of names of tensors that a model does not have: they follow from the config, or are a bias of zeros."""
STATE_NAMES = ("model", "state_dict", "model_state_dict")
CONFIG_NAMES = ("config", "cfg", "model_cfg")
"""What a state dict and its config are usually called where they are saved together."""
GIVE_CONFIG = (
    "give it: load_model(path, config={...}) with the arguments of HookedTransformerConfig, or those as config.json "
    "beside the file"
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds."""

    config: GPTConfig
    folded: bool
    """Whether its norms have no gains."""
    tensors: TensorSource
    where: str
    """The file or folder, for messages."""


class StateDict:
    """The tensors of a state dict; each stands whole in its file."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path):
        self._tensors, self._path = tensors, path
        self.shapes = {name: () if tensor.is_nested else tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        tensor = self._tensors[name].detach()
        if tensor.is_nested or tensor.layout != torch.strided:
            raise UnsupportedModel(f"{self._path}: {name} is stored as {tensor.layout}; only dense tensors are read")
        if not tensor.is_meta and tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise BrokenFile(f"{self._path}: {name} is larger than what the file holds of it")
        return tensor

    def place(self, name: str) -> str:
        return str(self._path)


@dataclass(frozen=True)
class HookedTensor:
    """One of their tensors, and the parameter of ours that it becomes."""

    name: str
    ours: str
    by_head: Literal["", "reads", "writes", "bias"] = ""
    """Heads stand apart in it: (head, d_model, d_head), (head, d_head, d_model), (head, d_head). Empty: none do."""

    def their_shape(self, config: GPTConfig, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that it has there, from that of our parameter."""
        size = config.d_head
        return {
            "": ours,
            "reads": (ours[-1] // size, ours[0], size),
            "writes": (ours[0] // size, size, ours[-1]),
            "bias": (ours[0] // size, size),
        }[self.by_head]

    def to_ours(self, theirs: Tensor) -> Tensor:
        """With heads side by side."""
        if self.by_head == "reads":
            return theirs.movedim(0, 1).flatten(1)
        return theirs.flatten(0, 1) if self.by_head else theirs


def load_hooked_transformer(
    path: str | os.PathLike[str],
    *,
    config: Any = None,
    name: str | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GPT:
    """The model in a state dict of HookedTransformer, with this tokenizer: none is read.

    Args:
        path: a .pt or .pth file, or a folder with one of them or with safetensors.
        config: the values of its HookedTransformerConfig: a mapping, an object with `to_dict`, or a JSON file. None:
            those saved with the tensors, else those of a .json of the same name, else of config.json beside it.

    Raises:
        UnsupportedModel: a setting that this GPT does not compute; no config; a file that needs code to be read.
        BrokenFile: truncated, damaged, or tensors that do not fit the config.
        UnknownName, BadShape, OutOfRange: settings that exclude each other, or that cannot be.
    """
    path = Path(path)
    with _opened(path, config) as checkpoint:
        n_tensors = len(checkpoint.tensors.shapes)
        if checkpoint.config.n_layers > n_tensors:  # found before so many layers are made
            raise BrokenFile(f"{path}: {checkpoint.config.n_layers:,} layers, but only {n_tensors:,} tensors")
        model = empty_model(checkpoint.config, name or path.resolve().stem, tokenizer)
        _fill(model, checkpoint, dtype, torch.device(device))
    return model.to(device=device, dtype=dtype)  # also what is no weight, such as a gain of 1


def read_config_of(path: str | os.PathLike[str], *, config: Any = None) -> GPTConfig:
    """The config of the model in a file or folder. Raises as `load_hooked_transformer`."""
    with _opened(Path(path), config) as checkpoint:
        return checkpoint.config


@contextmanager
def _opened(path: Path, given: Any) -> Iterator[Checkpoint]:
    if path.is_dir() and (safe := sorted(path.glob("*.safetensors"))):
        with SafetensorsFiles(safe) as files:
            yield _checkpoint(_config_values(given, {}, path / CONFIG), files, str(path))
        return
    file = _only_file(path) if path.is_dir() else path
    saved = load_saved(file)
    tensors = StateDict(_state_dict(saved, file), file)
    yield _checkpoint(_config_values(given, saved, file), tensors, str(file))


def _checkpoint(values: Mapping[str, Any], tensors: TensorSource, where: str) -> Checkpoint:
    embedding = tensors.shapes.get("embed.W_E") or (None,)
    b_U = "unembed.b_U"
    has_b_U = b_U in tensors.shapes and bool(checked_tensor(tensors, b_U).any())  # a bias of zeros is none
    config = read_hooked_config(values, d_vocab=embedding[0], has_b_U=has_b_U, source=where)
    return Checkpoint(config, gains_are_folded(values), tensors, where)


def _only_file(folder: Path) -> Path:
    names = sorted(path.name for path in folder.iterdir())
    chosen = find_checkpoint(names)
    if chosen is None:
        found = ", ".join(name for name in names if name.endswith(ENDINGS)) or "none"
        raise UnsupportedModel(
            f"{folder}: expected one .pt, .pth or .safetensors file, found {found}; give the path of one"
        )
    return folder / chosen


def _config_values(given: Any, saved: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """The settings: those given, those saved with the tensors, or those of a JSON file beside them."""
    where, values = "config", given
    if isinstance(given, (str, os.PathLike)):
        where, values = str(given), read_object(Path(given))
    elif given is None:
        where, values = str(file), _found_config(saved, file)
    elif callable(getattr(given, "to_dict", None)):
        values = given.to_dict()
    if values is None:
        raise UnsupportedModel(f"{file}: a state dict without the config of its HookedTransformer; {GIVE_CONFIG}")
    missing = [name for name in REQUIRED if name not in values] if isinstance(values, Mapping) else list(REQUIRED)
    if missing:
        raise UnsupportedModel(
            f"{where}: {brief(values)} is no config of HookedTransformer: it lacks {', '.join(missing)}"
        )
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def _found_config(saved: Mapping[str, Any], file: Path) -> Mapping[str, Any] | None:
    inside = {name: vars(value) if isinstance(value, SavedConfig) else value for name, value in saved.items()}
    if found := {name: values for name, values in inside.items() if is_hooked_config(values)}:
        return _the_one(found, CONFIG_NAMES, file, "configs", "give the right one with config=")
    for path in (file.with_suffix(".json"), file.parent / CONFIG):
        if path.is_file() and is_hooked_config(values := read_object(path)):
            return values
    return None


def _state_dict(saved: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in what was saved: itself, or one of its values; named without what wrappers put before it."""
    inside = {"": saved, **(saved if isinstance(saved, Mapping) else {})}
    found = {name: tensors for name, values in inside.items() if (tensors := _unwrapped(values))}
    if found:
        return found[""] if "" in found else _the_one(found, STATE_NAMES, file, "state dicts", "save one alone")
    lists = [name for name, values in inside.items() if isinstance(values, list) and any(map(_unwrapped, values))]
    if lists:
        raise UnsupportedModel(f"{file}: state dicts only in a list, {lists[0]!r}; save one of them alone")
    raise UnsupportedModel(
        f"{file}: no state dict of HookedTransformer in it (there is no tensor embed.W_E); of a Hugging Face model, "
        "give its folder with config.json and safetensors"
    )


def _unwrapped(values: Any) -> dict[str, Tensor] | None:
    """The tensors of a state dict, without what wrappers put before their names; None: it is none."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        return None
    prefix = next((one for one in PREFIXES if isinstance(values.get(f"{one}embed.W_E"), Tensor)), None)
    if prefix is None:
        return None
    return {name.removeprefix(prefix): value for name, value in values.items() if isinstance(value, Tensor)}


def _the_one(found: Mapping[str, Any], names: Sequence[str], file: Path, what: str, advice: str) -> Any:
    """The only one of several, or the only one with a usual name."""
    usual = [name for name in found if name in names]
    if len(found) > 1 and len(usual) != 1:
        raise UnsupportedModel(f"{file}: {len(found)} {what}, {', '.join(map(repr, found))}; {advice}")
    return found[usual[0]] if usual else next(iter(found.values()))


def _fill(model: GPT, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
    tensors, where = checkpoint.tensors, checkpoint.where
    sizes = {ours: tuple(parameter.shape) for ours, parameter in model.named_parameters()}
    wanted = {one.ours: one for one in _wanted(model, checkpoint)}
    expected = {one.name: one.their_shape(model.config, sizes[ours]) for ours, one in wanted.items()}
    _check_names(tensors, expected, where)
    check_shapes(tensors, expected, where)

    def read(ours: str) -> Tensor:
        if ours in wanted:
            return wanted[ours].to_ours(checked_tensor(tensors, wanted[ours].name))
        # A gain folded into the weights that follow, or a bias that theirs lack.
        return torch.full(sizes[ours], 1.0 if ours.endswith(".w") else 0.0)

    for ours in sizes:
        tensor, (module, leaf) = read(ours), ours.rsplit(".", 1)
        if model.config.gated_mlp and leaf == "b_in":
            tensor = torch.zeros_like(tensor)
        elif model.config.gated_mlp and leaf == "b_out":  # they add b_in after the gate: a constant, which W_out turns
            constant = read(f"{module}.b_in").double() @ read(f"{module}.W_out").double()
            tensor = tensor + constant.to(tensor.dtype)
        set_parameter(model, ours, own_copy(tensor, dtype, device, place=where))


def _check_names(tensors: TensorSource, expected: Mapping[str, Any], where: str) -> None:
    missing = [name for name in expected if name not in tensors.shapes]
    surplus = [name for name in tensors.shapes if name not in expected and not name.endswith(NO_WEIGHTS)]
    if missing or surplus:
        raise other_tensors(where, "the config", missing, surplus)


def _wanted(model: GPT, checkpoint: Checkpoint) -> Iterator[HookedTensor]:
    """Every tensor that a checkpoint of this config has."""
    by_head: dict[str, Literal["reads", "writes", "bias"]] = {
        **dict.fromkeys(("W_Q", "W_K", "W_V"), "reads"), "W_O": "writes", **dict.fromkeys(("b_Q", "b_K", "b_V"), "bias")
    }  # fmt: skip
    folded = {"ln1", "ln2", "ln_final"} if checkpoint.folded else set()
    # The norm of neurons has a gain only where all norms are LayerNorms.
    if checkpoint.folded or model.config.norm != "layer":
        folded.add("ln")
    for ours, _ in model.named_parameters():
        module, leaf = ours.rsplit(".", 1)
        part = module.rsplit(".", 1)[-1]
        if part in folded or leaf == "b_gate":
            continue
        place = "pos_embed" if leaf == "W_pos" else module
        grouped = f"{place}._{leaf}"  # so they name keys and values that several heads share
        theirs = grouped if grouped in checkpoint.tensors.shapes else f"{place}.{leaf}"
        yield HookedTensor(theirs, ours, by_head.get(leaf, "") if part == "attn" else "")
