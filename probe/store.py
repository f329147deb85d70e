"""Results on disk: a folder with tensors (safetensors) or tables (CSV), and a manifest (JSON). Never pickle.

A folder appears whole or not at all: it is written beside its place under another name and moved there at the end.
Every file in it has its checksum in SHA256SUMS, which is compared when the folder is read, and which anybody can check
with ``sha256sum -c SHA256SUMS``. Files of tensors that stand alone carry theirs inside.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from probe.arguments import checked
from probe.errors import BrokenFile, NotSaved
from probe.json_files import read_object
from probe.whole_files import check_writable, lock_beside, new_file, new_folder, sha256_of

TENSORS, MANIFEST, SUMS = "tensors.safetensors", "manifest.json", "SHA256SUMS"


@checked
def save_result(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> Path:
    """Write tensors and manifest, so that any later change is found.

    Raises:
        NotSaved: the folder holds something already, or cannot be written (no right, no space).
    """

    def write(part: Path) -> None:
        save_file(_apart(tensors), part / TENSORS)
        _sync(part / TENSORS)
        _write_synced(part / MANIFEST, manifest_text(manifest))

    return _write_folder(Path(folder), write)


@checked
def save_files(folder: str | os.PathLike[str], files: Mapping[str, str]) -> Path:
    """Write texts by file name into a new folder.

    Raises:
        NotSaved: the folder holds something already, or cannot be written (no right, no space).
    """

    def write(part: Path) -> None:
        for name, text in files.items():
            _write_synced(part / name, text)

    return _write_folder(Path(folder), write)


@checked
def check_free(folder: str | os.PathLike[str]) -> Path:
    """Raise NotSaved unless results can be saved there: for the time before long work rather than after it."""
    folder = Path(folder)
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise NotSaved(f"cannot look into {folder}: {error.strerror}") from error
    if taken:
        raise NotSaved(f"{folder} exists and is not empty; nothing was written. Choose another folder or remove it")
    check_writable(folder.parent)
    return folder


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as JSON."""
    return json.dumps(manifest, indent=1, ensure_ascii=False)


@checked
def load_result(folder: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and manifest of a folder that `save_result` wrote.

    Raises:
        BrokenFile: something is missing, or has changed since.
    """
    folder = Path(folder)
    for name in (MANIFEST, TENSORS, SUMS):
        if not (folder / name).is_file():
            raise BrokenFile(f"{folder}: no {name} in it, so it is no saved result")
    check_saved(folder)
    try:
        return load_file(folder / TENSORS), read_object(folder / MANIFEST)
    except (SafetensorError, OSError) as error:
        raise BrokenFile(f"{folder / TENSORS}: {error}") from error


@checked
def check_saved(folder: str | os.PathLike[str]) -> None:
    """Raise BrokenFile unless every file saved in this folder is as it was; files added later are no matter."""
    folder = Path(folder)
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BrokenFile(f"{folder / SUMS}: cannot be read ({error})") from error
    names = [line.partition("  ")[2] for line in lines]
    if not lines or not all(name and Path(name).name == name for name in names):
        raise BrokenFile(f"{folder / SUMS}: expected lines of a checksum and a file name; it was changed or cut")
    for line, name in zip(lines, names, strict=True):
        if line != _line_of(folder / name):
            raise BrokenFile(f"{folder / name}: its checksum is not the one in {SUMS}; one of them was changed or cut")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file of tensors that stands alone, whole or not at all, with a checksum of them inside for `read_tensors`.

    Raises:
        NotSaved: it cannot be written.
    """
    apart = _apart({name: tensor.cpu() for name, tensor in tensors.items()})
    try:
        with new_file(path) as part:
            save_file(apart, part, metadata={"sha256": _sha256_of(apart)})
            _sync(part)
    except (OSError, SafetensorError) as error:
        raise NotSaved(f"cannot write {path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote.

    Raises:
        BrokenFile: it cannot be read, or was changed since.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as error:
        raise BrokenFile(f"{path}: {error}") from error
    if expected != _sha256_of(found):
        raise BrokenFile(f"{path}: its checksum is not the one inside; it was changed")
    return found


def _write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder beside the place, then move it there: whole or not at all."""
    check_free(folder)
    with new_folder(folder) as part:
        try:
            write(part)
            _write_synced(part / SUMS, "".join(f"{_line_of(path)}\n" for path in sorted(part.iterdir())))
            os.replace(part, folder)
        except (OSError, SafetensorError) as error:
            raise NotSaved(f"cannot write {folder}: {error}; nothing was left behind") from error
    return folder


def only_process(folder: Path) -> contextlib.AbstractContextManager:
    """Hold a lock beside the folder, for a `with`; another process that holds it is waited for.

    Raises:
        NotSaved: it cannot be made there.
    """
    try:
        return lock_beside(folder)
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        raise NotSaved(f"cannot write into {folder.parent}: {error}") from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values, contiguous and sharing no memory (safetensors refuses shared memory)."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        key = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if key in seen else tensor
        seen.add(key)
    return apart


def _line_of(path: Path) -> str:
    """A file's checksum and name, as sha256sum writes them."""
    try:
        return f"{sha256_of(path)}  {path.name}"
    except OSError as error:
        raise BrokenFile(f"{path}: cannot be read ({error.strerror})") from error


def _sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
