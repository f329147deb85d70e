"""Hugging Face folders, modules and Hub names: what loads, what is refused and how the message helps."""

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

import probe.weights.hub
from probe.config import GPTConfig, RotaryScaling
from probe.errors import (
    BadShape,
    BrokenFile,
    FetchFailed,
    NotSaved,
    OutOfRange,
    ProbeError,
    UnknownName,
    UnsupportedModel,
)
from probe.gpt import GPT
from probe.weights import load_model, save_model
from probe.weights._hf_config import read_config
from probe.weights._hf_families import FAMILIES
from tests.tiny import GEMMA2

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
         "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 50, "n_positions": 64}
TOKENS = torch.arange(20)[None] % 7


def gpt2_module(**options):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(GPT2Config(**{**GPT2, **options})).eval()


def llama_module(**options):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, **options})).eval()


def logits_of(model):
    with torch.no_grad():
        return model(TOKENS)


@pytest.fixture
def gpt2(tmp_path):
    """A GPT-2 folder as transformers saves it, its logits beside."""
    return saved(gpt2_module(), tmp_path / "gpt2")


@pytest.fixture
def llama(tmp_path):
    return saved(llama_module(), tmp_path / "llama")


def saved(module, folder):
    module.save_pretrained(folder)
    return folder


def edit_config(folder, *, drop=(), **values):
    path = folder / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(kept | values))


def edit_tensors(folder, change):
    """`change` returns the new tensors, or changes values in place."""
    tensors = load_file(folder / "model.safetensors")
    changed = change(tensors)
    save_file(changed if isinstance(changed, dict) else tensors, folder / "model.safetensors", {"format": "pt"})


# --- what loads ------------------------------------------------------------------------------------------------------


def test_a_folder_loads_with_the_logits_of_the_module_that_wrote_it(gpt2, llama):
    for folder, module in ((gpt2, gpt2_module()), (llama, llama_module())):
        model = load_model(folder)
        assert model.name == folder.name and model.tokenizer is None
        torch.testing.assert_close(logits_of(model), module(TOKENS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("module", [gpt2_module, llama_module])
def test_many_files_with_an_index_equal_one_file(module, tmp_path):
    one, many = saved(module(), tmp_path / "one"), tmp_path / "many"
    module().save_pretrained(many, max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 2 and not (many / "model.safetensors").exists()
    assert torch.equal(logits_of(load_model(one)), logits_of(load_model(many)))
    (many / "model.safetensors.index.json").unlink()
    assert torch.equal(logits_of(load_model(one)), logits_of(load_model(many))), "all files there are, without an index"


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt2_loads_with_and_without_prefix_masks_and_tied_unembedding(gpt2, prefix):
    expected = logits_of(load_model(gpt2))

    def as_published(tensors):
        renamed = {prefix + name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        for layer in range(2):
            renamed[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
            renamed[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        renamed["lm_head.weight"] = renamed[f"{prefix}wte.weight"].clone()
        return renamed

    edit_tensors(gpt2, as_published)
    assert torch.equal(logits_of(load_model(gpt2)), expected)


def test_saved_rotary_frequencies_are_no_surplus(llama):
    expected = logits_of(load_model(llama))
    edit_tensors(llama, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert torch.equal(logits_of(load_model(llama)), expected)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float32"},
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "dtype": "float32"},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
        {"rope_theta": 500, "rope_parameters": {"rope_type": "linear", "factor": 2}},
    ],
)
def test_old_and_new_spellings_of_rotary_positions_are_read_as_transformers_reads_them(llama, spelling):
    edit_config(llama, drop=("rope_parameters", "dtype"), **spelling)
    model = load_model(llama)
    assert model.config.rotary_theta == 500.0
    assert model.config.rotary_scaling == RotaryScaling("linear", factor=2.0)
    theirs = AutoModelForCausalLM.from_pretrained(llama)(TOKENS).logits
    torch.testing.assert_close(logits_of(model), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rope", "n_ctx", "original"),
    [
        ({"type": "dynamic", "factor": 4.0}, 256, 64),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256, 64),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}, 64, 32),
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}, 64, 32),
        ({"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
          "original_max_position_embeddings": 16}, 64, 16),
        ({"type": "linear", "factor": 2.0}, 64, None),
    ],
)  # fmt: skip
def test_the_longest_prompt_follows_from_the_kind_of_scaling(rope, n_ctx, original):
    config, _ = read_config({"model_type": "llama", **SIZES, "rope_scaling": rope}, source="here")
    assert config.n_ctx == n_ctx and config.rotary_scaling.original_n_ctx == original


