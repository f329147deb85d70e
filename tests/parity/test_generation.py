"""Greedy generation equals Hugging Face's `generate`, token for token."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

import probe
from probe.catalogue import DEFAULT_MODEL
from probe.weights.huggingface import load_module
from probe.weights.parity import huggingface_model

LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
         "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
CONFIGS = {
    "gpt2": GPT2Config(n_layer=3, n_head=4, n_embd=32, vocab_size=50, n_positions=64),
    "llama": LlamaConfig(**LLAMA),
    "mistral with a sliding window": MistralConfig(**LLAMA, sliding_window=5),
    "qwen2": Qwen2Config(**LLAMA),
}
NEW = 30


def theirs(module, prompt, new):
    ids = torch.tensor([prompt])
    return module.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None
    )[0].tolist()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_greedy_text_is_hugging_faces(config, make_module):
    module = make_module(config, torch.float64)  # so that no two logits are equal to rounding
    model = load_module(module)
    for prompt in ([7], [3, 1, 4, 1, 5, 9, 2, 6]):
        assert probe.generate(model, prompt, temperature=0, max_tokens=NEW, stop=[]).run().ids == theirs(
            module, prompt, NEW
        )


@pytest.mark.slow
@pytest.mark.model
def test_greedy_text_of_the_default_model_is_hugging_faces(default_model):
    module = huggingface_model(DEFAULT_MODEL, dtype=torch.float32)
    for text in ("Once upon a time there was a", "The capital of France is", "def fibonacci(n):\n"):
        generation = probe.generate(default_model, text, temperature=0, max_tokens=40, stop=[], document_start=True)
        assert generation.run().ids == theirs(module, list(generation.prompt), 40)


@pytest.mark.slow
@pytest.mark.model
def test_cached_logits_of_the_default_model_are_those_of_one_pass(default_model):
    generation = probe.generate(default_model, "Once upon a time", temperature=0, max_tokens=30, listed="all", stop=[])
    ids = generation.run().ids
    logits = probe.record(default_model, ids, sites=[]).logits[0]
    for step in generation.steps:
        found = step.distribution.logits[step.distribution.tokens.argsort()]
        torch.testing.assert_close(found, logits[step.position - 1], atol=1e-4, rtol=0)
