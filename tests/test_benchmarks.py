"""The benchmarks run from end to end: what is compared is equal, and a report is written."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from probe.weights import save_model
from tests.tiny import LLAMA, tiny_model

RUN = Path(__file__).parent / "benchmarks" / "run.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny model with a tokenizer: TransformerLens opens none without one."""
    model = tiny_model("llama", scale=3.0)
    model.tokenizer = None
    save_model(model, tmp_path / "model")
    vocabulary = models.WordLevel({str(i): i for i in range(LLAMA.d_vocab)}, unk_token="0")
    made_up = {"tokenizer_object": Tokenizer(vocabulary), "bos_token": "1", "eos_token": "2", "pad_token": "2"}
    PreTrainedTokenizerFast(**made_up).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_sides_that_differ_are_not_timed_and_a_part_is_extrapolated(monkeypatch):
    monkeypatch.syspath_prepend(RUN.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    measuring = importlib.import_module("_measure")
    setting = measuring.Setting(None, "cpu", quick=True)

    def compare(theirs: float, scale: float = 1.0):
        return measuring.compare(
            "a sum", "another", lambda: 1.0, lambda: time.sleep(0.02) or theirs, setting, scale=scale,
            same=lambda mine, other: abs(mine - other), tolerance=0.1,
        )  # fmt: skip

    with pytest.raises(measuring.AnswersDiffer, match=r"a sum.*another.* 0\.5, allowed: 0\.1"):
        compare(1.5)
    whole = compare(1.05, scale=10.0)
    assert whole.theirs >= 0.2 and whole.value < 0.1 and whole.difference == pytest.approx(0.05)


@pytest.mark.slow
def test_quick_benchmarks_find_the_same_answers_and_write_a_report(folder, tmp_path):
    command = [sys.executable, str(RUN), "--quick", "--threads", "1", "--model", str(folder), "--out", str(tmp_path)]
    cases = ["passes", "recording", "sweeps", "lens", "generation", "starting"]
    done = subprocess.run([*command, "--only", *cases], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("*.json")
    report = json.loads(written.read_text())
    against = {(one["case"].split(",")[0], one["against"]) for one in report["measured"]["cpu"]}
    assert ("record everything", "TransformerLens") in against
    assert ("record residuals and patterns", "Hugging Face eager") in against
    assert ("ablation of all 12 heads", "a loop of TransformerLens") in against
    assert ("generate 4 tokens", "Hugging Face generate") in against
    compared = [one for one in report["measured"]["cpu"] if one["difference"] is not None]
    assert len(compared) > 10 and all(one["difference"] < 1e-3 for one in compared)
    assert (tmp_path / f"{written.stem}.md").read_text().count("\n| ") > len(compared)
