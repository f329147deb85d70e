"""Long work in pieces: given a folder, each finished piece is kept there, and the same call again does only the rest.

A piece is a few tensors under a name. Its file appears whole or not at all, so an interruption costs one piece at most.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probe.errors import BrokenFile, NotSaved

WORK = "work.json"


class Pieces:
    """The finished pieces of one piece of work, which its arguments name. Without a folder they live in memory.

    Raises:
        NotSaved: the folder belongs to a call with other arguments (the message names them), or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, arguments: Mapping[str, Any]):
        self._folder = None if folder is None else Path(folder)
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._arguments = json.loads(json.dumps(dict(arguments)))
        if self._folder is not None:
            self._claim(self._folder)

    def __contains__(self, name: str) -> bool:
        return name in self._memory if self._folder is None else self._file(name).exists()

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep one finished piece."""
        if self._folder is None:
            self._memory[name] = dict(tensors)
            return
        part = self._file(name).with_suffix(".part")
        try:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, self._file(name))
        except (OSError, SafetensorError) as error:
            raise NotSaved(f"cannot write {self._file(name)}: {error}; the pieces before it are kept") from error
        finally:
            part.unlink(missing_ok=True)

    def get(self, name: str) -> dict[str, Tensor]:
        """A piece that was kept.

        Raises:
            BrokenFile: its file was changed; remove it, and the call does that piece again.
        """
        if self._folder is None:
            return self._memory[name]
        try:
            with safe_open(self._file(name), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}
        except (OSError, SafetensorError) as error:
            raise BrokenFile(f"{self._file(name)}: {error}; remove it, and that piece is done again") from error

    def _file(self, name: str) -> Path:
        assert self._folder is not None, "only pieces on disk have files"
        return self._folder / f"{name}.safetensors"

    def _claim(self, folder: Path) -> None:
        """Make the folder this work's own, or find that it is already."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = [path.name for path in folder.iterdir() if path.name != WORK and path.suffix != ".part"]
            if (folder / WORK).exists():
                self._compare(json.loads((folder / WORK).read_text(encoding="utf-8")))
                return
            if others:
                raise NotSaved(f"{folder} holds other things ({others[0]}); give this work a folder of its own")
            part = tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8")
            with part:
                json.dump({"arguments": self._arguments}, part, indent=1)
            os.replace(part.name, folder / WORK)
        except OSError as error:
            if isinstance(error, NotSaved):
                raise
            raise NotSaved(f"cannot write into {folder}: {error.strerror}") from error
        except ValueError as error:
            raise BrokenFile(f"{folder / WORK}: not valid JSON ({error})") from error

    def _compare(self, found: Any) -> None:
        theirs = found.get("arguments", {}) if isinstance(found, dict) else {}
        if theirs == self._arguments:
            return
        names = sorted({*theirs, *self._arguments})
        name = next(name for name in names if theirs.get(name) != self._arguments.get(name))
        there, here = (str(arguments.get(name))[:60] for arguments in (theirs, self._arguments))
        raise NotSaved(
            f"{self._folder} holds the pieces of another call: {name} was {there} there and is {here} here; "
            "choose another folder, or remove that one"
        )
