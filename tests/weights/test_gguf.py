"""GGUF files: the same model as Hugging Face makes of them, and an error for every mistake in one."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from probe.errors import BrokenFile, UnknownName, UnsupportedModel
from probe.weights.gguf import load_gguf, read_gguf_config
from tests.gguf_files import BYTE_TOKENIZER, TOKENS, converted, huggingface, quantised_in_place, write

ROUNDING = 1e-5  # float32 sums in another order; logits are of order 1


def logits_of(module) -> torch.Tensor:
    with torch.no_grad():
        return module(TOKENS).logits


def assert_same_logits(path, module) -> None:
    with torch.no_grad():
        ours = load_gguf(path)(TOKENS)
    theirs = logits_of(module)
    assert theirs.std() > 0.3  # a model that says something
    torch.testing.assert_close(ours, theirs, atol=ROUNDING, rtol=ROUNDING)


FAMILIES = {
    "llama": ("llama", "llama", {}),
    "llama, every head its own key": ("llama", "llama", {"num_key_value_heads": 4}),
    "llama, one key for all heads": ("llama", "llama", {"num_key_value_heads": 1}),
    "llama, tied": ("llama", "llama", {"tie_word_embeddings": True}),
    "llama, biases everywhere": ("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, another theta": ("llama", "llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen2, tied": ("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "gpt2": ("gpt2", "gpt2", {}),
    "gpt2, not tied": ("gpt2", "gpt2", {"tie_word_embeddings": False}),
}


@pytest.mark.parametrize(("family", "architecture", "settings"), FAMILIES.values(), ids=FAMILIES.keys())
def test_logits_equal_those_of_the_module_whose_weights_the_file_holds(family, architecture, settings, tmp_path):
    module = huggingface(family, **settings)
    assert_same_logits(converted(tmp_path / "m.gguf", module, architecture), module)


TYPES = (Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("type_", TYPES, ids=lambda type_: type_.name)
def test_quantised_weights_are_expanded_as_the_gguf_package_does(type_, architecture, tmp_path):
    module = huggingface(architecture)
    path = converted(tmp_path / "m.gguf", module, architecture, type_=type_)
    quantised_in_place(module, type_)
    assert_same_logits(path, module)


def test_transformers_reads_the_same_model_from_the_same_file(tmp_path):
    """An independent reader, so that our test's way of writing files is tested too."""
    import transformers

    module = huggingface("llama")
    converted(tmp_path / "m.gguf", module, "llama", settings={"rope.dimension_count": 16}, metadata=BYTE_TOKENIZER)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    torch.testing.assert_close(logits_of(theirs), logits_of(module), atol=ROUNDING, rtol=ROUNDING)
    assert_same_logits(tmp_path / "m.gguf", theirs)


def test_heads_may_be_wider_than_their_share_of_the_model(tmp_path):
    module = huggingface("llama", head_dim=32)
    settings = {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}
    assert_same_logits(converted(tmp_path / "m.gguf", module, "llama", settings=settings), module)


def test_a_sliding_window_hides_what_is_further_back(tmp_path):
    module = huggingface("mistral", sliding_window=4)
    path = converted(tmp_path / "m.gguf", module, "llama", settings={"attention.sliding_window": 4})
    assert_same_logits(path, module)


def test_head_counts_given_layer_by_layer_are_read_when_they_agree(tmp_path):
    module = huggingface("llama")
    path = converted(tmp_path / "m.gguf", module, "llama", settings={"attention.head_count_kv": [2, 2]})
    assert_same_logits(path, module)


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}


def test_linear_scaling_of_positions_is_applied(tmp_path):
    module = huggingface("llama", rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0})
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    assert_same_logits(converted(tmp_path / "m.gguf", module, "llama", settings=scaling), module)
    assert_same_logits(converted(tmp_path / "o.gguf", module, "llama", settings={"rope.scale_linear": 4.0}), module)


