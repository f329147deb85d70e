"""A GGUF file: its metadata, its table of tensors, and each tensor as float32.

Nothing in the file is believed: every length and offset is compared with the file's size before it is used, so that a
damaged file costs an error, never memory or time. Big-endian files and version 1 are not read.
The file is mapped, not read: the header of a model with 50,000 tokens takes 0.1 s (the `gguf` package's own reader,
which makes several objects of every string, 5 s); that package turns quantised blocks into numbers.

Source: the GGUF specification of the ggml project, versions 2 and 3.
"""

import math
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from probe.errors import BrokenFile, UnsupportedModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_DIMS = 4
MOST_NESTING = 4
"""Arrays of arrays of arrays ...: more than any file needs, few enough for Python's stack."""
ELEMENTS_AT_ONCE = 1 << 18
"""Numbers dequantised in one step: few enough that the temporary arrays stay small. Measured: 2^20 takes 1.4 times as
long, most of it spent on fresh memory; the `gguf` package's own 16 rows at a time take twice as long."""

_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LEAST_BYTES = {kind: np.dtype(code).itemsize for kind, code in _NUMBERS.items()} | {_BOOL: 1, _STRING: 8, _ARRAY: 12}
_LEAST_ENTRY = 8 + 4 + 1  # key length, type, value
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # name length, number of dims, one dim, type, offset


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor stands in the file."""

    name: str
    shape: tuple[int, ...]
    """Outermost first, as numpy and torch count; the file counts the other way round."""
    type: GGMLQuantizationType
    start: int
    """Bytes from the start of the file."""
    size: int
    """Bytes in the file."""


class GGUFFile:
    """An open GGUF file.

    Raises:
        BrokenFile: it is not GGUF, or damaged: the message says where and what was expected.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 24:  # magic, version and two counts; an empty file could not even be mapped
                raise BrokenFile(f"{self.path} is no GGUF file: {size} bytes are less than the header takes")
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        header = _Header(self.path, self._data)
        self.metadata: dict[str, Any] = header.metadata
        self.tensors: dict[str, TensorEntry] = header.tensors

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor's numbers, dequantised: a fresh array.

        Raises:
            BrokenFile: a number is infinite or not a number.
            UnsupportedModel: a type that holds no weights, or that cannot be dequantised.
        """
        entry = self.tensors[name]
        block, size_of_block = GGML_QUANT_SIZES[entry.type]
        raw = np.frombuffer(self._data, np.uint8, entry.size, entry.start)
        values = np.empty(math.prod(entry.shape), np.float32)
        step = max(ELEMENTS_AT_ONCE // block, 1)
        with np.errstate(all="ignore"):  # damaged scales overflow; the result is checked
            for first in range(0, entry.size // size_of_block, step):
                piece = raw[first * size_of_block : (first + step) * size_of_block]
                numbers = values[first * block : (first + step) * block]
                numbers[:] = self._expand(piece, entry)
                if not (math.isfinite(numbers.min()) and math.isfinite(numbers.max())):
                    raise BrokenFile(f"{self.path}: tensor {name!r} holds a number that is infinite or not a number")
        return values.reshape(entry.shape)

    def _expand(self, piece: NDArray[np.uint8], entry: TensorEntry) -> NDArray[np.floating]:
        if entry.type == GGMLQuantizationType.F64:
            return piece.view("<f8")
        if entry.type in _INTEGERS:
            raise UnsupportedModel(
                f"{self.path}: tensor {entry.name!r} holds integers ({entry.type.name}), not weights"
            )
        try:
            return dequantize(piece[None], entry.type)[0]
        except NotImplementedError as error:
            raise UnsupportedModel(f"{self.path}: tensor {entry.name!r} has type {entry.type.name}: {error}") from error


_INTEGERS = tuple(GGMLQuantizationType[name] for name in ("I8", "I16", "I32", "I64"))


class _Header:
    """Reads the header from the front, keeping the position."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.size, self.position = path, data, len(data), 0
        n_tensors, n_entries = self.read_counts()
        self.metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            self.read_entry()
        found = [self.read_tensor() for _ in range(n_tensors)]
        self.tensors = self.place(found)

    def fail(self, message: str) -> NoReturn:
        raise BrokenFile(f"{self.path}, byte {self.position:,} of {self.size:,}: {message}")

    def need(self, count: int, what: str) -> None:
        if count > self.size - self.position:
            self.fail(
                f"{what} would take {count:,} bytes, but only {self.size - self.position:,} are left: "
                "the file is truncated or damaged"
            )

    def number(self, code: str, what: str) -> Any:
        size = struct.calcsize(code)
        self.need(size, what)
        (value,) = struct.unpack_from(code, self.data, self.position)
        self.position += size
        return value

    def string(self, what: str) -> str:
        return self.strings(1, what)[0]

    def strings(self, count: int, what: str) -> list[str]:
        """The one loop that matters for speed: a vocabulary and its merges are 100,000 strings."""
        found, data, unpack = [], self.data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            self.need(8, f"the length of {what}")
            (length,) = unpack(data, self.position)
            self.position += 8
            self.need(length, what)
            text = data[self.position : self.position + length]
            try:
                found.append(text.decode())
            except UnicodeDecodeError:
                self.fail(f"{what} is not UTF-8 text: {text[:40]!r}")
            self.position += length
        return found

    def read_counts(self) -> tuple[int, int]:
        magic = self.data[:4]
        if magic != MAGIC:
            self.fail(f"expected a GGUF file, which begins with {MAGIC!r}, got {magic!r}")
        self.position = 4
        version = self.number("<I", "the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            self.fail(f"GGUF version {version}: expected 2 or 3" + (" (this file is big-endian)" if swapped else ""))
        n_tensors, n_entries = self.number("<Q", "the tensor count"), self.number("<Q", "the metadata count")
        self.need(n_entries * _LEAST_ENTRY + n_tensors * _LEAST_TENSOR, f"{n_entries:,} entries, {n_tensors:,} tensors")
        return n_tensors, n_entries

    def read_entry(self) -> None:
        key = self.string("a metadata key")
        if key in self.metadata:
            self.fail(f"metadata key {key!r} comes twice")
        self.metadata[key] = self.value(self.number("<I", f"the type of {key!r}"), key)

    def value(self, kind: int, key: str, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self.numbers(kind, 1, key)[0].item()
        if kind == _BOOL:
            return bool(self.number("<B", key))
        if kind == _STRING:
            return self.string(f"the value of {key!r}")
        if kind != _ARRAY or depth == MOST_NESTING:
            self.fail(f"metadata {key!r} has type {kind}, nested {depth} deep: GGUF has types 0 to 12")
        kind, count = self.number("<I", f"the type of {key!r}"), self.number("<Q", f"the length of {key!r}")
        self.need(count * _LEAST_BYTES.get(kind, 1), f"the {count:,} values of {key!r}")
        if kind in _NUMBERS:
            return self.numbers(kind, count, key)
        if kind == _STRING:
            return self.strings(count, f"an entry of {key!r}")
        return [self.value(kind, key, depth + 1) for _ in range(count)]

    def numbers(self, kind: int, count: int, key: str) -> NDArray[Any]:
        dtype = np.dtype(_NUMBERS[kind])
        self.need(count * dtype.itemsize, f"the value of {key!r}")
        values = np.frombuffer(self.data, dtype, count, self.position).copy()
        self.position += values.nbytes
        return values

    def read_tensor(self) -> TensorEntry:
        """One line of the tensor table; `start` still counts from the start of the tensor data."""
        name = self.string("a tensor's name")
        n_dims = self.number("<I", f"the number of dims of tensor {name!r}")
        if not 1 <= n_dims <= MOST_DIMS:
            self.fail(f"tensor {name!r} has {n_dims} dims: expected 1 to {MOST_DIMS}")
        dims = [self.number("<Q", f"a dim of tensor {name!r}") for _ in range(n_dims)]
        kind, offset = self.number("<I", f"the type of tensor {name!r}"), self.number("<Q", f"the offset of {name!r}")
        if kind not in _TYPES:
            self.fail(f"tensor {name!r} has type {kind}, which ggml does not define")
        block, size_of_block = GGML_QUANT_SIZES[_TYPES[kind]]
        if 0 in dims or dims[0] % block:
            self.fail(f"tensor {name!r} has dims {dims}: the first must be a multiple of {block}, none may be 0")
        size = math.prod(dims) // block * size_of_block
        return TensorEntry(name, tuple(reversed(dims)), _TYPES[kind], offset, size)

    def place(self, tensors: list[TensorEntry]) -> dict[str, TensorEntry]:
        """The tensors by name, at their place in the file: inside it, and none over another."""
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            self.fail(f"general.alignment is {alignment!r}: expected a whole number of at least 1")
        data_start = -(-self.position // alignment) * alignment
        placed: dict[str, TensorEntry] = {}
        end = data_start
        for tensor in sorted(tensors, key=lambda tensor: tensor.start):
            start = data_start + tensor.start
            if tensor.name in placed:
                self.fail(f"tensor {tensor.name!r} comes twice")
            if start < end:
                self.fail(f"tensor {tensor.name!r} begins at byte {start:,}, inside the one before it")
            end = start + tensor.size
            if end > self.size:
                self.fail(
                    f"tensor {tensor.name!r} takes bytes {start:,} to {end:,}, but the file ends at {self.size:,}: "
                    "it is truncated or damaged"
                )
            placed[tensor.name] = TensorEntry(tensor.name, tensor.shape, tensor.type, start, tensor.size)
        return placed


_TYPES = {int(kind): kind for kind in GGMLQuantizationType}
