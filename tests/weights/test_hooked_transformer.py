"""Old checkpoints of HookedTransformer: the numbers of their definition, or an error that says what is wrong."""

import collections
import json
import os
import random
import re
import sys
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import probe
from probe.config import RotaryScaling
from probe.errors import BrokenFile, ProbeError, UnknownName, UnsupportedModel
from probe.weights._hooked_config import NEUTRAL
from tests.hooked_reference import CONFIGS, SIZES, Reference, state_dict

WORDS = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
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


def config_object(monkeypatch, name, **values):
    """An object as a file holds it that saved `model.cfg` itself, numpy's numbers in it."""
    module = types.ModuleType(name)
    kind = name.rpartition(".")[2]
    setattr(module, kind, type(kind, (), {"__module__": name}))
    for known in (name, name.partition(".")[0]):
        monkeypatch.setitem(sys.modules, known, module)
    found = getattr(module, kind)()
    vars(found).update(values, attn_scale=np.sqrt(values["d_head"]), dtype=torch.float32, device=torch.device("cpu"))
    return found


OBJECTS = ("transformer_lens.HookedTransformerConfig", "easy_transformer.EasyTransformerConfig")


@pytest.mark.parametrize("name", OBJECTS)
def test_the_config_may_be_in_the_file_as_the_object_it_was(name, tmp_path, monkeypatch):
    """As the notebooks on modular addition saved it; none of the object's code is needed, or run."""
    cfg = CONFIGS["modular addition"]
    about = {
        "config": config_object(monkeypatch, name, **cfg, to_dict="a value"),
        "checkpoints": [state_dict(cfg, seed=1)],
        "losses": [0.5],
    }
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


def test_a_config_in_the_file_comes_before_those_beside_it_whatever_they_are(tmp_path):
    saved(tmp_path / "m.pt")
    (tmp_path / "m.json").write_text("[1, 2]")  # somebody's losses
    runs_as(load(tmp_path / "m.pt"), GPT2)


def test_the_oldest_configs_call_the_norms_otherwise(tmp_path):
    cfg = {name: value for name, value in FOLDED.items() if name != "normalization_type"}
    torch.save({"model": state_dict(FOLDED), "cfg": {**cfg, "normalization": "LNPre"}}, tmp_path / "m.pt")
    runs_as(load(tmp_path / "m.pt"), FOLDED)


def test_stretched_rotary_frequencies_are_those_of_llama_3(tmp_path):
    stretched = {"use_NTK_by_parts_rope": True, "NTK_by_parts_factor": 4.0, "NTK_original_ctx_len": 64}
    found = load(saved(tmp_path / "m.pt", CONFIGS["llama"]), config={**CONFIGS["llama"], **stretched})
    assert found.config.rotary_scaling == RotaryScaling("llama3", factor=4.0, original_n_ctx=64)


def test_threads_load_at_once(tmp_path):
    """torch keeps one list of allowed classes for the whole process."""
    cfg = {**GPT2, "eps": np.float64(1e-5)}
    path = saved(tmp_path / "m.pt", cfg)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load(path), range(60)))
    assert len(models) == 60


def test_a_folder_holds_a_config_and_one_checkpoint(tmp_path):
    saved(tmp_path / "m.pt")  # the config may be in the checkpoint itself
    runs_as(load(tmp_path), GPT2)
    (tmp_path / "m.pt").unlink()
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


