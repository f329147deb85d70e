"""The scripts of analyses/: each runs as a user runs it, and its arithmetic is right."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import probe
from probe.flop_count import attention_flops
from tests.tiny import tiny_model

ANALYSES = Path(__file__).parent.parent.parent / "analyses"
SCRIPTS = sorted(path.name for path in ANALYSES.glob("*.py") if not path.name.startswith("_"))


def script(name: str):
    """The module, imported as when it runs: its folder is on the path."""
    spec = importlib.util.spec_from_file_location(f"analysis_{name}", ANALYSES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ANALYSES))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ANALYSES))
    return module


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_quick_run_writes_page_table_and_manifest(name, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(ANALYSES / name), "--quick", "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {path.name for path in out.iterdir()} == {"index.html", "table.csv", "manifest.json", "SHA256SUMS"}
    assert script(name.removesuffix(".py")).QUESTION in run.stdout
    assert str(out) in run.stdout.replace("\n", "")


@pytest.mark.slow
@pytest.mark.model
def test_a_folder_that_holds_something_is_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    command = [sys.executable, str(ANALYSES / "lens.py"), "--model", "no-such-model", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert str(tmp_path) in run.stderr and "no-such-model" not in run.stderr
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_the_log_of_answers_names_every_script():
    log = (ANALYSES / "README.md").read_text("utf-8")
    assert set(re.findall(r"analyses/([a-z]\w*\.py)", log)) == set(SCRIPTS)


def test_an_answer_is_settled_where_its_rank_stays_one():
    ranks = torch.tensor([[5, 1, 9], [1, 1, 1], [2, 1, 3], [1, 1, 4]])  # (place, fact)
    assert script("lens").settled_at(ranks) == [3, 0, 4]


def test_separation_is_the_mean_cosine_within_minus_across():
    context = script("context")
    cosines = torch.tensor([[1.0, 0.9, 0.1, 0.3], [0.9, 1.0, 0.2, 0.4], [0.1, 0.2, 1.0, 0.5], [0.3, 0.4, 0.5, 1.0]])
    label = torch.tensor([True, True, False, False])
    assert context.separation(cosines[None], label).item() == pytest.approx(
        (0.9 + 0.5) / 2 - (0.1 + 0.3 + 0.2 + 0.4) / 4
    )


def test_halves_are_listed_once_the_true_one_first():
    halves = script("context")._halves(6)
    assert halves[0] == (0, 1, 2) and len(halves) == len(set(halves)) == 10
    complements = {tuple(sorted(set(range(6)) - set(half))) for half in halves}
    assert not complements & set(halves)


def test_a_margin_compares_the_own_answer_with_the_mean_of_the_others():
    logits = torch.tensor([[4.0, 1.0, 2.0, 9.0], [0.0, 3.0, 1.0, 9.0], [1.0, 1.0, 7.0, 9.0]])
    margins = script("attribution").margin(logits, [0, 1, 2])
    assert margins.tolist() == [4.0 - 1.5, 3.0 - 0.5, 7.0 - 1.0]


def test_attention_is_what_is_counted_beyond_the_products_with_weights():
    """Against torch's own counter: two passes of n and 2 n tokens tell what is quadratic."""
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_model("gpt2")
    counted = {}
    for n in (8, 16):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            probe.record(model, torch.arange(n)[None])
        counted[n] = counter.get_total_flops()
    assert attention_flops(model.config, 8) == (counted[16] - 2 * counted[8]) / 2


def test_the_share_of_new_things_counts_from_the_first_that_was_made():
    assert script("generation").share_new(["a", "b", "a", "c", "c"], 2) == pytest.approx(1 / 3)
    assert script("generation").share_new(["a", "b"], 0) == 1.0