@pytest.mark.parametrize("times", [None, 1.5])
def test_yarn_scaling_of_positions_is_applied(times, tmp_path):
    yarn = YARN if times is None else YARN | {"attention_factor": times * (0.1 * np.log(4.0) + 1)}
    module = huggingface("qwen2", rope_parameters=yarn)
    scaling = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.attn_factor": times,
               "rope.scaling.original_context_length": 16}  # fmt: skip
    assert_same_logits(converted(tmp_path / "m.gguf", module, "qwen2", settings=scaling), module)


def test_llama3_scaling_comes_as_a_tensor_of_divisors(tmp_path):
    module = huggingface("llama", rope_parameters=LLAMA3)
    plain = 10_000.0 ** -(np.arange(0, 16, 2) / 16)
    divisors = (plain / module.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)
    assert divisors.max() > 2  # the scaling does something
    path = converted(tmp_path / "m.gguf", module, "llama", tensors={"rope_freqs.weight": divisors})
    assert_same_logits(path, module)


def test_a_model_is_named_after_its_file_and_without_tokens_has_no_tokenizer(tmp_path):
    path = converted(tmp_path / "some-model.gguf", huggingface("gpt2"), "gpt2")
    assert load_gguf(path).name == "some-model" and load_gguf(path).tokenizer is None
    assert load_gguf(path, name="other").name == "other"


def test_weights_are_contiguous_trainable_and_in_the_asked_type(tmp_path):
    model = load_gguf(converted(tmp_path / "m.gguf", huggingface("gpt2"), "gpt2"), dtype=torch.bfloat16)
    assert all(p.is_contiguous() and p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters())


def test_config_and_tokenizer_are_read_without_weights(tmp_path):
    path = converted(tmp_path / "m.gguf", huggingface("llama"), "llama", metadata=BYTE_TOKENIZER)
    config, tokenizer = read_gguf_config(path)
    model = load_gguf(path)
    assert config == model.config and tokenizer.encode("abc") == model.tokenizer.encode("abc")


def tokenizer(**changes) -> dict:
    return {"metadata": BYTE_TOKENIZER | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}}


