"""What is saved stays as it was saved, or says so."""

import random
import shutil
import subprocess

import pytest
import torch

import probe
from probe.errors import BrokenFile
from probe.store import check_saved, save_result
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
