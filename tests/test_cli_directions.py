"""The commands about words and directions, on a small file of word vectors and on the default model."""

import json

import pandas
import pytest
import torch
from typer.testing import CliRunner

import probe
from probe.cli import app
from tests.methods.test_directions import planted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gensim, reading a file


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """12 pairs, p0/n0 ..., 8 apart along the first axis, and other words; in word2vec's text format."""
    words, pairs = planted(12, 6, 8.0)
    file = tmp_path_factory.mktemp("words") / "planted.txt"
    numbers = [" ".join(f"{x:.6f}" for x in row) for row in words.vectors.tolist()]
    rows = [f"{word} {row}" for word, row in zip(words.words, numbers, strict=True)]
    file.write_text("\n".join([f"{len(words)} {words.d}", *rows]) + "\n")
    return str(file), [option for pair in pairs for option in ("--pair", "/".join(pair))]


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def text_of(result) -> str:
    assert result.exit_code == 0, f"{result.exception!r}\n{result.stdout}\n{result.stderr}"
    return " ".join(result.stdout.split())


def test_neighbours_are_shown_and_told_to_programs(run, vectors):
    file, _ = vectors
    expected = probe.nearest_neighbours(probe.load_word_vectors(file), ["p0", "other3"], k=3)
    shown = text_of(run("words", "near", "p0", "other3", "-s", file, "-k", 3))
    for words, scores in zip(expected.words, expected.scores.tolist(), strict=True):
        assert " ".join(f"{word} {score:.3f}" for word, score in zip(words, scores, strict=True)) in shown
    rows = json.loads(run("words", "near", "p0", "other3", "-s", file, "-k", 3, "--json").stdout)["rows"]
    assert [row["word"] for row in rows] == [word for words in expected.words for word in words]
    dot = json.loads(run("words", "near", "p0", "-s", file, "--dot", "--json").stdout)["rows"]
    assert "dot" in dot[0]


def test_an_analogy_is_answered_with_its_own_words_dropped_and_kept(run, vectors):
    file, _ = vectors
    words = probe.load_word_vectors(file)
    kept = probe.solve_analogy(words, ["p0", "n1"], ["n0"], keep_inputs=True, expected="p1")
    dropped = probe.solve_analogy(words, ["p0", "n1"], ["n0"], expected="p1")
    for arguments in (["p0 - n0 + n1"], ["p0", "-", "n0", "+", "n1"]):
        shown = text_of(run("words", "analogy", *arguments, "-s", file, "--expect", "p1"))
        assert f"Rank of “p1”: {dropped.rank} with the question's own words dropped, {kept.rank} kept" in shown
        assert f"{dropped.words[0]} {float(dropped.scores[0]):.3f}" in shown
    own = text_of(run("words", "analogy", "p0 - n0 + n1", "-s", file, "--expect", "p0"))
    assert "none: it is a word of the question" in own
    told = json.loads(run("words", "analogy", "p0 - n0 + n1", "-s", file, "--json").stdout)
    assert [answer["keep_inputs"] for answer in told["answers"]] == [False, True]


def test_a_word_that_is_missing_is_one_line(run, vectors):
    result = run("words", "near", "othr3", "-s", vectors[0])
    assert result.exit_code == 2 and result.stdout == "" and "did you mean 'other3'" in result.stderr


def test_a_direction_of_ones_own_pairs_is_evaluated_shown_and_saved(run, vectors, tmp_path):
    file, pairs = vectors
    out = tmp_path / "out"
    shown = text_of(run("directions", *pairs, "-s", file, "--project", "other1,other2", "--out", out))
    words = probe.load_word_vectors(file)
    _, own = planted(12, 6, 8.0)
    direction = probe.fit_direction(words, own, name="first - second")
    expected = probe.evaluate_direction(direction, progress=False)
    assert f"AUROC {expected.auroc}" in shown and expected.verdict in shown
    assert f"other1 {float(direction.project('other1').along[0]):+.3f}" in shown
    assert {path.name for path in out.iterdir()} == {
        "table.csv",
        "manifest.json",
        "report.txt",
        "index.html",
        "SHA256SUMS",
    }
    table = pandas.read_csv(out / "table.csv")
    assert torch.allclose(torch.tensor(table["difference"].tolist()).double(), expected.positive - expected.negative)
    page = (out / "index.html").read_text("utf-8")
    assert "http" not in page.split("<body>")[1] and page.count('class="figure"') == 3


def test_mistakes_in_what_to_project_are_named(run, vectors):
    file, pairs = vectors
    for given, said in ((",", "names no word"), ("othr1", "did you mean 'other1'")):
        result = run("directions", *pairs, "-s", file, "--project", given)
        assert result.exit_code == 2 and said in result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["directions", "gender", "--pair", "cats/cat"], "gender and --pair: give one of the two"),
        (["directions", "--profile", "--source", "embed"], "so --source has no place in it"),
        (["directions", "--profile", "--project", "one,two"], "so --project has no place in it"),
        (["steer", "tense"], "tense: which token should this direction make likelier"),
        (["steer", "size", "--target", " big"], "Give --target and --against"),
    ],
)
def test_what_would_be_ignored_or_asks_nothing_is_refused(given, said, run):
    result = run(*given)
    assert result.exit_code == 2 and said in " ".join(result.stderr.split())


@pytest.mark.model
def test_a_list_is_found_in_the_embedding_of_the_default_model(run):
    shown = text_of(run("directions", "nationality", "--source", "embed"))
    assert "nationality - country" in shown and "encoded" in shown and "fitted on 44 others" in shown


@pytest.mark.model
@pytest.mark.slow
def test_every_layer_and_steering_on_the_default_model(run, tmp_path):
    shown = text_of(run("directions", "size", "--profile"))
    assert "embedding" in shown and "layer 29" in shown and "unembedding" in shown
    shown = text_of(run("steer", "--n-random", "20", "--out", tmp_path / "out"))
    assert "' are' - ' is'" in shown and ": used." in shown
    assert len(pandas.read_csv(tmp_path / "out" / "table.csv")) == 6 * 21
