"""`probe ablate` and `probe patch`, on a tiny model in a folder: the methods' numbers, told, saved, explained."""

import json

import pandas
import pytest
from typer.testing import CliRunner

import probe
from probe.cli import app
from tests.test_cli import LLAMA, byte_tokenizer, saved

PROMPTS = ["one day", "two bad", "red cab", "old dab", "the bed", "bad egg", "her dog"]
CLEAN, CORRUPTED = "one day", "one bay"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model") / "llama", LLAMA, byte_tokenizer())


@pytest.fixture(scope="module")
def model(folder):
    return probe.load_model(folder)


@pytest.fixture
def run(monkeypatch, tmp_path, folder):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--model", folder])

    return call


def text_of(result) -> str:
    assert result.exit_code == 0, f"{result.exception!r}\n{result.stdout}\n{result.stderr}"
    return " ".join(result.stdout.split())


def sweep(model, prompts, **arguments):
    arguments = {"metric": probe.logit_difference("a", "b"), "document_start": True, **arguments}
    return probe.ablation_sweep(model, prompts, progress=False, **arguments)


ASKED = ("--target", "a", "--against", "b")


def test_one_prompt_is_ablated_with_zero_and_says_why(run, model):
    result = run("ablate", CLEAN, *ASKED)
    shown, expected = text_of(result), sweep(model, [CLEAN], value="zero")
    for name, effect in expected.top(12):
        assert f"{name} {effect:+.3f}" in shown
    assert "In its place: zero (one prompt has no others to take a mean of)" in shown
    assert "One prompt has no interval" in shown and "marked" not in shown
    assert str(probe.plan_ablation(model, [CLEAN], metric=probe.logit_difference("a", "b"), value="zero",
                                   document_start=True)).split(",")[0] in result.stderr  # fmt: skip


def test_several_prompts_are_ablated_with_the_mean_and_tested(run, model, tmp_path):
    out = tmp_path / "out"
    shown, expected = text_of(run("ablate", *PROMPTS, *ASKED, "--out", out)), sweep(model, PROMPTS)
    found = expected.evidence
    for row, unit in enumerate(expected.units):
        assert (
            f"{unit.name} {float(found.mean[row]):+.3f} {float(found.low[row]):+.3f} to {float(found.high[row]):+.3f} "
            f"{float(expected.direct[row].mean()):+.3f} {float(expected.indirect[row].mean()):+.3f} "
            f"{float(found.p_grid[row]):.3f}" + (" yes" if found.marked[row] else "")
        ) in shown
    assert shown.count(" yes ") == int(found.marked.sum()) < 12 and not found.p.equal(found.p_grid)
    assert "mean over all positions but 0 of the other prompts of the call (the default for several prompts)" in shown
    assert f"{int(found.marked.sum())} of 12 are marked: the 95 % interval leaves out zero" in shown
    assert {path.name for path in out.iterdir()} == {"table.csv", "manifest.json", "index.html", "SHA256SUMS"}
    table = pandas.read_csv(out / "table.csv")
    assert table["effect"].tolist() == pytest.approx(expected.effects.mean(1).tolist(), abs=1e-6)
    page = (out / "index.html").read_text("utf-8")
    assert "http" not in page.split("<body>")[1] and page.count('class="figure"') == 3


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (("--units", "MLPs"), {"units": "MLPs"}),
        (("--units", "layers", "--layers", "1-2"), {"units": "layers", "layers": [1, 2]}),
        (("--units", "neurons", "--layers", "1", "--top", "3"), {"units": "neurons", "layers": 1}),
        (("--value", "resample", "--seed", "3"), {"value": "resample", "seed": 3}),
        (("--positions", "all"), {"positions": None}),
        (("--positions", "2,-1"), {"positions": [2, -1]}),
        (("--no-document-start",), {"document_start": False}),
        (("--memory", "2"), {"memory": 2_000_000}),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_each_option_is_that_of_the_method(run, model, options, arguments):
    told = json.loads(run("ablate", *PROMPTS, *ASKED, *options, "--json").stdout)
    expected = sweep(model, PROMPTS, **arguments)
    assert [row["effect"] for row in told["rows"]] == pytest.approx(expected.effects.mean(1).tolist(), abs=1e-5)
    of_both = told["manifest"], json.loads(json.dumps(dict(expected.manifest)))
    assert of_both[0]["method_arguments"] == of_both[1]["method_arguments"]
    if "value" in arguments:
        assert "default" not in text_of(run("ablate", *PROMPTS, *ASKED, *options))


def test_each_prompt_can_have_its_own_tokens_and_one_alone_gives_a_log_probability(run, model):
    own = ["--target", "a", "--target", "e", "--against", "b", "--against", "c"]
    told = json.loads(run("ablate", *PROMPTS[:2], *own, "--value", "zero", "--json").stdout)
    expected = sweep(model, PROMPTS[:2], metric=probe.logit_difference(["a", "e"], ["b", "c"]), value="zero")
    assert [row["effect"] for row in told["rows"]] == pytest.approx(expected.effects.mean(1).tolist(), abs=1e-5)
    assert "Measured is log p('a')" in text_of(run("ablate", CLEAN, "--target", "a"))


