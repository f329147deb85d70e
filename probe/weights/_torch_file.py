"""What torch saved, read by its weights-only loader, which builds tensors and plain values and runs none of the file.

Configs and numbers of numpy's, which many files hold beside the tensors, are read as the values they have, by classes
of this module that stand for theirs.
"""

import mmap
import pickle
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probe.errors import BrokenFile, UnsupportedModel

_ONE_AT_A_TIME = threading.Lock()


class SavedConfig:
    """Stands for HookedTransformerConfig in a file that holds one: its values, and none of its code."""


class SavedKind:
    """Stands for numpy.dtype in a file: the name of a plain number's type. The real one takes a state that numpy
    trusts, and with it a file could have any address read."""

    def __init__(self, kind: object, *_: object):
        self.kind, self.order = kind, "="

    def __setstate__(self, state: object) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else None

    @property
    def size(self) -> int:
        """Bytes of a number of this type; 0: it is none that is read."""
        plain = (
            isinstance(self.kind, str) and re.fullmatch("[fiu][1248]|b1", self.kind) and self.order in ("<", "|", "=")
        )
        return int(str(self.kind)[1:]) if plain else 0


def saved_number(kind: object, raw: object) -> int | float | bool:
    """Stands for what makes a number of numpy's: its bytes, as a number of Python's."""
    if not isinstance(kind, SavedKind) or not isinstance(raw, bytes) or not kind.size == len(raw) > 0:
        raise pickle.UnpicklingError("a number of numpy's that is no plain one")
    return np.frombuffer(raw, dtype=str(kind.kind))[0].item()


class SavedArray:
    """Stands for an array of numpy's, such as the losses of a training run: there is one, and nobody asks for it."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


STAND_INS = [
    (SavedConfig, "transformer_lens.HookedTransformerConfig.HookedTransformerConfig"),
    (SavedConfig, "transformer_lens.config.HookedTransformerConfig.HookedTransformerConfig"),
    (SavedConfig, "transformer_lens.config.hooked_transformer_config.HookedTransformerConfig"),
    (SavedConfig, "easy_transformer.EasyTransformerConfig.EasyTransformerConfig"),
    (SavedKind, "numpy.dtype"),
    *((saved_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((SavedArray, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (SavedArray, "numpy.ndarray"),
]
"""What the loader may make besides tensors and plain values: classes of this file, for names of others."""


def load_saved(file: Path) -> Any:
    """What torch saved: tensors and plain values, and stand-ins for a few classes; nothing in the file is run.

    Raises:
        UnsupportedModel: it holds something else, or was pickled by another protocol.
        BrokenFile: it cannot be read, is truncated or damaged, or asks for more memory than it has bytes.
    """
    _check_file(file)
    try:
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(STAND_INS):  # torch keeps one list for the whole process
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive or pickle fails in as many ways as there are bytes
        reason = error.__context__ or error  # torch's own message is about its arguments
        asked = re.search(r"GLOBAL (\S+)", str(reason)) if isinstance(error, pickle.UnpicklingError) else None
        if "Unsupported operand" in str(reason):
            raise UnsupportedModel(
                f"{file}: pickled by another protocol than torch's own; save it by torch.save again"
            ) from error
        if asked is None:
            message = next((line.strip() for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
            raise BrokenFile(f"{file}: truncated, corrupt or nothing that torch saved ({message[:200]})") from error
        raise UnsupportedModel(
            f"{file}: it holds more than tensors and plain values: reading it would run {asked[1]}, and no code that a "
            "file names is ever run; save the state dict and cfg.to_dict() alone"
        ) from error


def _check_file(file: Path) -> None:
    """Raise BrokenFile for what would take more memory than it has bytes, before anything is made of it.

    torch saves entries as they are, so that none is larger than the file; and its loader makes a `bytearray` of any
    size that a file asks for.
    """
    if not file.is_file():  # a pipe would be waited for
        raise BrokenFile(f"{file}: no file")
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            asks = data.find(b"bytearray") >= 0
        entries = zipfile.ZipFile(file).infolist() if zipfile.is_zipfile(file) else []
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # ValueError: it is empty
        raise BrokenFile(f"{file}: truncated, corrupt or nothing that torch saved ({error})") from error
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if asks or packed or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise BrokenFile(f"{file}: it asks for more memory than it has bytes; torch saves no such file")
