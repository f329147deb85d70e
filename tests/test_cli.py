"""The command line, on tiny models in folders: what it prints, where, and with which exit code."""

import io
import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pandas
import pytest
import tokenizers
import torch
from rich.console import Console
from tokenizers import decoders, models, pre_tokenizers
from typer.testing import CliRunner

import probe
import probe.cli._story
import probe.cli._tour
from probe.attention import Attention
from probe.catalogue import DEFAULT_MODEL
from probe.cli import app
from probe.config import GPTConfig
from probe.figures.page import Chip, PageSection, Table
from probe.gpt import GPT
from probe.recording import Recording, record
from probe.terminal import show_section
from probe.tokens import Tokenizer
from probe.weights import load_model, save_model

START = "<|endoftext|>"
LLAMA = GPTConfig(
    n_layers=3, d_model=16, n_heads=4, d_head=4, d_mlp=24, d_vocab=260, n_ctx=64, n_kv_heads=2, norm="rms",
    positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False, attn_out_bias=False, mlp_bias=False,
)  # fmt: skip
GPT2 = GPTConfig(n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=24, d_vocab=260, n_ctx=64)


def byte_tokenizer(*, start: str | None = START) -> Tokenizer:
    """One token per byte, and a mark for the start of a document."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({letter: id for id, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if start is not None:
        backend.add_special_tokens([start])
    return Tokenizer(backend, eos=start)


def saved(folder, config, tokenizer) -> str:
    torch.manual_seed(0)
    model = GPT(config, tokenizer=tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # attention that is not flat
    save_model(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "tiny", LLAMA, byte_tokenizer())


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a command as a terminal of 80 columns would; results and messages apart."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def stops(result) -> str:
    """What went wrong, if it did, and the output."""
    return f"exit code {result.exit_code}: {result.exception!r}\n{result.stdout}\n{result.stderr}"


# Help and mistakes


def test_help_lists_every_command_and_where_to_begin(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in ("tour", "record", "models", "check", "Begin with: probe tour"):
        assert word in result.stdout


@pytest.mark.parametrize(
    "command",
    [
        "tour",
        "record",
        "lens",
        "attribute",
        "heads",
        "generate",
        "chat",
        "directions",
        "steer",
        "words near",
        "words analogy",
        "check",
        "models",
        "models fetch",
        "models remove",
    ],
)
def test_every_command_helps_with_an_example(run, command):
    result = run(*command.split(), "-h")
    assert result.exit_code == 0 and f"Example: probe {command}" in result.stdout, stops(result)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_an_unknown_command_is_answered_with_the_nearest(run):
    result = run("tuor")
    assert result.exit_code == 2 and "Did you mean 'tour'" in result.stderr, stops(result)


MISTAKES = {
    "no such list": (["directions", "plural"], "did you mean 'plurality'"),
    "no pair": (["directions", "--pair", "cats"], "--pair 'cats': expected two words with / between them"),
    "no sum": (["words", "analogy", "king", "man"], "expected + or - where 'man' stands"),
    "half a sum": (["words", "analogy", "king", "-"], "ends without a word"),
    "a model without a place": (["words", "near", "x", "--model", "{folder}"], "--source embed"),
    "a direction without a place": (["directions", "--model", "{folder}"], "--source embed"),
    "no such layer to read": (["directions", "--model", "{folder}", "--source", "9"], "layer 9"),
    "no template": (["steer", "--template", "The cat", "--model", "{folder}"], "--template 'The cat'"),
    "no such model": (["tour", "--model", "smollm2-135m"], "did you mean 'smollm2-135m-instruct-q4_1'?"),
    "no such folder": (["check", "nowhere/at/all"], "no model, file or folder 'nowhere/at/all'"),
    "no such site": (["record", "hi", "--model", "{folder}", "--sites", "patern"], "did you mean 'pattern'?"),
    "no such layer": (
        ["record", "hi", "--model", "{folder}", "--layers", "9"],
        "layer 9: this model has layers 0 to 2",
    ),
    "no number": (["record", "hi", "--model", "{folder}", "--layers", "x"], "--layers: 'x' is neither a number"),
    "backward range": (["record", "hi", "--model", "{folder}", "--layers", "3-1"], "'3-1' ends before it begins"),
    "nothing named": (["record", "hi", "--model", "{folder}", "--sites", ","], "--sites ',' names nothing"),
    "no such position": (["record", "hi", "--model", "{folder}", "--positions", "7"], "position 7"),
    "empty prompt": (["record", "", "--model", "{folder}", "--no-document-start"], "the prompt is empty"),
    "too long a prompt": (["tour", "--model", "{folder}", "--prompt", "x" * 70], "context holds 64"),
    "watched text of many tokens": (["tour", "--model", "{folder}", "--watch", "ab"], "is not one token"),
    "lens: watched text of many tokens": (["lens", "hi", "--model", "{folder}", "--watch", "ab"], "not one token"),
    "lens: no such position": (["lens", "hi", "--model", "{folder}", "--position", "9", "--tuned"], "position 9"),
    "attribute: no such token": (["attribute", "hi", "--model", "{folder}", "--token", "ab"], "not one token"),
    "attribute: a folder in use": (["attribute", "hi", "--model", "{folder}", "--out", "/"], "is not empty"),
    "unknown name to remove": (["models", "remove", "x"], "no known model or word vectors 'x'"),
    "unknown name to fetch": (["models", "fetch", "x"], "no known model or word vectors 'x'"),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(run, folder, arguments, said):
    result = run(*(argument.replace("{folder}", folder) for argument in arguments))
    assert result.exit_code == 2 and result.stdout == "", stops(result)
    assert result.stderr.startswith("error: ") and said in result.stderr, stops(result)
    assert result.stderr.count("\n") == 1 and "\x1b" not in result.stderr


def test_markup_in_a_mistake_is_shown_as_it_is(run):
    assert "'[red]x[/red]'" in run("models", "remove", "[red]x[/red]").stderr


def test_markup_in_a_section_is_shown_as_it_is():
    evil = "[red]x[/red]"
    section = PageSection(
        evil, evil, [evil], [Chip(evil, 1, 2)], table=Table((evil, "n"), [(evil, "1")]), remarks=[evil], code=[evil]
    )
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show_section(console, section)
    assert console.file.getvalue().count(evil) == 8
    assert f"{evil} [1] 2" in console.file.getvalue()


def test_tokens_stand_in_columns_that_fit_the_width():
    console = Console(file=io.StringIO(), width=40, highlight=False)
    show_section(console, PageSection("h", "t", chips=[Chip("x" * (1 + n % 3), n, 100 * n) for n in range(20)]))
    lines = console.file.getvalue().splitlines()[3:]
    assert max(map(len, lines)) <= 40 and len(lines) < 12
    assert re.findall(r"x+ \[(\d+)\] (\d+)", " ".join(lines)) == [(str(n), str(100 * n)) for n in range(20)]


def test_an_interruption_ends_quietly_with_130(run, folder, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(GPT, "run_layers", interrupted)  # a method: modules loaded now would keep a function's stand-in
    result = run("record", "hi", "--model", folder)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_a_story_that_has_not_begun_is_not_kept(run, folder, monkeypatch, tmp_path):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(GPT, "run_layers", interrupted)
    result = run("generate", "hi", "--model", folder, "--out", tmp_path / "story")
    assert (result.exit_code, result.stdout.strip()) == (130, "") and not (tmp_path / "story").exists()


def test_the_version_is_that_of_the_package(run):
    assert run("--version").stdout.strip() == version("probe-gpt")


@pytest.mark.parametrize(("command", "printed"), [("--help", "Commands"), ("models", "Apache-2.0")])
def test_what_computes_nothing_loads_no_heavy_module(command, printed):
    code = (
        f"import sys; from probe.cli import app\ntry: app([{command!r}])\nexcept SystemExit: pass\n"
        "print({'pandas', 'plotly', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()" and printed in done.stdout


# record


def test_record_prints_plan_tokens_and_a_table(run, folder):
    result = run("record", "hi you", "--model", folder, "--sites", "pattern,z", "--layers", "0-1", "--document-start")
    assert result.exit_code == 0 and result.stderr == "", stops(result)
    assert "7 tokens: <|endoftext|>[0] h[1] i[2] ·[3]" in result.stdout
    assert re.search(r"pattern +batch head query_pos key_pos +1 x 4 x 7 x 7 +0-1", result.stdout), result.stdout
    assert "Planned: 5 values" in result.stdout and "Measured:" in result.stdout


def test_record_saves_what_python_reads_back(run, folder, tmp_path):
    out = tmp_path / "kept"
    result = run(
        "record", "hi", "--model", folder, "--sites", "resid_post", "--positions", "-1", "--out", out, "--json"
    )
    assert result.exit_code == 0, stops(result)
    arguments = {"sites": ["resid_post"], "positions": [-1], "document_start": True}  # as every command begins a text
    loaded, expected = Recording.load(out), record(load_model(folder), "hi", **arguments)
    assert loaded.names == expected.names and torch.equal(loaded["resid_post", 2], expected["resid_post", 2])
    told = json.loads(result.stdout)
    assert told["folder"] == str(out) and told["tokens"] == expected.tokens[0].tolist()
    assert [value["name"] for value in told["values"]] == [*expected.names, "logits"]
    assert told["bytes"] == sum(value["bytes"] for value in told["values"])


def test_record_does_not_write_over_a_result(run, folder, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    result = run("record", "hi", "--model", folder, "--out", tmp_path / "kept")
    assert result.exit_code == 2 and "is not empty" in result.stderr, stops(result)


# models


def test_models_lists_licence_size_and_cache_for_people_and_programs(run, tmp_path):
    result = run("models")
    assert result.exit_code == 0 and f"{DEFAULT_MODEL} (default)" in result.stdout, stops(result)
    assert "Apache-2.0" in result.stdout and "not fetched yet" in result.stdout
    told = json.loads(run("models", "--json").stdout)
    assert told["cache"] == str(tmp_path / "cache")
    assert told["models"][0]["licence"] == "Apache-2.0" and told["models"][0]["cached"] is False


def test_models_remove_frees_the_cache_and_says_how_much(run, tmp_path):
    assert "was not in the cache" in run("models", "remove", DEFAULT_MODEL).stdout
    kept = tmp_path / "cache" / DEFAULT_MODEL / "0"
    kept.mkdir(parents=True)
    (kept / "old.gguf").write_bytes(b"x" * 2_000_000)
    assert "freed 2 MB" in run("models", "remove", DEFAULT_MODEL).stdout
    assert not kept.exists()


# check


def test_check_of_a_sound_model_exits_0_also_through_hugging_face(run, folder):
    result = run("check", folder)
    assert result.exit_code == 0 and "All 10 hold." in result.stdout and "FAILED" not in result.stdout, stops(result)
    told = json.loads(run("check", folder, "--no-hugging-face", "--json").stdout)
    assert told["passed"] is True and len(told["rows"]) == 9
    assert all(row["measured"] <= row["tolerance"] for row in told["rows"])


def test_check_of_a_broken_model_exits_1_and_names_what_failed(run, folder, monkeypatch):
    sound = Attention.fused
    monkeypatch.setattr(Attention, "fused", lambda self, q, k, v: sound(self, q * 1.1, k, v))
    result = run("check", folder, "--no-hugging-face")
    assert result.exit_code == 1 and re.search("FAILED +fused attention", result.stdout), stops(result)
    assert json.loads(run("check", folder, "--no-hugging-face", "--json").stdout)["passed"] is False


# tour


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tour_of_any_family_fits_80_columns_and_writes_its_page(run, tmp_path, family):
    source = saved(tmp_path / "model", LLAMA if family == "llama" else GPT2, byte_tokenizer())
    result = run("tour", "--model", source, "--prompt", "Once upon")
    assert result.exit_code == 0 and result.stderr == "", stops(result)
    wide = [line for line in result.stdout.splitlines() if len(line) > 80]
    assert all(line.startswith("  ") for line in wide), wide  # lines to copy are not broken
    assert "\x1b" not in result.stdout
    for heading in ("tokens", "next-token distribution", "logit lens", "attention", "queries, keys and values"):
        assert f"({heading})" in result.stdout
    page = (tmp_path / "out" / "tour" / "index.html").read_text()
    assert "Plotly.react" in page and 'lang="en"' in page


def test_the_numbers_of_a_tour_are_the_models(run, folder, tmp_path):
    told = json.loads(run("tour", "--model", folder, "--prompt", "hello", "--watch", "e", "--json").stdout)
    model = load_model(folder)
    recording = record(model, "hello", document_start=True)
    probabilities = recording.logits[0, -1].softmax(-1)
    assert told["tokens"] == recording.tokens[0].tolist() and told["document_start"] == START
    for candidate in told["next_tokens"]:
        assert candidate["probability"] == pytest.approx(float(probabilities[candidate["token_id"]]), rel=1e-5)
    e = model.tokenizer.token_id("e")
    rank = int((probabilities > probabilities[e]).sum()) + 1
    assert told["lens"]["watched"] == ["e"] and list(told["lens"]["ranks"].values())[-1] == [rank]
    best = told["telling_heads"][0]
    weights = recording.stack("pattern")[:, 0, :, -1, 1:].max(-1).values
    assert weights[best["layer"], best["head"]] == weights.max()
    assert told["costs"]["weight_bytes"] == sum(p.numel() * 4 for p in model.parameters())
    assert told["page"] == "out/tour/index.html"


@pytest.mark.parametrize(
    "prompt", ["<script>alert(1)</script>", "[red]x[/red] [bold", "a\nb\tc\x1b[31m", "naïve 🙂", "x"]
)
def test_no_prompt_is_taken_for_markup(run, folder, tmp_path, prompt):
    result = run("tour", "--model", folder, "--prompt", prompt)
    assert result.exit_code == 0 and "\x1b" not in result.stdout, stops(result)
    if prompt.isprintable():
        assert f"“{prompt}”" in result.stdout.replace("\n", " ").replace("  ", " ")
    page = (tmp_path / "out" / "tour" / "index.html").read_text()
    assert "<script>alert" not in page.split("</style>")[1]


def test_a_tour_without_a_known_document_start_begins_with_the_prompt(run, tmp_path):
    source = saved(tmp_path / "model", GPT2, byte_tokenizer(start=None))
    told = json.loads(run("tour", "--model", source, "--prompt", "hi", "--json").stdout)
    assert told["document_start"] is None and told["str_tokens"] == ["h", "i"]


def test_a_tour_of_a_single_token_leaves_attention_out(run, tmp_path):
    source = saved(tmp_path / "model", GPT2, byte_tokenizer(start=None))
    result = run("tour", "--model", source, "--prompt", "x")
    assert result.exit_code == 0 and "(attention)" not in result.stdout, stops(result)


def test_a_model_without_tokenizer_is_told_apart_clearly(run, tmp_path):
    result = run("tour", "--model", saved(tmp_path / "model", GPT2, None))
    assert result.exit_code == 2 and "has no tokenizer" in result.stderr, stops(result)


def test_a_tour_that_would_keep_too_much_is_refused_before_it_runs(run, folder, monkeypatch):
    monkeypatch.setattr("probe.cli._tour.MOST_BYTES", 1000)
    result = run("tour", "--model", folder, "--prompt", "hello")
    assert result.exit_code == 2 and "give a shorter one" in result.stderr, stops(result)


def test_a_folder_that_cannot_be_written_is_found_before_the_model_is_loaded(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("tour", "--model", "no such model", "--out", tmp_path / "file" / "tour")
    assert result.exit_code == 2 and "cannot write into" in result.stderr, stops(result)


def test_the_commands_that_a_tour_ends_with_run(run, folder, tmp_path):
    result = run("tour", "--model", folder, "--prompt", "hi")
    commands = [line.strip() for line in result.stdout.splitlines() if line.startswith("  probe ")]
    assert len(commands) == 4
    for command in commands:
        done = run(*shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{stops(done)}"


def test_the_python_that_a_tour_ends_with_runs(run, folder):
    result = run("tour", "--model", folder, "--prompt", 'it\'s "so"')
    lines = result.stdout.split("import probe\n")[1].splitlines()
    namespace: dict = {"probe": probe}
    exec("\n".join(line[2:] for line in lines), namespace)
    assert namespace["rec"].effects


@pytest.mark.model
def test_the_tour_of_the_default_model_says_whose_numbers_it_shows(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["tour", "--out", "tour"])
    assert result.exit_code == 0, stops(result)
    text = " ".join(result.stdout.split())
    assert "fine-tuned for chat; its 4-bit weights expanded" in text
    assert re.search("1 ·Mary +80", text), text
    assert "·Mary ·John would say" in text and "(tokens)" in text
    assert "fine-tuned for chat" in (tmp_path / "tour" / "index.html").read_text()


def test_lens_shows_every_place_and_saves_table_manifest_and_page(run, folder, tmp_path):
    result = run("lens", "hello", "--model", folder, "--watch", "e", "--out", tmp_path / "out")
    assert result.exit_code == 0, stops(result)
    places = [line for line in result.stdout.splitlines() if re.match(r"\s+~?\s*(embedding|layer \d)", line)]
    assert len(places) == 7 and "“e”" in result.stdout
    table = pandas.read_csv(tmp_path / "out" / "table.csv")
    ranks = table.query("kind == 'watched' and position == 5")["rank"].tolist()
    for line, rank in zip(places, ranks, strict=True):
        assert f" {rank} " in line
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["method"] == "logit lens"
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "How the candidates climb" in page and "http" not in page.split("<body>")[1]


def test_a_tuned_lens_is_fitted_once_and_says_how_it_stands(run, folder, monkeypatch):
    import probe.methods.tuned_lens as tuned_lens

    fits, fit = [], tuned_lens.fit_tuned_lens
    monkeypatch.setattr(
        tuned_lens, "fit_tuned_lens", lambda *args, **rest: fits.append(1) or fit(*args, **rest, n_tokens=600)
    )
    for _ in range(2):
        result = run("lens", "hello", "--model", folder, "--tuned")
        assert result.exit_code == 0 and "Tuned lens of" in result.stdout, stops(result)
    assert fits == [1]


def test_attribute_shows_parts_that_sum_to_the_logit(run, folder, tmp_path):
    result = run("attribute", "hello", "--model", folder, "--token", "e", "--against", "a", "--out", tmp_path / "out")
    assert result.exit_code == 0, stops(result)
    told = json.loads(run("attribute", "hello", "--model", folder, "--token", "e", "--against", "a", "--json").stdout)
    total = sum(row["contribution_logits"] for row in told["rows"])
    assert f"{total:+.4f}"[:-1] in result.stdout.replace("\n", " ")
    assert (tmp_path / "out" / "index.html").exists() and told["folder"] is None
    shown = re.findall(r"^\s+(L\dH\d|L\d MLP|embed|\d+ others)\s+([+-][\d.]+)$", result.stdout, flags=re.MULTILINE)
    assert sum(float(value) for _, value in shown) == pytest.approx(total, abs=0.02)


def test_generate_streams_the_text_that_python_makes(run, folder, tmp_path):
    arguments = ["generate", "hello", "--model", folder, "-n", "6", "--seed", "3", "-t", "1.5"]
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, stops(result)
    model = load_model(folder)
    expected = probe.generate(model, "hello", max_tokens=6, seed=3, temperature=1.5, document_start=True).run()
    assert result.stdout.startswith(expected.text)
    assert "seed 3" in result.stdout and "6 tokens (max tokens)" in result.stdout
    told = json.loads(run(*arguments, "--json").stdout)
    assert told["text"] == expected.text and len(told["steps"]) == 6
    assert [step["token_id"] for step in told["steps"]] == expected.ids[-6:]
    table = pandas.read_csv(tmp_path / "out" / "table.csv")
    assert table["token_id"].tolist() == expected.ids[-6:]
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "cumulative" in page and "http" not in page.split("<body>")[1]


def test_generate_shows_the_distribution_behind_each_token(run, folder):
    result = run("generate", "hello", "--model", folder, "-n", "3", "-t", "0", "--show-distribution")
    assert result.exit_code == 0, stops(result)
    model = load_model(folder)
    for step in probe.generate(model, "hello", max_tokens=3, temperature=0, document_start=True):
        best = float(step.distribution.probabilities()[0])
        assert re.search(rf"100\.0%\s+{step.surprise:.2f}\s+\S+ {best:.1%}", result.stdout)
    assert "seed" not in result.stdout


def test_a_temperature_below_zero_is_refused_before_the_model_is_loaded(run):
    result = run("generate", "hello", "--model", "no-such-model", "-t", "-1")
    assert result.exit_code == 2 and "temperature=-1.0: expected 0" in stops(result)
    result = run("chat", "hello", "--model", "no-such-model", "--top-p", "0")
    assert result.exit_code == 2 and "top_p=0.0: expected above 0" in stops(result)


def test_a_model_that_was_not_trained_to_chat_says_so(run, folder):
    result = run("chat", "hello", "--model", folder)
    assert result.exit_code == 2 and "has no chat template" in stops(result)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:"
    return saved(tmp_path_factory.mktemp("chat") / "model", LLAMA, tokenizer)


def test_chat_answers_one_text_and_shows_what_it_continues(run, chat_folder):
    result = run("chat", "hi", "--model", chat_folder, "--system", "be", "-n", "3", "-t", "0", "--show-prompt")
    assert result.exit_code == 0, stops(result)
    assert "s : b e ; u : h i ; a :" in result.stdout
    model = load_model(chat_folder)
    talk = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    assert probe.chat(model, talk, max_tokens=3, temperature=0).run().text in result.stdout


def test_a_conversation_remembers_what_was_said(chat_folder):
    command = [
        sys.executable,
        "-c",
        "from probe.cli import main; main()",
        "chat",
        "--model",
        chat_folder,
        "-n",
        "2",
        "-t",
        "0",
        "--show-prompt",
    ]
    talk = subprocess.run(command, input="hi\n\nyo\n", capture_output=True, text=True, check=True).stdout
    model = load_model(chat_folder)
    first = probe.chat(model, "hi", max_tokens=2, temperature=0).run().text
    assert f"{15 + len(first)} tokens to continue" in talk.replace("\n", " ")


def test_keeping_a_whole_conversation_is_refused(run):
    result = run("chat", "--json")
    assert result.exit_code == 2 and "give the text to answer" in stops(result)


def test_heads_shows_the_highest_of_every_score_and_saves_maps(run, folder, tmp_path):
    text = "abcabcabc"
    result = run("heads", text, "--model", folder, "--n-random", "2", "--top", "2", "--out", tmp_path / "out")
    assert result.exit_code == 0, stops(result)
    expected = probe.head_scores(load_model(folder), text, document_start=True, n_random=2)
    for score in ("induction", "distance"):
        for source in ("text", "random"):
            layer, head, value = expected.top(score, 1, source=source)[0]
            assert f"{layer}.{head} {value:.2f}" in result.stdout
    table = pandas.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) == 2 * 6 * 3 * 4
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "even attention" in page and "http" not in page.split("<body>")[1]
    told = json.loads(run("heads", "--model", folder, "--n-random", "1", "--json").stdout)
    assert {row["source"] for row in told["rows"]} == {"random"}


def test_heads_without_anything_to_score_says_so(run, folder):
    result = run("heads", "--model", folder, "--n-random", "0")
    assert result.exit_code == 2 and "give texts, or n_random above 0" in stops(result)
