"""Tensors in files, one at a time: named, checked, and copied into our parameters."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from probe.config import GPTConfig
from probe.errors import BrokenFile, UnsupportedModel
from probe.gpt import GPT

CONFIG = "config.json"
"""The file in a folder that says which model its weights are of."""
STORED_AS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of plain numbers."""


@runtime_checkable
class TensorSource(Protocol):
    """Where tensors come from: files, or a module in memory."""

    shapes: dict[str, tuple[int, ...]]
    """Every tensor there is."""

    def read(self, name: str) -> Tensor:
        """One of them; it may share memory with the source."""
        ...

    def place(self, name: str) -> str:
        """Where it stands, for messages."""
        ...


class SafetensorsFiles:
    """All tensors of one or many safetensors files, read one at a time. Use in a `with`.

    Raises:
        BrokenFile: a file that is truncated or corrupt, or a tensor that two files hold.
    """

    def __init__(self, paths: list[Path]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, tuple[Path, Any]] = {}
        self._open = ExitStack()
        for path in paths:
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            file = self._open.enter_context(safe_open(path, framework="pt", device="cpu"))
            for name in file.keys():
                if name in self._files:
                    raise BrokenFile(f"{path}: tensor {name} is also in {self._files[name][0].name}")
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
                self._files[name] = (path, file)
        except (SafetensorError, OSError) as error:
            raise BrokenFile(f"{path}: truncated, corrupt or no safetensors file ({error})") from error

    def read(self, name: str) -> Tensor:
        path, file = self._files[name]
        try:
            return file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise BrokenFile(f"{path}: tensor {name} cannot be read ({error})") from error

    def place(self, name: str) -> str:
        return str(self._files[name][0])

    def __enter__(self) -> "SafetensorsFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self._files.clear()
        self._open.close()


def empty_model(config: GPTConfig, name: str, tokenizer: Any = None) -> GPT:
    """A model whose parameters have shapes but no memory yet; nothing is drawn."""
    with torch.device("meta"):
        return GPT(config, tokenizer=tokenizer, name=name)


def check_shapes(source: TensorSource, expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise BrokenFile unless these tensors have these shapes."""
    wrong = [
        f"{name} is {source.shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if source.shapes[name] != shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 4} more)" if len(wrong) > 4 else ""
        raise BrokenFile(f"{where}: {len(wrong)} of the wrong shape for its config: {'; '.join(wrong[:4])}{more}")


def checked_tensor(source: TensorSource, name: str) -> Tensor:
    """One tensor, if it holds finite plain numbers.

    Raises:
        UnsupportedModel: numbers of another type, such as quantised ones, or none at all.
        BrokenFile: NaN or infinity.
    """
    tensor = source.read(name)
    if tensor.dtype not in STORED_AS:
        raise UnsupportedModel(
            f"{source.place(name)}: {name} is stored as {tensor.dtype}; only plain floats are read, nothing quantised"
        )
    if tensor.is_meta:
        raise UnsupportedModel(f"{source.place(name)}: {name} is on the meta device, it holds no numbers")
    if not is_finite(tensor):
        raise BrokenFile(f"{source.place(name)}: {name} holds NaN or infinity")
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite: smallest and largest say so, in one pass and without a mask."""
    return all(torch.isfinite(end).item() for end in tensor.aminmax())


def own_copy(view: Tensor, dtype: torch.dtype, device: torch.device, *, place: str) -> Tensor:
    """The numbers copied to memory of our own. A view of a mapped file or of another module would change with it."""
    fresh = torch.empty(view.shape, dtype=dtype, device=device)
    fresh.copy_(view)
    if torch.finfo(dtype).max < torch.finfo(view.dtype).max and not is_finite(fresh):
        raise UnsupportedModel(f"{place}: a weight is too large for {dtype}; use bfloat16 or float32")
    return fresh


def set_parameter(model: GPT, name: str, value: Tensor) -> None:
    """Put a tensor in a parameter's place."""
    module, leaf = name.rsplit(".", 1)
    setattr(model.get_submodule(module), leaf, nn.Parameter(value))


def other_tensors(where: str, config: str, missing: list[str], surplus: list[str], hint: str = "") -> BrokenFile:
    """The error that names the tensors that are missing, and those that no model of this config has."""
    faults = [f"{_first_of(missing)} missing"] * bool(missing) + [f"{_first_of(surplus)} surplus"] * bool(surplus)
    return BrokenFile(f"{where}: the tensors do not fit {config}: {'; '.join(faults)}{hint}")


def _first_of(names: list[str]) -> str:
    """``3 tensors (a, b, c)``, of many only the first few."""
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} tensor{'s' * (len(names) != 1)} ({shown})"
