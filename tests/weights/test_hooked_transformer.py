"""Old checkpoints of HookedTransformer: the numbers of their definition, or an error that says what is wrong."""

import collections
import json
import random
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import probe
from probe.errors import BrokenFile, ProbeError, UnsupportedModel
from tests.hooked_reference import CONFIGS, SIZES, Reference, state_dict

IDS = [3, 11, 0, 7, 18, 5]
GPT2, FOLDED = CONFIGS["gpt2"], CONFIGS["folded"]


def saved(path, cfg=GPT2, **about):
    torch.save({"state_dict": state_dict(cfg), "cfg": cfg, **about}, path)
    return path


def load(path, **arguments):
    return probe.load_model(path, device="cpu", progress=False, **arguments)


def runs_as(model, cfg, tensors=None):
    ids = IDS[: cfg["n_ctx"]]
    reference = Reference(cfg, state_dict(cfg) if tensors is None else tensors)
    expected, rec = reference.run(ids), probe.record(model, ids)
    torch.testing.assert_close(rec.logits[0], expected, atol=2e-5, rtol=1e-4)
    for name, value in reference.values.items():
        torch.testing.assert_close(
            rec[name][0], value, atol=2e-5, rtol=1e-4, msg=lambda said, name=name: f"{name} {said}"
        )


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_value_is_that_of_the_definition(kind, tmp_path):
    cfg = CONFIGS[kind]
    runs_as(load(saved(tmp_path / "m.pt", cfg)), cfg)


def test_an_unembedding_bias_of_zeros_is_none(tmp_path):
    tensors = state_dict(GPT2) | {"unembed.b_U": torch.zeros(SIZES["d_vocab"])}
    torch.save({"model": tensors, "config": GPT2}, tmp_path / "m.pth")
    model = load(tmp_path / "m.pth")
    assert not model.config.unembed_bias and model.name == "m"
    runs_as(model, GPT2, tensors)


def config_object(monkeypatch, **values):
    """An object as a file holds it that saved `model.cfg` itself, numpy's numbers in it."""
    module = types.ModuleType("transformer_lens.HookedTransformerConfig")
    module.HookedTransformerConfig = type("HookedTransformerConfig", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = module.HookedTransformerConfig()
    vars(found).update(values, attn_scale=np.sqrt(values["d_head"]), dtype=torch.float32, device=torch.device("cpu"))
    return found


def test_the_config_may_be_in_the_file_as_the_object_it_was(tmp_path, monkeypatch):
    """As the notebooks on modular addition saved it; none of the object's code is needed, or run."""
    cfg = CONFIGS["modular addition"]
    about = {"config": config_object(monkeypatch, **cfg), "checkpoints": [state_dict(cfg, seed=1)], "losses": [0.5]}
    torch.save({"model": state_dict(cfg), **about}, tmp_path / "m.pth")
    monkeypatch.undo()
    runs_as(load(tmp_path / "m.pth"), cfg)


def test_the_config_may_stand_beside_the_file_or_be_given(tmp_path):
    tensors = state_dict(GPT2)
    torch.save(tensors, tmp_path / "run.pt")
    with pytest.raises(UnsupportedModel, match=r"without the config.*load_model\(path, config="):
        load(tmp_path / "run.pt")
    runs_as(load(tmp_path / "run.pt", config=GPT2), GPT2)
    (tmp_path / "elsewhere.json").write_text(json.dumps(GPT2))
    runs_as(load(tmp_path / "run.pt", config=tmp_path / "elsewhere.json"), GPT2)
    (tmp_path / "config.json").write_text(json.dumps(FOLDED))
    with pytest.raises(BrokenFile, match="surplus"):  # which has gains for no norms
        load(tmp_path / "run.pt")
    (tmp_path / "run.json").write_text(json.dumps(GPT2))  # of this file, so it comes before the folder's
    runs_as(load(tmp_path / "run.pt"), GPT2)


def test_a_folder_holds_a_config_and_one_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**GPT2, "lr": 1e-3, "act_fn": "GELU_NEW"}))
    with pytest.raises(UnsupportedModel, match="found none"):
        load(tmp_path)
    torch.save(state_dict(GPT2), tmp_path / "model_final.pth")
    runs_as(load(tmp_path), GPT2)
    torch.save(state_dict(GPT2, seed=1), tmp_path / "model_100.pth")
    runs_as(load(tmp_path), GPT2)
    torch.save(state_dict(GPT2), tmp_path / "other_final.pth")
    with pytest.raises(UnsupportedModel, match="found model_100.pth, model_final.pth, other_final.pth; give the path"):
        load(tmp_path)
    runs_as(load(tmp_path / "model_100.pth"), GPT2, state_dict(GPT2, seed=1))