def test_dtype_and_tokenizer_are_as_for_every_model(tmp_path):
    path = saved(tmp_path / "m.pt", CONFIGS["attention without norms"])
    half = load(path, dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.ln_final.gain.dtype == torch.bfloat16
    assert half.tokenizer is None
    WORDS.save(str(tmp_path / "tokenizer.json"))
    assert load(path).tokenizer.str_tokens([1]) == ["b"]


def test_the_untrained_twin_has_the_same_config(tmp_path):
    path = saved(tmp_path / "m.pt", CONFIGS["attention without norms"])
    twin, again = load(path, random=True, seed=3), load(path, random=True, seed=3)
    assert torch.equal(twin.W_E, again.W_E) and not torch.equal(twin.W_E, load(path).W_E)
    assert twin.config == load(path).config and (twin.ln_final.gain == 1).all()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_loaded_model_is_saved_where_some_family_computes_it(kind, tmp_path):
    """No family but Phi has a bias of the unembedding, so it is left out."""
    cfg, says = CONFIGS[kind], SAVED_AS_NONE.get(kind)
    tensors = state_dict(cfg) | {"unembed.b_U": torch.zeros(cfg.get("d_vocab_out", SIZES["d_vocab"]))}
    torch.save({"model": tensors, "config": cfg}, tmp_path / "m.pth")
    model = load(tmp_path / "m.pth")
    if says is None:
        model.save(tmp_path / "saved")
        runs_as(load(tmp_path / "saved"), cfg, tensors)
    else:
        with pytest.raises(UnsupportedModel, match=f"cannot save in Hugging Face's layout: .*{says}"):
            model.save(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()


SAVED_AS_NONE = {
    "attention": "d_mlp = 0", "attention, folded": "d_mlp = 0", "attention without norms": "norm = 'none', d_mlp = 0",
    "modular addition": "norm = 'none', d_vocab_out = 19", "solu": "activation = 'solu', mlp_norm = True",
    "solu, folded": "activation = 'solu', mlp_norm = True", "solu without norm": "norm = 'none', activation = 'solu'",
    "scaled": "attn_scale = ", "gemma2": "gemma2", "neo": "windows = ",
}  # fmt: skip


def test_a_model_of_the_hub_brings_its_state_dict_and_the_tokenizer_that_its_config_names(tmp_path, monkeypatch):
    """The Hub is a fake: two folders, and a list of what was asked for."""
    asked, files = [], ["config.json", "model_final.pth", "checkpoints/model_100.pth", "README.md"]
    for name in ("org--model", "org--tokenizer"):
        (tmp_path / name).mkdir()
    (tmp_path / "org--model" / "config.json").write_text(json.dumps({**GPT2, "tokenizer_name": "org/tokenizer"}))
    torch.save(state_dict(GPT2), tmp_path / "org--model" / "model_final.pth")
    WORDS.save(str(tmp_path / "org--tokenizer" / "tokenizer.json"))

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
    files.append("other_final.pth")
    with pytest.raises(UnsupportedModel, match="2 checkpoints .model_final.pth, other_final.pth., and not exactly one"):
        load("org/model")
    del files[1], files[-1]
    with pytest.raises(UnsupportedModel, match="pickle files of Hugging Face models are never read"):
        load("org/model")
    files[:] = ["run.pt"]
    torch.save(state_dict(GPT2), tmp_path / "org--model" / "run.pt")
    (tmp_path / "org--model" / "config.json").unlink()
    (tmp_path / "org--model" / "model_final.pth").unlink()
    runs_as(load("org/model", config=GPT2), GPT2)


REFUSED = {
    "positional_embedding_type": ("shortformer", "'shortformer' is not supported; supported: standard, rotary"),
    "normalization_type": ("BatchNorm", "normalization_type = 'BatchNorm' is not supported"),
    "act_fn": ("swiglu", "act_fn = 'swiglu' is not supported; supported: relu"),
    "n_ctx": (None, "the config lacks n_ctx"),
    "n_layers": ("two", "n_layers is 'two'; expected a whole number"),
    "d_head": (0, "d_head is 0; expected a whole number"),
    "eps": (float("nan"), "eps is nan; expected a number above 0"),
    "attn_scale": (-2, "attn_scale is -2; expected a number above 0"),
    "output_logits_soft_cap": ("50", "output_logits_soft_cap is '50'; expected a number above 0"),
    "attn_scores_soft_cap": (float("nan"), "attn_scores_soft_cap is nan; expected a number above 0"),
    **{name: (value, f"this GPT does not compute {name} = ") for name, value in {
        **dict.fromkeys(NEUTRAL, True), "attention_dir": "bidirectional", "num_experts": 4, "experts_per_token": 2,
        "relative_attention_max_distance": 128, "clip_qkv": 8.0, "rotary_base_local": 10_000.0,
        "rotary_scaling_factor": 8.0,
    }.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_file_and_name(name, tmp_path):
    value, says = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=rf"m\.pt: .*{re.escape(says)}"):
        load(saved(tmp_path / "m.pt", GPT2), config={**GPT2, name: value})


def test_settings_that_exclude_each_other_are_refused(tmp_path):
    for changes, says in (
        ({"d_vocab_out": 21}, "d_vocab_out 21: more tokens than d_vocab, 20"),
        ({"use_qk_norm": True}, "qk_norm was given"),
        ({"act_fn": "solu_ln", "gated_mlp": True}, "mlp_norm was given, but the MLP is gated"),
        ({"use_local_attn": True, "attn_types": ["local", "local"]}, "window_size is None; expected a whole number"),
        ({"use_local_attn": True, "attn_types": ["near"], "window_size": 2}, "expected 'global' or 'local' for each"),
    ):
        with pytest.raises(ProbeError, match=says):
            load(saved(tmp_path / "m.pt", GPT2), config={**GPT2, **changes})


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
    with pytest.raises(BrokenFile, match="9,999 layers, but"):
        load(saved(tmp_path / "m.pt"), config={**GPT2, "n_layers": 9999})
    with pytest.raises(UnsupportedModel, match="is no config of HookedTransformer: it lacks n_layers, d_model, d_head"):
        load(saved(tmp_path / "m.pt"), config={"hidden_size": 3})
    with pytest.raises(UnsupportedModel, match="config goes with a .pt or .pth file"):
        load(None, config=GPT2)


def test_a_bias_that_comes_after_the_gate_is_put_into_the_output(tmp_path):
    cfg = CONFIGS["llama"]
    tensors = state_dict(cfg) | {"blocks.1.mlp.b_in": torch.arange(24) / 10.0}
    torch.save({"model": tensors, "cfg": cfg}, tmp_path / "m.pt")
    reference, rec = Reference(cfg, tensors), probe.record(load(tmp_path / "m.pt"), IDS)
    torch.testing.assert_close(rec.logits[0], reference.run(IDS), atol=2e-5, rtol=1e-4)
    mlp_out = "blocks.1.hook_mlp_out"
    torch.testing.assert_close(rec[mlp_out][0], reference.values[mlp_out], atol=2e-5, rtol=1e-4)


def test_which_state_dict_and_which_config_are_meant_is_never_guessed(tmp_path):
    first, second, path = state_dict(GPT2), state_dict(GPT2, seed=1), tmp_path / "m.pt"
    torch.save({"init": first, "final": second, "cfg": GPT2}, path)
    with pytest.raises(UnsupportedModel, match="2 state dicts, 'init', 'final'; save one alone"):
        load(path)
    torch.save({"init": first, "model": second, "cfg": GPT2, "old": FOLDED}, path)
    runs_as(load(path), GPT2, second)
    torch.save({"model": first, "new": GPT2, "old": FOLDED}, path)
    with pytest.raises(UnsupportedModel, match="2 configs, 'new', 'old'; give the right one with config="):
        load(path)
    torch.save({"checkpoints": [first, second], "cfg": GPT2}, path)
    with pytest.raises(UnsupportedModel, match="state dicts only in a list, 'checkpoints'; save one of them alone"):
        load(path)


@pytest.mark.parametrize("switch", ["parallel_attn_mlp", "use_attn_scale", "attn_only", "use_local_attn"])
def test_a_text_is_no_truth_value(switch, tmp_path):
    with pytest.raises(UnsupportedModel, match=f"m.pt: {switch} is 'False'; expected True or False"):
        load(saved(tmp_path / "m.pt"), config={**GPT2, switch: "False"})


@pytest.mark.parametrize(
    "value", [torch.ones(3), [[]], {"a": 1}, b"x", 1j, np.ones(3), "x" * 10**6], ids=lambda v: str(type(v))
)
@pytest.mark.parametrize("name", ["n_layers", "eps", "act_fn", "attn_only", "normalization_type", "clip_qkv",
                                  "positional_embedding_type", "attn_scores_soft_cap", "attn_scale"])  # fmt: skip
def test_a_setting_of_any_other_kind_is_refused(name, value, tmp_path):
    with pytest.raises(UnsupportedModel, match=name) as refused:
        load(saved(tmp_path / "m.pt"), config={**GPT2, name: value})
    assert len(str(refused.value)) < 500


def test_what_a_training_run_saves_besides_is_read_or_passed_over(tmp_path):
    numbers = {kind: np.dtype(kind).type(1) for kind in ("f2", "f4", "f8", "i1", "i8", "u1", "?")}
    path = saved(tmp_path / "m.pt", losses=np.arange(9.0), labels=np.array(["a"]), **numbers)
    runs_as(load(path), GPT2)
    assert load(saved(path, {**GPT2, "eps": np.float32(1e-3)})).config.norm_eps == pytest.approx(1e-3)


class Pointer:
    """A number of numpy's whose type says that its bytes are an object's address: numpy itself would follow it."""

    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (_Record(), b"A" * 8)


class _Record:
    def __reduce__(self):
        return np.dtype, (("V8", _Field()),)


class _Field:
    def __reduce__(self):
        return np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": (_Object(), 0)}, -1, -1, 0)


class _Object:
    def __reduce__(self):
        return np.dtype, ("O",)


class Large:
    """Asks for more memory than its file holds."""

    def __reduce__(self):
        return bytearray, (2**36,)


@pytest.mark.parametrize("attack", [Pointer(), Large()], ids=["pointer", "large"])
def test_no_file_has_addresses_followed_or_memory_taken(attack, tmp_path):
    says = "no plain one" if isinstance(attack, Pointer) else "asks for more memory"
    with pytest.raises(BrokenFile, match=says):
        load(saved(tmp_path / "m.pt", {**GPT2, "seed": attack}))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_another_protocol_is_no_damage(tmp_path):
    torch.save({"model": state_dict(GPT2), "cfg": GPT2}, tmp_path / "m.pt", pickle_protocol=4)
    with pytest.raises(UnsupportedModel, match="pickled by another protocol"):
        load(tmp_path / "m.pt")


def test_a_compressed_archive_is_refused(tmp_path):
    """torch only stores; a megabyte could become a thousand."""
    whole = saved(tmp_path / "whole.pt")
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.namelist():
            packed.writestr(entry, source.read(entry))
    with pytest.raises(BrokenFile, match="asks for more memory than it has bytes"):
        load(tmp_path / "m.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(BrokenFile, match="pipe.pt: no file"):
        load(tmp_path / "pipe.pt")
    with pytest.raises(UnknownName):
        load("x" * 300 + ".pt")


@pytest.mark.parametrize("tensor", [
    torch.zeros(20, device="meta"),
    torch.zeros(20).to_sparse(), torch.zeros(20, dtype=torch.complex64),
    torch.nested.nested_tensor([torch.zeros(20)], layout=torch.jagged),
], ids=["meta", "sparse", "complex", "nested"])  # fmt: skip
def test_tensors_of_other_kinds_are_refused(tensor, tmp_path):
    for name in ("unembed.b_U", "blocks.0.mlp.b_out"):
        torch.save({"model": state_dict(GPT2) | {name: tensor}, "cfg": GPT2}, tmp_path / "m.pt")
        with pytest.raises(ProbeError, match="m.pt"):
            load(tmp_path / "m.pt")


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
    assert 0 < loaded < 150  # 36 of them, when this was written: bytes that lie in nothing that is read, or in numbers
