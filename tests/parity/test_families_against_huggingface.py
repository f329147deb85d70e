"""Logits of further families equal Hugging Face's, for tiny random models over the options of each.

Tolerances in units of the largest logit, of size 1 to 40: 1e-5 in float32 is rounding; 1e-6 in float64, since Hugging
Face computes frequencies and some softmaxes in float32 whatever the dtype.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoConfig, GPTNeoXConfig, PhiConfig, Qwen3Config

from probe.attention import KeyValueCache
from probe.generation import generate
from probe.weights.huggingface import load_folder, load_module
from probe.weights.saving import save_model
from tests.parity.test_against_huggingface import compare, largest_difference

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48,
         "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
NEO_SIZES = {"num_layers": 2, "num_heads": 4, "hidden_size": 32, "vocab_size": 50, "max_position_embeddings": 64,
             "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GEMMA_SIZES = {**SIZES, "num_key_value_heads": 2, "head_dim": 16}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 32}
MODELS = {
    "gpt_neox": GPTNeoXConfig(**SIZES, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
    "gpt_neox sequential": GPTNeoXConfig(**SIZES, use_parallel_residual=False),
    "gpt_neox whole heads turn, tied": GPTNeoXConfig(**SIZES, rotary_pct=1.0, tie_word_embeddings=True),
    "gpt_neox no attention biases, other theta, tanh": GPTNeoXConfig(
        **SIZES, attention_bias=False, rotary_emb_base=500, hidden_act="gelu_new", layer_norm_eps=0.1
    ),
    "gpt_neox half of each head, yarn": GPTNeoXConfig(
        **{**SIZES, "hidden_size": 64}, rope_parameters={**YARN, "partial_rotary_factor": 0.5}
    ),
    "gpt_neo": GPTNeoConfig(**NEO_SIZES, attention_types=[[["global", "local"], 1]], window_size=5),
    "gpt_neo all local, untied, other inner size": GPTNeoConfig(
        **NEO_SIZES, attention_types=[[["local"], 2]], window_size=3, tie_word_embeddings=False, intermediate_size=40
    ),
    "gpt_neo all global": GPTNeoConfig(**NEO_SIZES, attention_types=[[["global"], 2]], activation_function="relu"),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16),
    "qwen3 sliding in the second layer, biases, tied": Qwen3Config(
        **SIZES,
        num_key_value_heads=4,
        head_dim=8,
        attention_bias=True,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        rope_parameters=YARN,
    ),
    "gemma2": Gemma2Config(**GEMMA_SIZES, sliding_window=5, query_pre_attn_scalar=10),
    "gemma2 low caps, full before sliding, biases": Gemma2Config(
        **GEMMA_SIZES, sliding_window=3, layer_types=["full_attention", "sliding_attention"], attention_bias=True,
        attn_logit_softcapping=1.5, final_logit_softcapping=2.0, tie_word_embeddings=False, rope_parameters=YARN,
    ),
    "gemma2 without caps": Gemma2Config(
        **GEMMA_SIZES, attn_logit_softcapping=None, final_logit_softcapping=None, hidden_activation="gelu"
    ),
    "phi": PhiConfig(**SIZES),
    "phi grouped, a quarter of each head, yarn": PhiConfig(
        **{**SIZES, "hidden_size": 64}, num_key_value_heads=2, hidden_act="gelu",
        rope_parameters={**YARN, "partial_rotary_factor": 0.25},
    ),
}  # fmt: skip
LENGTHS = (1, 7, 33, 60)


def size(module, prompts):
    """Of the largest logit."""
    with torch.no_grad():
        return max(float(module(prompt).logits.abs().max()) for prompt in prompts)


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_huggingface_in_float32(name, make_module, tokens, keep_all):
    theirs = make_module(MODELS[name])
    ours = load_module(theirs)
    prompts = [tokens(length) for length in LENGTHS]
    assert compare(ours, theirs, prompts) < 1e-5 * size(theirs, prompts), "fused attention"
    assert compare(ours, theirs, prompts, tap=keep_all) < 1e-5 * size(theirs, prompts), "attention step by step"


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_huggingface_in_float64(name, make_module, tokens, keep_all, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # its norms go to float32 by this
    theirs = make_module(MODELS[name], torch.float64)
    ours = load_module(theirs, dtype=torch.float64)
    prompts = [tokens(7), tokens(60)]
    for tap in (None, keep_all):
        assert compare(ours, theirs, prompts, tap=tap) < 1e-6 * size(theirs, prompts)


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_are_read_back_by_us_bit_for_bit_and_by_transformers(name, make_module, tokens, tmp_path):
    theirs = make_module(MODELS[name])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_folder(tmp_path / "theirs")
    save_model(ours, tmp_path / "model")
    back = load_folder(tmp_path / "model")
    assert back.config == ours.config == load_module(theirs).config
    for (key, parameter), (_, read) in zip(ours.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(parameter, read), key
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(again) is type(theirs)
    with torch.no_grad():
        assert torch.equal(again(tokens(40)).logits, theirs(tokens(40)).logits)


@pytest.mark.parametrize("name", MODELS)
def test_steps_with_a_cache_equal_huggingfaces_whole_pass_and_its_greedy_text(name, make_module, tokens):
    """Longer than the windows, so that old keys must be forgotten where, and only where, the family forgets them."""
    theirs, prompt = make_module(MODELS[name], torch.float64), tokens(20)  # so that no two logits tie by rounding
    ours, cache = load_module(theirs, dtype=torch.float64), KeyValueCache(20)
    with torch.no_grad():
        parts = [prompt[:, :9], *prompt[:, 9:].split(1, dim=1)]
        stepped = [ours(part, cache=cache) for part in parts]
        whole = theirs(prompt).logits
        assert largest_difference(torch.cat(stepped, dim=1), whole) < 1e-5 * float(whole.abs().max())
    expected = theirs.generate(
        prompt[:1], attention_mask=torch.ones(1, 20), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    found = generate(ours, prompt[0].tolist(), temperature=0, max_tokens=12).run()
    assert [step.token for step in found.steps] == expected[0, 20:].tolist()


def test_scaled_embeddings_are_hugging_faces_to_the_bit_in_half_precision(make_module, tokens, keep_all):
    """The scale is rounded before it is multiplied, as the models were trained."""
    theirs, prompt = make_module(MODELS["gemma2"], torch.bfloat16), tokens(40)
    ours, tap = load_module(theirs, dtype=torch.bfloat16), keep_all()
    with torch.no_grad():
        ours(prompt, tap=tap)
        assert torch.equal(tap.kept["hook_embed"], theirs.get_input_embeddings()(prompt))
        assert torch.equal(tap.kept["hook_embed"], ours.token_vectors[prompt])
        unrounded = (theirs.get_input_embeddings().weight[prompt].float() * 32**0.5).bfloat16()
    assert not torch.equal(tap.kept["hook_embed"], unrounded)
