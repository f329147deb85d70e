"""A GPT trains like any module, and runs in half precision close to float32."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, LlamaConfig, Qwen2Config

from probe.gpt import GPT
from probe.tap_protocol import NO_TAP
from probe.weights.huggingface import load_module

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
         "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
MODELS = {
    "gpt2": GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=50, n_positions=64),
    "gpt2 untied": GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=50, n_positions=64, tie_word_embeddings=False),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2 sliding": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_from_scratch_overfits_one_batch(name, make_module, tokens):
    model = GPT(load_module(make_module(MODELS[name])).config)
    model.draw_weights(torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch, losses = tokens(16), []
    for _ in range(30):
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(50.0).log().item(), abs=0.3), "untrained: all 50 tokens alike"
    assert losses[-1] < 0.3


@pytest.mark.parametrize("attention", ["fused", "step by step"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_every_parameter_equal_huggingface(name, attention, make_module, tokens, keep_all):
    theirs = make_module(MODELS[name])
    ours = load_module(theirs)
    batch = tokens(16)
    for logits in (theirs(batch).logits, ours(batch, tap=keep_all() if attention == "step by step" else NO_TAP)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()).backward()
    theirs.load_state_dict({**theirs.state_dict(), **gradients(theirs)}, strict=True)
    expected = dict(load_module(theirs).named_parameters())
    for key, parameter in ours.named_parameters():
        if not key.endswith("b_K"):  # without rotation, a bias of keys shifts all scores of a query alike
            assert parameter.grad.abs().max() > 1e-6, key
        torch.testing.assert_close(parameter.grad, expected[key].data, atol=1e-5, rtol=1e-4)


def gradients(module):
    """The gradients under the names of the weights, so that our reading of weights maps them to ours."""
    named = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    if module.config.tie_word_embeddings:
        named["lm_head.weight"] = next(grad for name, grad in named.items() if "wte" in name or "embed_tokens" in name)
    return named


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_close_to_float32(name, dtype, make_module, tokens, keep_all):
    module = make_module(MODELS[name])
    full, half = load_module(module), load_module(module, dtype=dtype)
    assert half.dtype == dtype
    with torch.no_grad():
        expected = full(tokens(30))
        fused, explicit = half(tokens(30)), half(tokens(30), tap=keep_all())
    assert fused.dtype == explicit.dtype == dtype
    bar = 8 * torch.finfo(dtype).eps * expected.abs().max()  # a few roundings at the size of the largest logit
    for logits in (fused, explicit):
        assert (logits.float() - expected).abs().max() < bar


@pytest.mark.parametrize("name", MODELS)
def test_norms_of_large_values_do_not_overflow_float16(name, make_module, tokens):
    """The squares of values above 256 are beyond float16; residual streams of trained models have such values."""
    module = make_module(MODELS[name])
    with torch.no_grad():
        module.get_input_embeddings().weight.mul_(3000)
        module.lm_head.weight = torch.nn.Parameter(torch.randn(50, 32, generator=torch.Generator().manual_seed(0)))
        module.config.tie_word_embeddings = False
        full, half = load_module(module), load_module(module, dtype=torch.float16)
        expected, logits = full(tokens(10)), half(tokens(10))
    assert logits.isfinite().all()
    assert (logits.float() - expected).abs().max() < 0.02 * expected.abs().max()
