"""SIGKILL at any moment costs the piece that was being made, and nothing else: all that was finished is whole, nothing
half-made is taken for finished, and the same call goes on from there to the numbers of a call that nobody disturbed.

The processes that are killed are forked from a clean one, which has imported everything.
"""

import multiprocessing
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import probe
from probe import catalogue, fetching
from probe.store import read_tensors
from probe.whole_files import is_left_over
from tests.test_fetching import CONTENT, NAME, build_wheel, entry
from tests.tiny import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL"),
]

PROMPTS = torch.randint(1, 50, (24, 12), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["probe", "probe.methods.ablation", "tests.tiny", "tests.test_fetching"])
    return context


def sweep(folder: Path) -> list[list[float]]:
    torch.set_num_threads(1)
    found = probe.ablation_sweep(
        tiny_model("llama"), PROMPTS, metric=probe.logit_difference(1, 2), folder=folder, memory=400_000, progress=False
    )
    return found.effects.tolist()


def patch(folder: Path) -> list[list[float]]:
    torch.set_num_threads(1)
    found = probe.activation_patching(
        tiny_model("gpt2"), PROMPTS, [[row[0], 49 - row[1], *row[2:]] for row in PROMPTS], ["z", "resid_pre"],
        metric=probe.log_probability(3), folder=folder, memory=400_000, progress=False,
    )  # fmt: skip
    return found.patched.tolist()


def send(work: Callable, connection, *arguments) -> None:
    """What a process does: say that it begins, then what came of it."""
    connection.send("begins")
    connection.send(work(*arguments))


class Process:
    """One that works until it is done or killed."""

    def __init__(self, context, work: Callable, *arguments):
        self.here, there = context.Pipe()
        self.process = context.Process(target=send, args=(work, there, *arguments))
        self.process.start()
        there.close()
        assert self.here.recv() == "begins"

    def killed_after(self, seconds: float) -> bool:
        """Whether it was still at work then."""
        self.process.join(seconds)
        at_work = self.process.is_alive()
        self.process.kill()
        self.process.join()
        assert not at_work or self.process.exitcode in (-signal.SIGKILL, 0)
        self.here.close()
        return self.process.exitcode != 0

    def result_and_seconds(self):
        start = time.perf_counter()
        found = self.here.recv()
        self.process.join()
        return found, time.perf_counter() - start

    def result(self):
        return self.result_and_seconds()[0]


def pieces_in(folder: Path) -> dict[str, bytes]:
    """Every piece, read; a half-made one would not be."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert all(read_tensors(folder / name) for name in found)
    return found


@pytest.mark.parametrize("work", [sweep, patch])
def test_work_killed_many_times_ends_with_the_same_numbers(work, processes, tmp_path):
    expected, took = Process(processes, work, tmp_path / "undisturbed").result_and_seconds()
    n_pieces = len(pieces_in(tmp_path / "undisturbed"))
    assert n_pieces > 20, "enough pieces to be killed between"
    rng, folder, before, kills = random.Random(0), tmp_path / "killed", {}, 0
    for _ in range(25):
        kills += Process(processes, work, folder).killed_after(rng.uniform(0, took / 6))
        after = pieces_in(folder)
        assert before.items() <= after.items(), "what was finished stays as it was"
        before = after
    assert kills > 5 and Process(processes, work, folder).result() == expected
    assert pieces_in(folder) == pieces_in(tmp_path / "undisturbed")


def test_two_processes_at_one_sweep_in_one_folder_both_end_with_its_numbers(processes, tmp_path):
    expected = Process(processes, sweep, tmp_path / "alone").result()
    for number in range(4):
        both = [Process(processes, sweep, tmp_path / str(number)) for _ in range(2)]
        assert [one.result() for one in both] == [expected, expected]
        assert pieces_in(tmp_path / str(number)) == pieces_in(tmp_path / "alone")
        assert not list((tmp_path / str(number)).glob("*.part"))


def save_many(folder: Path) -> None:
    torch.set_num_threads(1)
    model = tiny_model("llama")
    model.tokenizer = None
    rec = probe.record(model, PROMPTS[:3])
    for number in range(100):
        rec.save(folder / f"rec-{number}")
        probe.save_model(model, folder / f"model-{number}")


def test_what_was_saved_when_the_process_was_killed_is_whole_and_nothing_else_is_there(processes, tmp_path):
    rng, expected, n = random.Random(0), dict(probe.record(tiny_model("llama"), PROMPTS[:3]).values), 0
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        saving, n_saved = Process(processes, save_many, folder), rng.randrange(6)
        while len(list(folder.iterdir())) < n_saved:
            time.sleep(0.001)
        assert saving.killed_after(rng.uniform(0, 0.03))
        left = [path for path in folder.iterdir() if path.name.startswith(".saving-")]
        assert len(left) <= 1 and not any(map(is_left_over, left)), "another process may still be at it"
        for path in sorted(set(folder.iterdir()) - set(left)):
            n += 1
            if path.name.startswith("rec"):
                loaded = probe.Recording.load(path)
                assert all(torch.equal(loaded.values[name], value) for name, value in expected.items())
            else:
                assert torch.equal(probe.load_model(path, device="cpu").W_E, tiny_model("llama").W_E)
    assert n > 10


def fetch_slowly(folder: Path) -> bytes:
    """A fetch whose download takes its time; what comes after is the real thing."""
    wheel = next((folder / "index").glob("*.whl"))
    known = entry(wheel)

    def download(known, work: Path, redraw) -> Path:
        data = wheel.read_bytes()
        with (work / wheel.name).open("wb") as copy:
            for place in range(0, len(data), 16):
                copy.write(data[place : place + 16])
                copy.flush()
                time.sleep(0.002)
        fetching._check(work / wheel.name, known.wheel.size, known.wheel.sha256, what="the wheel")
        return work / wheel.name

    catalogue._KNOWN, fetching._download = (known,), download
    fetching.cache_folder = lambda: folder / "cache"
    return fetching.fetch(NAME, progress=False).read_bytes()


def whole_now(cache: Path) -> list[Path]:
    """What counts as fetched; what is being fetched has a folder of its own."""
    return [*(cache / NAME).rglob("*.gguf")]


def test_a_fetch_killed_many_times_leaves_a_whole_file_or_none(processes, tmp_path):
    build_wheel(tmp_path / "index")
    rng, cache, whole = random.Random(0), tmp_path / "cache", 0
    for _ in range(2):  # the second is as quick as those that follow
        shutil.rmtree(cache, ignore_errors=True)
        _, took = Process(processes, fetch_slowly, tmp_path).result_and_seconds()
    for _ in range(25):
        if whole_now(cache):
            shutil.rmtree(cache)
        Process(processes, fetch_slowly, tmp_path).killed_after(rng.uniform(0, 1.2 * took))
        files = whole_now(cache)
        assert all(path.read_bytes() == CONTENT for path in files)
        assert len(list(cache.glob(".fetching-*"))) <= 1, "the next fetch removes what this one left"
        whole += bool(files)
    assert 0 < whole < 25
    assert Process(processes, fetch_slowly, tmp_path).result() == CONTENT
    assert {path.name for path in cache.iterdir()} == {NAME, f"{NAME}.lock"}
