"""What is saved stays as it was saved, or says so; what killed processes left half-written goes away."""

import os
import random
import shutil
import subprocess

import pytest
import torch

import probe
from probe.errors import BrokenFile, NotSaved
from probe.store import check_saved, is_left_over, make_beside, save_result
from tests.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("as_users_run_it")

PROMPTS = [[1, 2, 3], [4, 5]]


def results(folder) -> dict[str, object]:
    """One folder of every kind that is saved, by how it is read."""
    model = tiny_model()
    rec = probe.record(model, PROMPTS, sites=["z"], positions=-1)
    rec.save(folder / "recording")
    probe.score_text(model, PROMPTS).save(folder / "table")
    probe.fit_tuned_lens(model, n_tokens=256, progress=False).save(folder / "lens")
    return {"recording": probe.Recording.load, "table": check_saved, "lens": probe.TunedLens.load}


def test_a_change_of_any_byte_of_any_saved_file_is_found(tmp_path):
    rng = random.Random(0)
    for kind, read in results(tmp_path).items():
        read(tmp_path / kind)
        for path in sorted((tmp_path / kind).iterdir()):
            whole = path.read_bytes()
            for place in rng.sample(range(len(whole)), 25):
                damaged = bytearray(whole)
                damaged[place] ^= 1 << rng.randrange(8)
                path.write_bytes(damaged)
                with pytest.raises(BrokenFile, match=kind):
                    read(tmp_path / kind)
            for length in rng.sample(range(len(whole)), 5):
                path.write_bytes(whole[:length])
                with pytest.raises(BrokenFile, match=kind):
                    read(tmp_path / kind)
            path.write_bytes(whole)
        read(tmp_path / kind)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_anybody_can_check_a_folder_without_probe(tmp_path):
    results(tmp_path)
    for folder in tmp_path.iterdir():
        subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_notes_beside_what_was_saved_do_no_harm(tmp_path):
    save_result(tmp_path / "a", {"x": torch.ones(2)}, {})
    (tmp_path / "a" / "notes.txt").write_text("mine")
    check_saved(tmp_path / "a")


def test_what_a_killed_process_left_beside_goes_with_the_next_save_and_nothing_else_does(tmp_path):
    old, new, other, mine = (tmp_path / name for name in (".saving-a-1", ".saving-a-2", ".saving-b-1", ".a-notes"))
    for folder in (old, new, other, mine):
        folder.mkdir()
        (folder / "half").write_text("half")
    for folder in (old, other, mine):
        os.utime(folder, (0, 0))
    assert is_left_over(old) and not is_left_over(new)
    save_result(tmp_path / "a", {"x": torch.ones(2)}, {})
    assert not old.exists() and new.exists() and other.exists() and mine.exists()


def test_a_place_beside_which_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSaved, match="cannot write into"):
        make_beside(tmp_path / "file" / "a")