def test_a_factor_that_is_not_given_is_the_ratio_of_the_contexts():
    rope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    values = {"model_type": "llama", **SIZES, "rope_scaling": rope, "original_max_position_embeddings": 16}
    assert read_config(values, source="here")[0].rotary_scaling.factor == 4.0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_missing_keys_mean_what_transformers_takes_for_them(family):
    config_class = transformers.AutoConfig.for_model(family.model_type).__class__
    fields = {name: field.default for name, field in config_class.__dataclass_fields__.items()}
    for key, default in family.defaults.items():
        assert fields.get(key) == default, key  # None of keys that it reads, though its class does not declare them
    sizes = {**GPT2, **SIZES, "num_layers": 24, "num_heads": 4}
    required = {key: sizes[key] for key in family.required}
    if family.defaults.get("num_key_value_heads") is not None:
        required |= {"num_attention_heads": 32, "hidden_size": 64}  # their default of 8 or 32 key heads fits no fewer
    if family.model_type == "gpt_neox":
        required |= {"hidden_size": 64}  # a quarter of each head turns
    sparse, _ = read_config({"model_type": family.model_type, **required}, source="here")
    full, _ = read_config(config_class(**required).to_dict(), source="here")
    assert sparse == full


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "float64"])
def test_weights_are_converted_to_the_dtype_asked_for(llama, dtype):
    model = load_model(llama, dtype=dtype)
    expected = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    torch.testing.assert_close(model.W_E, load_model(llama).W_E.to(expected), atol=0, rtol=0)


def test_half_precision_folders_load_as_float32(tmp_path):
    module = llama_module().to(torch.bfloat16)
    model = load_model(saved(module, tmp_path / "half"))
    assert model.dtype == torch.float32
    assert torch.equal(model.W_E, module.get_input_embeddings().weight.float())