def test_safetensors_of_the_same_names_are_read_too(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    save_file(state_dict(GPT2), tmp_path / "model.safetensors")
    runs_as(load(tmp_path), GPT2)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model."])
def test_what_wrappers_put_before_names_is_taken_away(prefix, tmp_path):
    tensors = collections.OrderedDict((prefix + name, tensor) for name, tensor in state_dict(GPT2).items())
    torch.save(tensors, tmp_path / "m.pt")
    runs_as(load(tmp_path / "m.pt", config=GPT2), GPT2)


def test_dtype_twin_and_tokenizer_are_as_for_every_model(tmp_path):
    path = saved(tmp_path / "m.pt", CONFIGS["attention without norms"])
    half = load(path, dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.ln_final.gain.dtype == torch.bfloat16
    twin, again = load(path, random=True, seed=3), load(path, random=True, seed=3)
    assert torch.equal(twin.W_E, again.W_E) and not torch.equal(twin.W_E, load(path).W_E)
    assert twin.config == load(path).config and (twin.ln_final.gain == 1).all()
    assert load(path).tokenizer is None


def test_a_loaded_model_is_saved_where_some_family_computes_it(tmp_path):
    """The bias of the unembedding is what GPT-2 lacks."""
    tensors = state_dict(GPT2) | {"unembed.b_U": torch.zeros(SIZES["d_vocab"])}
    torch.save({"model": tensors, "config": GPT2}, tmp_path / "m.pth")
    load(tmp_path / "m.pth").save(tmp_path / "as GPT-2")
    runs_as(load(tmp_path / "as GPT-2"), GPT2, tensors)
    with pytest.raises(UnsupportedModel, match="d_mlp = 0"):
        load(saved(tmp_path / "a.pt", CONFIGS["attention"])).save(tmp_path / "attention")
    assert not (tmp_path / "attention").exists()


def test_a_model_of_the_hub_brings_its_state_dict_and_the_tokenizer_that_its_config_names(tmp_path, monkeypatch):
    """The Hub is a fake: two folders, and a list of what was asked for."""
    asked, files = [], ["config.json", "model_final.pth", "checkpoints/model_100.pth", "README.md"]
    for name in ("org--model", "org--tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "org--model" / "config.json").write_text(json.dumps({**GPT2, "tokenizer_name": "org/tokenizer"}))
    torch.save(state_dict(GPT2), tmp_path / "org--model" / "model_final.pth")
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.save(str(tmp_path / "org--tokenizer" / "tokenizer.json"))

    class Hub:
        def model_info(self, name, timeout):
            names = files if name == "org/model" else ["tokenizer.json"]
            return types.SimpleNamespace(siblings=[types.SimpleNamespace(rfilename=file) for file in names])

    def download(name, **options):
        asked.append((name, options["allow_patterns"]))
        return str(tmp_path / name.replace("/", "--"))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for random_weights in (False, True):
        model = load("org/model", random=random_weights)
        assert model.name.startswith("org/model") and model.tokenizer.str_tokens([1]) == ["b"]
        assert asked[1][1][-1] == "model_final.pth" and [name for name, _ in asked] == [
            "org/model", "org/model", "org/tokenizer",
        ]  # fmt: skip
        asked.clear()
    runs_as(load("org/model"), GPT2)
    files.remove("model_final.pth")
    with pytest.raises(UnsupportedModel, match="pickle files of Hugging Face models are never read"):
        load("org/model")


REFUSED = {
    "attention_dir": ("bidirectional", "attention_dir = 'bidirectional'"),
    "positional_embedding_type": ("shortformer", "'shortformer' is not supported; supported: standard, rotary"),
    "normalization_type": ("BatchNorm", "normalization_type = 'BatchNorm' is not supported"),
    "act_fn": ("swiglu", "act_fn = 'swiglu' is not supported; supported: relu"),
    "final_rms": (True, "final_rms = True"),
    "num_experts": (4, "num_experts = 4"),
    "post_embedding_ln": (True, "post_embedding_ln = True"),
    "rotary_adjacent_pairs": (True, "rotary_adjacent_pairs = True"),
    "n_ctx": (None, "lacks n_ctx"),
    "n_layers": ("two", "n_layers is 'two'; expected a whole number"),
    "d_head": (0, "d_head is 0; expected a whole number"),
    "eps": (float("nan"), "eps is nan; expected a number above 0"),
    "d_vocab_out": (21, "d_vocab_out 21: more tokens than d_vocab, 20"),
    "use_qk_norm": (True, "qk_norm was given"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_name(name, tmp_path):
    value, says = REFUSED[name]
    with pytest.raises(ProbeError, match=says):
        load(saved(tmp_path / "m.pt", GPT2), config={**GPT2, name: value})


def test_tensors_that_do_not_fit_the_config_are_named(tmp_path):
    for change, says in (
        ({"blocks.1.attn.W_K": None}, r"1 tensor \(blocks.1.attn.W_K\) missing"),
        ({"blocks.2.attn.W_K": torch.zeros(1)}, r"1 tensor \(blocks.2.attn.W_K\) surplus"),
        ({"blocks.0.mlp.W_in": torch.zeros(24, 16)}, r"blocks.0.mlp.W_in is \(24, 16\), expected \(16, 24\)"),
        ({"blocks.0.attn.W_O": torch.zeros(4, 16, 4)}, r"W_O is \(4, 16, 4\), expected \(4, 4, 16\)"),
        ({"embed.W_E": torch.full((20, 16), torch.nan)}, "embed.W_E holds NaN or infinity"),
        ({"embed.W_E": torch.zeros(1).expand(20, 16)}, "embed.W_E is larger than what the file holds"),
        ({"embed.W_E": torch.zeros(20, 16, dtype=torch.int8)}, "stored as torch.int8"),
        ({"embed.W_E": None}, "no tensor embed.W_E"),
    ):
        tensors = {name: tensor for name, tensor in (state_dict(GPT2) | change).items() if tensor is not None}
        torch.save({"state_dict": tensors, "cfg": GPT2}, tmp_path / "m.pt")
        with pytest.raises(ProbeError, match=says):
            load(tmp_path / "m.pt")
    gated = CONFIGS["llama"]
    torch.save({"model": state_dict(gated) | {"blocks.1.mlp.b_in": torch.ones(24)}, "cfg": gated}, tmp_path / "m.pt")
    with pytest.raises(UnsupportedModel, match=r"blocks.1.mlp.b_in.*after the gate"):
        load(tmp_path / "m.pt")
    with pytest.raises(BrokenFile, match="9,999 layers, but"):
        load(saved(tmp_path / "m.pt"), config={**GPT2, "n_layers": 9999})
    with pytest.raises(UnsupportedModel, match="is no config of HookedTransformer"):
        load(saved(tmp_path / "m.pt"), config={"hidden_size": 3})
    with pytest.raises(UnsupportedModel, match="config goes with a state dict of HookedTransformer"):
        load(None, config=GPT2)


class Told:
    """What must never be run."""

    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_file_is_never_run(tmp_path, capsys):
    saved(tmp_path / "m.pt", note=Told())
    with pytest.raises(UnsupportedModel, match="reading it would run print, and no code"):
        load(tmp_path / "m.pt")
    assert capsys.readouterr().out == ""


def test_damage_is_an_error_or_harmless(tmp_path):
    """Cut at every hundredth byte, and bytes changed at random: an error of ours, or finite numbers."""
    whole = saved(tmp_path / "whole.pt", CONFIGS["modular addition"]).read_bytes()
    path, drawn = tmp_path / "m.pt", random.Random(0)
    for end in range(0, len(whole), len(whole) // 100):
        path.write_bytes(whole[:end])
        with pytest.raises(BrokenFile, match="truncated, corrupt or nothing that torch saved"):
            load(path)
    loaded = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(drawn.choice([1, 1, 20])):
            damaged[drawn.randrange(len(damaged))] = drawn.randrange(256)
        path.write_bytes(damaged)
        try:
            model = load(path)
        except ProbeError:
            continue
        with torch.no_grad():
            assert model(torch.tensor([[1, 2, 3]])).isfinite().all()
        loaded += 1
    assert loaded < 150
