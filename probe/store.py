"""Results on disk: a folder with tensors (safetensors) or tables (CSV), and a manifest (JSON). Never pickle.

A folder appears whole or not at all: it is written beside its place under another name and moved there at the end.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probe.arguments import checked
from probe.errors import BrokenFile, NotSaved

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


@checked
def save_result(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> Path:
    """Write tensors and manifest; the manifest gets the sha256 of the tensors, so that any later change is found.

    Raises:
        NotSaved: the folder holds something already, or cannot be written (no right, no space).
    """

    def write(part: Path) -> None:
        save_file(_apart(tensors), part / TENSORS)
        with (part / TENSORS).open("rb+") as file:
            os.fsync(file.fileno())
        _write_synced(part / MANIFEST, manifest_text({**manifest, "sha256": _sha256(part / TENSORS)}))

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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotSaved(f"cannot write into {folder.parent}: {error.strerror}") from error
    if not os.access(folder.parent, os.W_OK):
        raise NotSaved(f"cannot write into {folder.parent}: no permission")
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
    for name in (MANIFEST, TENSORS):
        if not (folder / name).is_file():
            raise BrokenFile(f"{folder}: no {name} in it, so it is no saved result")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenFile(f"{folder / MANIFEST}: not valid JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("sha256") != _sha256(folder / TENSORS):
        raise BrokenFile(
            f"{folder / TENSORS}: its checksum is not the one in {MANIFEST}; one of them was changed or cut"
        )
    try:
        return load_file(folder / TENSORS), manifest
    except SafetensorError as error:
        raise BrokenFile(f"{folder / TENSORS}: {error}") from error


def _write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder beside the place, then move it there: whole or not at all."""
    check_free(folder)
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise NotSaved(f"cannot write into {folder.parent}: {error.strerror}") from error
    try:
        write(part)
        part.chmod(0o755)
        os.replace(part, folder)
    except (OSError, SafetensorError) as error:
        raise NotSaved(f"cannot write {folder}: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