def test_an_interrupted_sweep_goes_on_in_its_folder(run, tmp_path):
    kept = tmp_path / "kept"
    first = run("ablate", CLEAN, *ASKED, "--folder", kept, "--json")
    batches = sorted(path.stat().st_mtime_ns for path in kept.rglob("*batch*"))
    assert batches and json.loads(run("ablate", CLEAN, *ASKED, "--folder", kept, "--json").stdout) == json.loads(
        first.stdout
    )
    assert sorted(path.stat().st_mtime_ns for path in kept.rglob("*batch*")) == batches


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ablate", CLEAN, *ASKED, "--value", "mean"), "only one prompt"),
        (("ablate", CLEAN, *ASKED, "--units", "head"), "did you mean 'heads'"),
        (("ablate", CLEAN, *ASKED, "--units", "neurons"), "name one layer"),
        (("ablate", CLEAN, *ASKED, "--value", "zeros"), "did you mean 'zero'"),
        (("ablate", CLEAN, *ASKED, "--positions", "first"), "neither a number nor a range"),
        (("ablate", CLEAN, *ASKED, "--layers", "9"), "layers 0 to 2"),
        (("ablate", *PROMPTS[:3], *ASKED, "--target", "e"), "2 tokens for 3 prompts"),
        (("ablate", CLEAN, "--target", "day", "--against", "b"), "'day'"),
        (("patch", CLEAN, "one days", *ASKED), "clean prompt has 8 tokens and the corrupted one 9"),
        (("patch", CLEAN, CLEAN, *ASKED), "same tokens"),
        (("patch", CLEAN, CORRUPTED, *ASKED, "--sites", "resid"), "'resid"),
        (("patch", CLEAN, CORRUPTED, *ASKED, "--direction", "denoised"), "did you mean 'denoise'"),
        (("patch", CLEAN, CORRUPTED, *ASKED, "--by", "heads"), "did you mean 'head'"),
    ],
    ids=lambda given: " ".join(given[-2:]) if isinstance(given, tuple) else "",
)
def test_a_mistake_is_one_line(run, as_users_run_it, arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and said in line


def patched(model, sites="resid_pre", **arguments):
    return probe.activation_patching(
        model, [CLEAN], [CORRUPTED], sites, metric=probe.logit_difference("a", "b"), document_start=True,
        progress=False, **arguments,
    )  # fmt: skip


def test_a_patch_says_where_the_answer_is_carried(run, model, tmp_path):
    out = tmp_path / "out"
    shown, expected = text_of(run("patch", CLEAN, CORRUPTED, *ASKED, "--out", out)), patched(model)
    (cell, share), *_ = expected.top(1)
    assert f"resid_pre {cell.layer}, “{expected.tokens[cell.position]}” [{cell.position}] {share:+.3f}" in shown
    assert "The prompts differ at [5] “d” and “b”." in shown and "+1 makes the corrupted run answer" in shown
    table = pandas.read_csv(out / "table.csv")
    assert table["recovered"].tolist() == pytest.approx(expected.recovered.tolist(), abs=1e-5)
    assert (out / "index.html").read_text("utf-8").count('class="figure"') == 1


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (("--sites", "z"), {"sites": "z"}),
        (("--sites", "attn_out,mlp_out", "--by", "layer"), {"sites": ["attn_out", "mlp_out"], "by": "layer"}),
        (("--sites", "z", "--by", "head and position"), {"sites": "z", "by": "head and position"}),
        (("--direction", "noise", "--layers", "1"), {"direction": "noise", "layers": 1}),
        (("--positions", "3,-1", "--memory", "2"), {"positions": [3, -1], "memory": 2_000_000}),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_each_option_of_a_patch_is_that_of_the_method(run, model, tmp_path, options, arguments):
    told = json.loads(run("patch", CLEAN, CORRUPTED, *ASKED, *options, "--json", "--out", tmp_path / "out").stdout)
    expected = patched(model, **arguments)
    assert [row["recovered"] for row in told["rows"]] == pytest.approx(expected.recovered.tolist(), abs=1e-4)
    assert told["manifest"]["method_arguments"]["cells"] == [list(cell) for cell in expected.cells]
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    sites = arguments.get("sites", "resid_pre")
    maps = 0 if arguments.get("by") == "head and position" else 1 if isinstance(sites, str) else len(sites)
    assert page.count('class="figure"') == maps


def test_noising_is_told_the_other_way_round(run, model):
    shown = text_of(run("patch", CLEAN, CORRUPTED, *ASKED, "--direction", "noise"))
    expected = patched(model, direction="noise")
    (cell, recovered), *_ = expected.top(1)
    assert f"[{cell.position}] {recovered - 1:+.3f}" in shown and "-1 makes the clean run answer" in shown


@pytest.mark.model
def test_the_head_that_names_mary_is_found_on_the_default_model(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    prompt = "When Mary and John went to the store, John gave a drink to"
    result = CliRunner().invoke(app, ["ablate", prompt, "--target", " Mary", "--against", " John", "--top", "3"])
    assert " 23.3 -3." in text_of(result)
