"""The benchmarks run from end to end: what is compared is equal, and a report is written."""

import json
import subprocess
import sys
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
