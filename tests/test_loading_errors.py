"""A model that cannot be loaded is refused by name, with what was expected; no half a model comes back."""

import json
import shutil

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

import probe
from probe.errors import BrokenFile, FetchFailed, ProbeError, UnknownName, UnsupportedModel
from tests.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("as_users_run_it")


@pytest.fixture
def folder(tmp_path):
    """A model as Hugging Face publishes them, ready to be damaged."""
    model = tiny_model("llama")
    model.tokenizer = None
    model.save(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NORM, QUERY = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"
DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), ProbeError, ["config.json"]),
    "config that is no JSON": (lambda f: (f / "config.json").write_text("{"), BrokenFile, ["config.json", "JSON"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ProbeError, ["safetensors"]),
    "no number of layers": (lambda f: change_config(f, num_hidden_layers=...), ProbeError, ["num_hidden_layers"]),
    "no width": (lambda f: change_config(f, hidden_size=...), ProbeError, ["hidden_size"]),
    "no architecture": (lambda f: change_config(f, model_type=..., architectures=...), ProbeError, ["model_type"]),
    "unknown architecture": (
        lambda f: change_config(f, model_type="mamba", architectures=["MambaForCausalLM"]),
        UnsupportedModel, ["mamba", "gpt2", "llama", "mistral", "qwen2"],
    ),
    "unknown activation": (lambda f: change_config(f, hidden_act="xielu"), UnsupportedModel, ["hidden_act", "xielu"]),
    "weights cut off": (lambda f: cut(f / "model.safetensors"), BrokenFile, ["model.safetensors"]),
    "weights of another shape": (
        lambda f: change_weights(f, lambda w: w.update({QUERY: torch.zeros(3, 32)})), BrokenFile, [QUERY, "32"],
    ),
    "a missing weight": (lambda f: change_weights(f, lambda w: w.pop(NORM)), BrokenFile, ["norm.weight", "missing"]),
    "a surplus weight": (
        lambda f: change_weights(f, lambda w: w.update({"model.extra.weight": torch.zeros(2)})),
        BrokenFile, ["model.extra.weight"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "names"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_refused_by_what_is_wrong_with_it(damage, error, names, folder):
    probe.load_model(folder)  # whole, it loads
    damage(folder)
    check(folder, error, names)


def check(source, error, names, **arguments) -> None:
    with pytest.raises(error) as raised:
        probe.load_model(source, **arguments)
    assert isinstance(raised.value, ProbeError)
    assert all(name in str(raised.value) for name in names), str(raised.value)


def test_a_folder_of_pickled_weights_is_not_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    check(folder, ProbeError, ["pytorch_model.bin", "pickle", "save_pretrained"])


def test_a_gguf_file_of_an_unknown_architecture_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    check(tmp_path / "x.gguf", UnsupportedModel, ["mamba", "llama", "gpt2"])


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"PK\x03\x04 no gguf at all, but long enough to hold a header"], ids=repr
)
def test_what_is_no_whole_gguf_file_is_named(content, tmp_path):
    (tmp_path / "x.gguf").write_bytes(content)
    check(tmp_path / "x.gguf", BrokenFile, ["x.gguf"])


def test_a_name_that_is_not_known_brings_the_nearest():
    check("smollm2-135m-instruct-q4_0", UnknownName, ["did you mean 'smollm2-135m-instruct-q4_1'", "probe models"])
    check(3, UnknownName, ["int", "a name, a path"])


def test_a_dtype_or_device_that_is_not_there_is_found_before_files_are_read(folder):
    shutil.rmtree(folder)
    check(folder, UnknownName, ["'float61'", "'float16'"], dtype="float61")
    check(folder, ProbeError, ["cuda:77", "'cpu' works"], device="cuda:77")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "file" / "cache"))
    check(None, FetchFailed, [str(tmp_path / "file" / "cache"), "PROBE_CACHE"])
