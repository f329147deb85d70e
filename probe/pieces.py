"""Long work in pieces: given a folder, each finished piece is kept there, and the same call again does only the rest.

A piece is a few tensors under a name. Its file appears whole or not at all, so an interruption costs one piece at most.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from probe.errors import BrokenFile, NotSaved
from probe.json_files import read_object
from probe.store import read_tensors, write_tensors
from probe.whole_files import is_left_over

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
        try:
            write_tensors(self._file(name), tensors)
        except NotSaved as error:
            raise NotSaved(f"{error}; the pieces before it are kept") from error

    def get(self, name: str) -> dict[str, Tensor]:
        """A piece that was kept.

        Raises:
            BrokenFile: its file was changed; remove it, and the call does that piece again.
        """
        if self._folder is None:
            return self._memory[name]
        try:
            return read_tensors(self._file(name))
        except BrokenFile as error:
            raise BrokenFile(f"{error}; remove it, and that piece is done again") from error

    def _file(self, name: str) -> Path:
        assert self._folder is not None, "only pieces on disk have files"
        return self._folder / f"{name}.safetensors"

    def _claim(self, folder: Path) -> None:
        """Make the folder this work's own, or find that it is already."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob("*.part"):
                if is_left_over(left):
                    left.unlink(missing_ok=True)
            others = [path.name for path in folder.iterdir() if path.name != WORK and path.suffix != ".part"]
            if not (folder / WORK).exists():
                if others:
                    raise NotSaved(f"{folder} holds other things ({others[0]}); give this work a folder of its own")
                self._write_arguments(folder)
            self._compare(read_object(folder / WORK).get("arguments"))
        except OSError as error:
            if isinstance(error, NotSaved):
                raise
            raise NotSaved(f"cannot write into {folder}: {error.strerror}") from error

    def _write_arguments(self, folder: Path) -> None:
        """Whole or not at all, and never over those of another call that began in the same moment."""
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8") as part:
            json.dump({"arguments": self._arguments}, part, indent=1)
        try:
            os.link(part.name, folder / WORK)  # a move would take the place of theirs
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            shutil.copyfile(part.name, folder / WORK)
        finally:
            os.unlink(part.name)

    def _compare(self, theirs: Any) -> None:
        if not isinstance(theirs, dict):
            raise BrokenFile(f"{self._folder}: its {WORK} names no arguments; it was changed")
        if theirs == self._arguments:
            return
        names = sorted({*theirs, *self._arguments})
        name = next(name for name in names if theirs.get(name) != self._arguments.get(name))
        there, here = (str(arguments.get(name))[:60] for arguments in (theirs, self._arguments))
        raise NotSaved(
            f"{self._folder} holds the pieces of another call: {name} was {there} there and is {here} here; "
            "choose another folder, or remove that one"
        )