NAN = np.full(64, np.nan)
MISTAKES = {
    "no architecture": ({"architecture": "mamba"}, UnsupportedModel, "'mamba'.*'llama', 'qwen2' or 'gpt2'"),
    "experts": ({"settings": {"expert_count": 8}}, UnsupportedModel, "llama.expert_count = 8"),
    "an unknown setting": ({"settings": {"surprise": 1}}, UnsupportedModel, "llama.surprise = 1"),
    "soft capping": ({"settings": {"attn_logit_softcapping": 50.0}}, UnsupportedModel, "softcapping = 50"),
    "partly turned heads": ({"settings": {"rope.dimension_count": 8}}, UnsupportedModel, "dimension_count is 8.*16"),
    "layers that differ": ({"settings": {"attention.head_count": [4, 2]}}, UnsupportedModel, "differs between layers"),
    "unknown scaling": ({"settings": {"rope.scaling.type": "ntk"}}, UnsupportedModel, "'ntk'.*'yarn'"),
    "no number of heads": ({"settings": {"attention.head_count": None}}, BrokenFile, "head_count' is missing"),
    "no epsilon": ({"settings": {"attention.layer_norm_rms_epsilon": None}}, BrokenFile, "rms_epsilon' is missing"),
    "a size that is text": ({"settings": {"embedding_length": "64"}}, BrokenFile, "embedding_length is '64'"),
    "no heads": ({"settings": {"attention.head_count": 0}}, BrokenFile, "head_count is 0: expected at least 1"),
    "heads that do not divide": ({"settings": {"attention.head_count": 5}}, BrokenFile, "5 heads do not divide 64"),
    "too many layers": ({"settings": {"block_count": 2**31}}, BrokenFile, "2,147,483,648 layers"),
    "another vocabulary": ({"settings": {"vocab_size": 50}}, BrokenFile, "vocab_size is 50.*48 rows"),
    "theta below 0": ({"settings": {"rope.freq_base": -1.0}}, BrokenFile, "freq_base is -1.0"),
    "theta not a number": ({"settings": {"rope.freq_base": float("nan")}}, BrokenFile, "freq_base is nan"),
    "a layer more": ({"settings": {"block_count": 3}}, BrokenFile, "blk.2.attn_norm.weight'.*missing"),
    "a layer less": ({"settings": {"block_count": 1}}, UnsupportedModel, "would not use: 'blk.1"),
    "no embedding": ({"tensors": {"token_embd.weight": None}}, BrokenFile, "'token_embd.weight' is missing"),
    "a missing tensor": ({"tensors": {"blk.1.ffn_up.weight": None}}, BrokenFile, "'blk.1.ffn_up.weight' missing"),
    "a surplus tensor": ({"tensors": {"blk.0.extra.weight": np.ones(4)}}, UnsupportedModel, "blk.0.extra.weight"),
    "a shape": ({"tensors": {"blk.0.attn_k.weight": np.ones((8, 64))}}, BrokenFile, r"\(8, 64\), expected \(32, 64\)"),
    "divisors of another shape": ({"tensors": {"rope_freqs.weight": np.ones(5)}}, BrokenFile, r"\(5,\), expected"),
    "divisors of 0": ({"tensors": {"rope_freqs.weight": np.zeros(8)}}, BrokenFile, "rope_freqs.weight' holds 0"),
    "a weight that is no number": ({"tensors": {"output_norm.weight": NAN}}, BrokenFile, "'output_norm.weight' holds"),
    "an infinite weight": ({"tensors": {"output_norm.weight": np.full(64, np.inf)}}, BrokenFile, "infinite"),
    "one part of several": ({"metadata": {"split.count": 3}}, UnsupportedModel, "gguf-split --merge"),
    "too many tokens": (tokenizer(tokens=[str(i) for i in range(49)], merges=[], token_type=[1] * 49), BrokenFile,
                        "49 tokens.*48 rows"),
    "types of other tokens": (tokenizer(token_type=[1] * 9), BrokenFile, "token_type"),
    "a merge of no tokens": (tokenizer(merges=["z z"]), BrokenFile, "merge 'z z'"),
    "a bos that is no token": (tokenizer(bos_token_id=99), BrokenFile, "bos token id 99"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_a_file_is_named(change, error, said, tmp_path, as_users_run_it):
    module, architecture = huggingface("llama"), change.get("architecture", "llama")
    options = {key: dict(value) for key, value in change.items() if key != "architecture"}
    if architecture == "llama":
        path = converted(tmp_path / "m.gguf", module, "llama", **options)
    else:
        path = write(tmp_path / "m.gguf", architecture, {"block_count": 2}, {"x": np.ones((2, 32))})
    with pytest.raises(error, match=said) as caught:
        load_gguf(path)
    assert "m.gguf" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownName, match="none.gguf"):
        load_gguf(tmp_path / "none.gguf")


@pytest.mark.model
def test_the_default_model_gives_the_logits_of_huggingface_and_knows_paris(default_model):
    import transformers

    from probe.catalogue import DEFAULT_MODEL
    from probe.fetching import cached_path

    path = cached_path(DEFAULT_MODEL)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = default_model.tokenizer.encode("When Mary and John went to the store, John gave a drink to")
    with torch.no_grad():
        logits = default_model(torch.tensor([ids]))
        # 30 layers of float32 sums in another order; Hugging Face's own two kinds of attention differ by 4-6e-5
        torch.testing.assert_close(logits, theirs(torch.tensor([ids])).logits, atol=1e-4, rtol=0)
        start = default_model.tokenizer.document_start_id
        capital = torch.tensor([[start, *default_model.tokenizer.encode("The capital of France is")]])
        assert start == 0 and default_model.tokenizer.decode([int(default_model(capital)[0, -1].argmax())]) == " Paris"