def test_a_module_in_memory_is_copied():
    module = llama_module()
    model = load_model(module)
    assert model.tokenizer is None and model.name == "LlamaForCausalLM"
    before = logits_of(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert torch.equal(logits_of(model), before)


def fast_tokenizer():
    backend = Backend(models.WordLevel({str(i): i for i in range(50)}, unk_token="0"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="1", eos_token="2")


def test_a_tokenizer_can_be_given_and_is_saved_with_the_model(tmp_path):
    model = load_model(llama_module(), tokenizer=fast_tokenizer())
    assert model.tokenizer.encode("7") == [7]
    model.save(tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert back.tokenizer.encode("7") == [7] and back.tokenizer.bos == "1"
    assert load_model(llama_module(), tokenizer=back.tokenizer).tokenizer is back.tokenizer
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (1, 2)


def test_the_untrained_twin_has_the_same_shape_and_other_weights(llama):
    fast_tokenizer().save_pretrained(llama)
    trained, twin = load_model(llama), load_model(llama, random=True)
    assert twin.config == trained.config and twin.tokenizer.encode("7") == [7]
    assert "untrained" in twin.name
    assert not torch.equal(twin.W_E, trained.W_E)
    assert torch.equal(twin.W_E, load_model(llama, random=True).W_E)
    assert not torch.equal(twin.W_E, load_model(llama, random=True, seed=1).W_E)
    assert torch.equal(load_model(llama_module(), random=True).W_Q[1], twin.W_Q[1])
    assert torch.equal(load_model(llama, random=True, dtype="bfloat16").W_E, twin.W_E.bfloat16())


def test_the_untrained_twin_reads_no_weights_and_leaves_torchs_own_generator_alone(llama):
    (llama / "model.safetensors").unlink()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_model(llama, random=True)
    assert torch.equal(torch.rand(1), expected)


# --- what is refused -------------------------------------------------------------------------------------------------


def rewrite(path, text):
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)


NEO = {"model_type": "gpt_neo", "architectures": None, "num_layers": 2, "num_heads": 4}
BROKEN_FOLDERS = {
    "no config": (lambda f: (f / "config.json").unlink(), BrokenFile, "no config.json"),
    "config is no JSON": (lambda f: rewrite(f / "config.json", "{"), BrokenFile, "config.json: not valid JSON"),
    "config is a list": (lambda f: rewrite(f / "config.json", "[]"), BrokenFile, "expected a JSON object, got list"),
    "config is no text": (lambda f: rewrite(f / "config.json", b"\xff\xfe\x00"), BrokenFile, "not valid JSON"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), BrokenFile, "no weights in it; expected model"),
    "weights truncated": (
        lambda f: rewrite(f / "model.safetensors", (f / "model.safetensors").read_bytes()[:-100]),
        BrokenFile,
        "model.safetensors: truncated",
    ),
    "weights empty": (lambda f: rewrite(f / "model.safetensors", b""), BrokenFile, "model.safetensors: truncated"),
    "weights are text": (lambda f: rewrite(f / "model.safetensors", "hello " * 99), BrokenFile, "no safetensors file"),
    "missing tensor": (
        lambda f: edit_tensors(f, lambda t: {k: v for k, v in t.items() if "1.mlp.up" not in k}),
        BrokenFile,
        "1 tensor (layers.1.mlp.up_proj.weight) missing",
    ),
    "many missing": (
        lambda f: edit_tensors(f, lambda t: {k: v for k, v in t.items() if "layers" not in k}),
        BrokenFile,
        "18 tensors (layers.0.input_layernorm.weight, ",
    ),
    "surplus tensor": (
        lambda f: edit_tensors(f, lambda t: t | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}),
        BrokenFile,
        "1 tensor (model.layers.0.self_attn.q_norm.weight) surplus",
    ),
    "bias that the config denies": (
        lambda f: edit_tensors(f, lambda t: t | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
        BrokenFile,
        "q_proj.bias) surplus",
    ),
    "twice": (
        lambda f: edit_tensors(f, lambda t: t | {"norm.weight": torch.ones(32)}),
        BrokenFile,
        "norm.weight is there twice",
    ),
    "wrong shape": (
        lambda f: edit_tensors(f, lambda t: t | {"model.norm.weight": torch.ones(31)}),
        BrokenFile,
        "model.norm.weight is (31,), expected (32,)",
    ),
    "wrong shapes everywhere": (
        lambda f: edit_config(f, intermediate_size=40),
        BrokenFile,
        "6 of the wrong shape for its config: model.layers.0.mlp.gate_proj.weight is (48, 32), expected (40, 32)",
    ),
    "NaN": (
        lambda f: edit_tensors(f, lambda t: t["model.norm.weight"].fill_(float("nan"))),
        BrokenFile,
        "model.norm.weight holds NaN or infinity",
    ),
    "infinity": (
        lambda f: edit_tensors(f, lambda t: t["lm_head.weight"][3, 4].fill_(float("-inf"))),
        BrokenFile,
        "lm_head.weight holds NaN or infinity",
    ),
    "quantised": (
        lambda f: edit_tensors(f, lambda t: t | {"lm_head.weight": torch.ones(50, 32, dtype=torch.int8)}),
        UnsupportedModel,
        "lm_head.weight is stored as torch.int8",
    ),
    "untied without unembedding": (
        lambda f: edit_tensors(f, lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}),
        BrokenFile,
        "config.json must say tie_word_embeddings = true",
    ),
    "tied but different": (
        lambda f: edit_config(f, tie_word_embeddings=True),
        BrokenFile,
        "lm_head.weight differs from model.embed_tokens.weight",
    ),
    "index without its files": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            rewrite(f / "model.safetensors.index.json", '{"weight_map": {"a": "x.safetensors"}}'),
        ),
        BrokenFile,
        "1 of its 1 files are missing: x.safetensors",
    ),
    "index that leaves the folder": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            rewrite(f / "model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}'),
        ),
        BrokenFile,
        "the name of a file beside it",
    ),
    "one tensor in two files": (
        lambda f: (
            shutil.copy(f / "model.safetensors", f / "b.safetensors"),
            (f / "model.safetensors").rename(f / "a.safetensors"),
        ),
        BrokenFile,
        "is also in a.safetensors",
    ),
    "pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        UnsupportedModel,
        "pickle files (pytorch_model.bin), which can run any code when read and so are never read; if you trust it",
    ),
    "another architecture": (
        lambda f: edit_config(f, model_type="bloom", architectures=["BloomForCausalLM"]),
        UnsupportedModel,
        "BloomForCausalLM (model_type 'bloom') is not supported; supported: GPT2LMHeadModel (gpt2), GPTNeoFor",
    ),
    "another head": (
        lambda f: edit_config(f, architectures=["LlamaForSequenceClassification"]),
        UnsupportedModel,
        "LlamaForSequenceClassification",
    ),
    "no architecture": (
        lambda f: edit_config(f, drop=("model_type", "architectures")),
        UnsupportedModel,
        "no architecture (model_type None)",
    ),
    "missing sizes": (
        lambda f: edit_config(f, drop=("hidden_size", "vocab_size")),
        UnsupportedModel,
        "config.json lacks vocab_size, hidden_size",
    ),
    "size is text": (lambda f: edit_config(f, hidden_size="32"), UnsupportedModel, "hidden_size is '32'"),
    "epsilon is text": (lambda f: edit_config(f, rms_norm_eps="1e-6"), UnsupportedModel, "rms_norm_eps is '1e-6'"),
    "context is text": (
        lambda f: edit_config(f, max_position_embeddings="64"), UnsupportedModel, "max_position_embeddings is '64'"
    ),
    "heads do not divide": (
        lambda f: edit_config(f, num_attention_heads=5, head_dim=None),
        UnsupportedModel,
        "hidden size 32 does not divide into 5 heads",
    ),
    "groups do not divide": (lambda f: edit_config(f, num_key_value_heads=3), BadShape, "4 query heads"),
    "activation": (
        lambda f: edit_config(f, hidden_act="relu2"), UnsupportedModel, "hidden_act = 'relu2' is not supported"
    ),
    "part of each head": (
        lambda f: edit_config(f, partial_rotary_factor=0.5), UnsupportedModel, "partial_rotary_factor = 0.5"
    ),
    "part of each head, inside": (
        lambda f: edit_config(f, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        UnsupportedModel,
        "partial_rotary_factor = 0.5",
    ),
    "a share above one": (
        lambda f: edit_config(f, model_type="gpt_neox", architectures=None, layer_norm_eps=1e-5, rotary_pct=1.5),
        UnsupportedModel,
        "1.5 of each head's dimensions turn",
    ),
    "attention types of too few layers": (
        lambda f: edit_config(f, **NEO, attention_types=[[["global", "local"], 3]]), UnsupportedModel, "make 2 layers"
    ),
    "attention types of another kind": (
        lambda f: edit_config(f, **NEO, attention_types=[["global", "local"]]), UnsupportedModel, "does not fit"
    ),
    "attention layers that differ from the types": (
        lambda f: edit_config(f, **NEO, attention_types=[[["global"], 2]], attention_layers=["global", "local"]),
        UnsupportedModel,
        "attention_layers the same",
    ),
    "window that is no number": (
        lambda f: edit_config(f, **NEO, attention_types=[[["global"], 2]], window_size=None),
        UnsupportedModel,
        "window_size is None",
    ),
    "scalar before attention": (
        lambda f: edit_config(f, model_type="gemma2", architectures=None, query_pre_attn_scalar=0),
        UnsupportedModel,
        "query_pre_attn_scalar is 0",
    ),
    "cap that is text": (
        lambda f: edit_config(f, model_type="gemma2", architectures=None, attn_logit_softcapping="50"),
        UnsupportedModel,
        "attn_logit_softcapping is '50'",
    ),
    "attention both ways": (
        lambda f: edit_config(f, model_type="gemma2", architectures=None, use_bidirectional_attention=True),
        UnsupportedModel,
        "use_bidirectional_attention = True",
    ),
    "normalised queries of phi": (
        lambda f: edit_config(f, model_type="phi", architectures=None, qk_layernorm=True),
        UnsupportedModel,
        "qk_layernorm = True",
    ),
    "quantisation": (
        lambda f: edit_config(f, quantization_config={"bits": 4}), UnsupportedModel, "quantization_config = {'bits': 4}"
    ),
    "cross attention": (lambda f: edit_config(f, add_cross_attention=True), UnsupportedModel, "add_cross_attention"),
    "tensor parallel": (lambda f: edit_config(f, pretraining_tp=2), UnsupportedModel, "pretraining_tp = 2"),
    "code of its own": (lambda f: edit_config(f, auto_map={"AutoModel": "x.Y"}), UnsupportedModel, "auto_map"),
    "window that llama ignores": (lambda f: edit_config(f, sliding_window=5), UnsupportedModel, "sliding_window = 5"),
    "layer types that llama ignores": (
        lambda f: edit_config(f, layer_types=["full_attention", "sliding_attention"]), UnsupportedModel, "layer_types"
    ),
    "unknown scaling": (
        lambda f: edit_config(f, rope_scaling={"type": "mrope", "mrope_section": [1]}),
        UnsupportedModel,
        "rotary scaling 'mrope' is not supported; supported: default, linear, dynamic, yarn, longrope, llama3",
    ),
    "unknown key of scaling": (
        lambda f: edit_config(f, rope_scaling={"type": "dynamic", "factor": 2.0, "alpha": 3}),
        UnsupportedModel,
        "'dynamic' does not know alpha",
    ),
    "missing key of scaling": (
        lambda f: edit_config(f, rope_scaling={"type": "llama3", "factor": 2.0}),
        UnsupportedModel,
        "'llama3' lacks low_freq_factor, high_freq_factor",
    ),
    "scaling is text": (lambda f: edit_config(f, rope_scaling="yarn"), UnsupportedModel, "expected a JSON object"),
    "factor is text": (
        lambda f: edit_config(f, rope_scaling={"type": "linear", "factor": "2"}), UnsupportedModel, "factor is '2'"
    ),
    "too few factors": (
        lambda f: edit_config(
            f, rope_scaling={"type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 4, "factor": 2.0}
        ),
        UnsupportedModel,
        "short_factor must be 4 numbers",
    ),
    "dynamic from elsewhere": (
        lambda f: edit_config(
            f, rope_scaling={"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 32}
        ),
        UnsupportedModel,
        "dynamic rotary scaling starts at max_position_embeddings = 64",
    ),
    "tokenizer is no JSON": (lambda f: rewrite(f / "tokenizer.json", "{"), BrokenFile, "tokenizer.json"),
    "only a GGUF file": (
        lambda f: ((f / "config.json").unlink(), rewrite(f / "model.gguf", b"")), BrokenFile, "model.gguf"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN_FOLDERS)
def test_a_broken_folder_gets_an_error_that_names_what_is_wrong(llama, fault):
    break_it, error, message = BROKEN_FOLDERS[fault]
    break_it(llama)
    with pytest.raises(error) as caught:
        load_model(llama)
    assert message in str(caught.value)
    assert isinstance(caught.value, ProbeError)


def test_no_pickle_is_ever_opened(llama):
    """Loading this one would leave a file behind."""
    (llama / "model.safetensors").unlink()
    witness = llama / "executed"
    (llama / "pytorch_model.bin").write_bytes(f"cpathlib\nPath\n(S'{witness}'\ntRtouch\n.".encode())
    with pytest.raises(UnsupportedModel, match="never read"):
        load_model(llama)
    assert not witness.exists()


def test_weights_too_large_for_half_precision_are_refused(llama):
    edit_tensors(llama, lambda tensors: tensors["model.norm.weight"].fill_(1e6))
    with pytest.raises(UnsupportedModel, match="too large for torch.float16"):
        load_model(llama, dtype="float16")
    load_model(llama, dtype="bfloat16")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float31"}, UnknownName, "did you mean 'float32'"),
        ({"dtype": torch.int8}, UnknownName, "no dtype 'int8'"),
        ({"device": "gpu"}, UnknownName, "no device 'gpu'"),
        ({"device": "cuda:99"}, OutOfRange, "CUDA devices"),
    ],
)
def test_unknown_dtypes_and_devices_are_refused_before_anything_is_read(options, error, message):
    with pytest.raises(error, match=message):
        load_model("a name that is not even looked at", **options)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("smollm2-135m-instruct-q4_0", UnknownName, "did you mean 'smollm2-135m-instruct-q4_1'"),
        ("./no/such/folder", UnknownName, "no model, file or folder './no/such/folder'"),
        ("folder/model.gguf", UnknownName, "no model, file or folder"),
        (Path("org/name"), UnknownName, "no model, file or folder"),
        (7, UnknownName, "model int: expected a name, a path, or a Hugging Face module"),
        (torch.nn.Linear(2, 2), UnknownName, "model Linear: expected"),
    ],
)
def test_a_source_that_is_nothing_gets_the_nearest_right_name(source, error, message):
    with pytest.raises(error) as caught:
        load_model(source)
    assert message in str(caught.value)


