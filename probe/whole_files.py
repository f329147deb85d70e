"""Files and folders that appear whole or not at all, whatever happens while they are written; and who may write them.

What is being written stands beside its place under another name and is moved there at the end, which is one step.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from probe.errors import NotSaved


def check_writable(folder: Path) -> None:
    """Make this folder if it is not there; raise NotSaved unless files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotSaved(f"cannot write into {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise NotSaved(f"cannot write into {folder}: no permission")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place at the end; an error leaves what was there before.

    The name is new each time: another process may be writing the same file. It ends in .part.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder on the same disk, to be filled and then moved to its place; what was not moved is removed at the
    end. What killed processes left there is removed too.

    Raises:
        NotSaved: it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.iterdir():
            if left.name.startswith(f".saving-{folder.name}-") and is_left_over(left):
                shutil.rmtree(left, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".saving-{folder.name}-", dir=folder.parent))
        part.chmod(0o755)
    except OSError as error:
        raise NotSaved(f"cannot write into {folder.parent}: {error.strerror}") from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_left_over(path: Path) -> bool:
    """Whether what was being written here has not been touched for an hour: whoever wrote it was killed."""
    try:
        return time.time() - path.stat().st_mtime > 3600
    except OSError:  # another process was faster
        return False


def lock_beside(path: Path, *, waiting: Callable[[], object] = lambda: None) -> contextlib.AbstractContextManager:
    """Hold a lock beside this file or folder, for a `with`. The system releases it when a process dies, however it
    dies. `waiting` is called if another process holds it, and then it is waited for.

    Raises:
        OSError: it cannot be made there.
        NotImplementedError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"))
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        waiting()
        return lock.acquire()


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