def test_a_name_inside_a_folder_that_exists_is_a_path_and_the_hub_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(UnknownName, match="no model, file or folder 'out/model'"):
        load_model("out/model")


def test_a_safetensors_file_alone_gets_told_to_give_the_folder(llama):
    with pytest.raises(UnsupportedModel, match="give its folder"):
        load_model(llama / "model.safetensors")


def test_other_modules_are_refused_by_their_class():
    module = transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=8, n_layer=1, n_head=2, vocab_size=9))
    with pytest.raises(UnsupportedModel, match="BloomForCausalLM"):
        load_model(module)
    with torch.device("meta"), pytest.raises(UnsupportedModel, match="meta device"):
        load_model(AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)), device="cpu")


# --- the Hub ---------------------------------------------------------------------------------------------------------


def test_an_unreachable_hub_says_what_works_without_it(monkeypatch):
    class Unreachable:
        def model_info(self, name, timeout):
            assert timeout <= 5, "an answer in seconds"
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    with pytest.raises(FetchFailed) as caught:
        load_model("some-organisation/some-model-that-nobody-has")
    for words in ("no folder 'some-organisation", "cannot be reached (no route)", "catalogue", ".gguf"):
        assert words in str(caught.value)


@pytest.fixture
def hub_cache(llama, tmp_path, monkeypatch):
    """A Hub cache that holds one model, and a Hub that cannot be reached."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--org--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(llama, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return llama


def test_a_model_in_the_hubs_cache_loads_without_network(hub_cache):
    model = load_model("org/tiny")
    assert model.name == "org/tiny"
    assert torch.equal(logits_of(model), logits_of(load_model(hub_cache)))


def test_a_download_asks_for_safetensors_config_and_tokenizer_only(llama, monkeypatch):
    asked = {}

    class Info:
        siblings = [type("File", (), {"rfilename": "model.safetensors"})]

    class Hub:
        def model_info(self, name, timeout):
            return Info

    def download(name, **options):
        asked.update(options)
        return str(llama)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    load_model("org/tiny", progress=False)
    assert "*.safetensors" in asked["allow_patterns"] and "config.json" in asked["allow_patterns"]
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["allow_patterns"])
    bar = asked["tqdm_class"](total=3)
    assert bar.disable, "progress=False draws no bar"
    load_model("org/tiny", random=True)
    assert not any("safetensors" in pattern for pattern in asked["allow_patterns"]), "the twin needs no weights"
    Info.siblings = [type("File", (), {"rfilename": "pytorch_model.bin"})]
    with pytest.raises(UnsupportedModel, match="no safetensors of this model"):
        load_model("org/tiny")


def test_a_download_that_breaks_off_is_a_failed_fetch(monkeypatch):
    class Hub:
        def model_info(self, name, timeout):
            return type("Info", (), {"siblings": []})

    def download(name, **options):
        raise OSError("connection reset")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(FetchFailed, match="broke off: connection reset"):
        probe.weights.hub.fetch_from_hub("org/tiny")


def test_a_name_that_the_hub_cannot_have_is_a_failed_fetch():
    with pytest.raises(FetchFailed, match="cannot be the name of a model"):
        load_model("a--b/c..d")


# --- saving ----------------------------------------------------------------------------------------------------------

TINY = {"n_layers": 2, "d_model": 16, "n_heads": 4, "d_head": 4, "d_mlp": 24, "d_vocab": 50, "n_ctx": 32}
LLAMA_LIKE = TINY | {"norm": "rms", "positions": "rotary", "activation": "silu", "gated_mlp": True,
                     "qkv_bias": False, "attn_out_bias": False, "mlp_bias": False}  # fmt: skip

NOT_IN_HUGGING_FACE = {
    "GPT-2 without biases": (TINY | {"qkv_bias": False}, "gpt2, the nearest family, has no qkv_bias = False"),
    "GPT-2 with RMSNorm": (TINY | {"norm": "rms"}, "no norm = 'rms'"),
    "GPT-2 with grouped heads": (TINY | {"n_kv_heads": 2}, "no n_kv_heads = 2"),
    "GPT-2 with wide heads": (TINY | {"d_head": 8}, "no d_head = 8"),
    "GPT-2 with a gate": (TINY | {"gated_mlp": True}, "no gated_mlp = True"),
    "GPT-2 with windows": (TINY | {"windows": (4, None)}, "no windows = (4, None)"),
    "GPT-2 with another scale": (TINY | {"attn_scale": 0.3}, "no attn_scale = 0.3"),
    "llama with LayerNorm": (LLAMA_LIKE | {"norm": "layer"}, "no norm = 'layer'"),
    "llama with another scale": (LLAMA_LIKE | {"attn_scale": 1.0}, "no attn_scale = 1.0"),
    "llama without gate": (LLAMA_LIKE | {"gated_mlp": False}, "no gated_mlp = False"),
    "windows in some layers, no biases": (LLAMA_LIKE | {"windows": (4, None)}, "no windows = (4, None)"),
    "two widths of window": (LLAMA_LIKE | {"windows": (4, 5), "qkv_bias": True}, "no windows = (4, 5)"),
    "biases and windows": (
        LLAMA_LIKE | {"windows": (4, 4), "qkv_bias": True, "attn_out_bias": True}, "no qkv_bias = True"
    ),
    "parallel layers with RMSNorm": (LLAMA_LIKE | {"parallel": True}, "gpt_neox, the nearest family, has no n"),
    "normalised queries with two widths of window": (
        LLAMA_LIKE | {"qk_norm": True, "windows": (4, 5)}, "qwen3, the nearest family, has no windows = (4, 5)"
    ),
    "plain norms with a cap on the logits": (
        LLAMA_LIKE | {"norm": "rms_plus_one", "logit_soft_cap": 9.0},
        "gemma2, the nearest family, has no post_norms = False, no embed_scale = None",
    ),
    "a cap on the logits of llama": (LLAMA_LIKE | {"logit_soft_cap": 9.0}, "has no logit_soft_cap = 9.0"),
    "a bias of the unembedding of GPT-2": (TINY | {"unembed_bias": True}, "gpt2, the nearest family, has no unembed_b"),
    "a part of each head of llama": (LLAMA_LIKE | {"rotary_dim": 2}, "the nearest family, has no rotary_dim = 2"),
    "dynamic scaling with a context that does not follow": (
        LLAMA_LIKE | {"rotary_scaling": RotaryScaling("dynamic", factor=2.0, original_n_ctx=10)}, "no n_ctx = 32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_IN_HUGGING_FACE)
def test_a_model_that_no_family_computes_is_not_saved_and_the_message_names_what(case, tmp_path):
    values, message = NOT_IN_HUGGING_FACE[case]
    with pytest.raises(UnsupportedModel) as caught:
        save_model(GPT(GPTConfig(**values)), tmp_path / "model")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values",
    [
        TINY,
        TINY | {"attn_scale": 0.5, "windows": (None, None)},  # 1 / sqrt(d_head) spelled out
        LLAMA_LIKE,
        LLAMA_LIKE | {"n_heads": 3, "n_kv_heads": 1},  # 16 dimensions do not divide into 3 heads of llama
        LLAMA_LIKE | {"windows": (4, 4)},
        LLAMA_LIKE | {"windows": (None, 4), "qkv_bias": True},
        LLAMA_LIKE | {"rotary_scaling": RotaryScaling("dynamic", factor=2.0, original_n_ctx=16)},
        LLAMA_LIKE | {"qk_norm": True, "d_head": 6},
        LLAMA_LIKE
        | {
            "norm": "rms_plus_one",
            "activation": "gelu_tanh",
            "post_norms": True,
            "embed_scale": 4.0,
            "attn_scale": 100**-0.5,
            "attn_soft_cap": 3.0,
            "logit_soft_cap": 9.0,
            "windows": (4, None),
        },
        TINY | {"positions": "rotary", "rotary_dim": 2, "parallel": True, "shared_norm": True, "unembed_bias": True},
        LLAMA_LIKE | {"rotary_dim": 4},  # all of them, spelled out
        TINY | {"positions": "rotary", "rotary_dim": 2, "parallel": True},
        TINY | {"positions": "rotary"},
        TINY | {"attn_scale": 1.0, "qkv_bias": False, "windows": (None, 4)},
    ],
    ids=str,
)
def test_a_model_from_scratch_saves_and_loads_with_the_same_logits(values, tmp_path):
    model = GPT(GPTConfig(**values))
    expected = logits_of(model)
    model.save(tmp_path / "model")
    assert torch.equal(logits_of(load_model(tmp_path / "model")), expected)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(theirs(TOKENS).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_saved_model_keeps_its_dtype(dtype, tmp_path):
    model = GPT(GPTConfig(**LLAMA_LIKE)).to(dtype)
    save_model(model, tmp_path / "model")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == dtype
    assert torch.equal(load_model(tmp_path / "model", dtype=dtype).W_E, model.W_E)


def test_saving_refuses_a_folder_of_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(NotSaved, match="holds other things than a model"):
        save_model(GPT(GPTConfig(**TINY)), tmp_path)
    with pytest.raises(NotSaved, match="is a file"):
        save_model(GPT(GPTConfig(**TINY)), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_saving_over_a_model_leaves_none_of_it_but_the_users_own_files(tmp_path):
    folder = tmp_path / "model"
    llama_module().save_pretrained(folder, max_shard_size="20KB")
    fast_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    model = GPT(GPTConfig(**TINY))
    save_model(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    back = load_model(folder)
    assert back.tokenizer is None and torch.equal(back.W_E, model.W_E)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_into_an_empty_folder_works(tmp_path):
    save_model(GPT(GPTConfig(**TINY)), tmp_path)
    load_model(tmp_path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    model = GPT(GPTConfig(**TINY))
    save_model(model, tmp_path / "kept")
    monkeypatch.setattr("probe.weights.saving.save_file", full)
    for folder in ("new", "kept"):
        with pytest.raises(NotSaved, match="No space left"):
            save_model(GPT(GPTConfig(**TINY)), tmp_path / folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert torch.equal(load_model(tmp_path / "kept").W_E, model.W_E)


def test_a_folder_that_cannot_be_made_is_not_saved(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSaved, match="cannot write into"):
        save_model(GPT(GPTConfig(**TINY)), tmp_path / "file" / "model")


def test_saving_over_the_files_that_a_model_was_loaded_from_changes_no_loaded_weight(llama):
    model = load_model(llama)
    before = logits_of(model)
    with (llama / "model.safetensors").open("r+b") as file:  # in place, as no well-behaved program does
        file.seek(-4000, 2)
        file.write(b"\0" * 4000)
    assert torch.equal(logits_of(model), before)


def test_many_threads_load_at_once(gpt2, llama):
    expected = {folder: logits_of(load_model(folder)) for folder in (gpt2, llama)}
    wrong = []

    def load(folder):
        if not torch.equal(logits_of(load_model(folder)), expected[folder]):
            wrong.append(folder)

    threads = [threading.Thread(target=load, args=(folder,)) for folder in (gpt2, llama) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_family_names_the_architecture_that_transformers_has():
    for family in FAMILIES:
        for architecture in family.architectures:
            assert getattr(transformers, architecture).config_class.model_type == family.model_type


def test_load_model_does_not_import_transformers():
    """Reading a folder needs none of it; see also the tests of what `import probe` loads."""
    import subprocess
    import sys

    code = (
        "import sys, tempfile, probe; from probe.weights import load_model, save_model; "
        f"f = tempfile.mkdtemp() + '/m'; save_model(probe.GPT(probe.GPTConfig(**{TINY})), f); load_model(f); "
        "assert 'transformers' not in sys.modules and 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gemma_2_with_the_usual_scale_is_the_same_model_when_it_is_read_back(tmp_path):
    model = GPT(dataclasses.replace(GEMMA2, attn_scale=None))
    save_model(model, tmp_path / "gemma")
    assert load_model(tmp_path / "gemma").config == model.config
