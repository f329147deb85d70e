"""Logits equal Hugging Face's, for tiny random models over the options of every family.

Tolerances, with logits of size 1 to 5: 1e-5 in float32 is rounding (sums in another order). In float64 GPT-2 agrees to
1e-10; Hugging Face's Llama-like models compute norm and rotary angles in float32 whatever the dtype, so there the bar
is 2e-6 and a short float64 reference, written here with other means, takes over at 1e-10.
"""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config

from probe.weights.huggingface import load_folder, load_module
from probe.weights.saving import save_model

ORIGINAL = 32
"""Context of pretraining, of the scaled models."""
GPT2 = {"n_layer": 3, "n_head": 4, "n_embd": 32, "vocab_size": 50, "n_positions": 64}
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
         "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip


def gpt2(**options):
    return GPT2Config(**{**GPT2, **options})


def llama(**options):
    return LlamaConfig(**{**LLAMA, **options})


def scaled(positions=64, **rope):
    """Wide heads, so that some frequencies lie within the ramps of yarn and llama3, not only beyond their ends."""
    rope = {"rope_theta": 10_000.0, **rope}
    return llama(rope_parameters=rope, max_position_embeddings=positions, head_dim=32)


GPT2_MODELS = {
    "gpt2": gpt2(),
    "gpt2 untied": gpt2(tie_word_embeddings=False),
    "gpt2 other inner size": gpt2(n_inner=40),
    "gpt2 one head": gpt2(n_head=1),
    "gpt2 unscaled attention": gpt2(scale_attn_weights=False),
    "gpt2 inverse layer scale": gpt2(scale_attn_by_inverse_layer_idx=True),
    "gpt2 upcast attention": gpt2(reorder_and_upcast_attn=True),
    "gpt2 large epsilon": gpt2(layer_norm_epsilon=0.1),
    "gpt2 gelu": gpt2(activation_function="gelu"),
    "gpt2 gelu_pytorch_tanh": gpt2(activation_function="gelu_pytorch_tanh"),
    "gpt2 quick_gelu": gpt2(activation_function="quick_gelu"),
    "gpt2 relu": gpt2(activation_function="relu"),
    "gpt2 silu": gpt2(activation_function="silu"),
}
LLAMA_LIKE_MODELS = {
    "llama grouped": llama(),
    "llama full": llama(num_key_value_heads=4),
    "llama single": llama(num_key_value_heads=1),
    "llama tied": llama(tie_word_embeddings=True),
    "llama biases": llama(attention_bias=True, mlp_bias=True),
    "llama attention biases": llama(attention_bias=True),
    "llama wide heads": llama(head_dim=16),
    "llama gelu": llama(hidden_act="gelu"),
    "llama other theta": llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama large epsilon": llama(rms_norm_eps=0.1),
    "mistral": MistralConfig(**LLAMA, sliding_window=None),
    "mistral sliding": MistralConfig(**LLAMA, sliding_window=5),
    "qwen2": Qwen2Config(**LLAMA),
    "qwen2 sliding in the second layer": Qwen2Config(
        **LLAMA, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen2 tied, sliding in the first": Qwen2Config(
        **LLAMA,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    ),
}
SCALED_MODELS = {
    "linear": scaled(rope_type="linear", factor=2.0),
    "dynamic": scaled(rope_type="dynamic", factor=2.0, positions=ORIGINAL),
    "yarn": scaled(rope_type="yarn", factor=2.0, original_max_position_embeddings=ORIGINAL),
    "yarn with everything set": scaled(
        rope_type="yarn", factor=4.0, beta_fast=8.0, beta_slow=2.0, mscale=1.2, mscale_all_dim=0.7, truncate=False,
        original_max_position_embeddings=16,
    ),
    "yarn with its own factor": scaled(
        rope_type="yarn", factor=2.0, attention_factor=1.3, original_max_position_embeddings=ORIGINAL
    ),
    "longrope": scaled(
        rope_type="longrope", factor=2.0, short_factor=[1 + i / 10 for i in range(16)],
        long_factor=[1.0 + i for i in range(16)],
        original_max_position_embeddings=ORIGINAL,
    ),
    "llama3": scaled(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=ORIGINAL,
    ),
}  # fmt: skip
LLAMA_LIKE = {**LLAMA_LIKE_MODELS, **SCALED_MODELS}
ALL = {**GPT2_MODELS, **LLAMA_LIKE}
LENGTHS = (1, 7, ORIGINAL, ORIGINAL + 1, 60)
"""Longer than the windows; up to, at and beyond the original context. Rising, because Hugging Face's dynamic scaling
remembers the longest prompt that it has seen."""
ONE_PER_FAMILY = ("gpt2 untied", "gpt2 unscaled attention", "gpt2 quick_gelu", "gpt2 relu", "gpt2 gelu", "gpt2 silu",
                  "llama biases", "llama wide heads", "mistral", "mistral sliding", "qwen2",
                  "qwen2 tied, sliding in the first", *SCALED_MODELS)  # fmt: skip


def largest_difference(a, b):
    return (a - b).abs().max().item()


def compare(ours, theirs, prompts, tap=None):
    """The largest difference in logits over prompts."""
    worst = 0.0
    for prompt in prompts:
        with torch.no_grad():
            logits = ours(prompt) if tap is None else ours(prompt, tap=tap())
            worst = max(worst, largest_difference(logits, theirs(prompt).logits))
    return worst


@pytest.mark.parametrize("name", ALL)
def test_logits_equal_huggingface_in_float32(name, make_module, tokens, keep_all):
    theirs = make_module(ALL[name])
    ours = load_module(theirs)
    prompts = [tokens(length) for length in LENGTHS]
    assert compare(ours, theirs, prompts) < 1e-5, "fused attention"
    theirs = make_module(ALL[name])  # again: see LENGTHS
    assert compare(ours, theirs, prompts, tap=keep_all) < 1e-5, "attention step by step"


@pytest.mark.parametrize("name", [name for name in GPT2_MODELS if "upcast" not in name])
def test_gpt2_logits_equal_huggingface_in_float64(name, make_module, tokens, keep_all):
    theirs = make_module(ALL[name], torch.float64)
    ours = load_module(theirs, dtype=torch.float64)
    for tap in (None, keep_all):
        assert compare(ours, theirs, [tokens(7), tokens(60)], tap=tap) < 1e-10


@pytest.mark.parametrize("name", LLAMA_LIKE)
def test_llama_like_logits_equal_huggingface_and_the_reference_in_float64(name, make_module, tokens, keep_all):
    theirs = make_module(LLAMA_LIKE[name], torch.float64)
    ours = load_module(theirs, dtype=torch.float64)
    prompts = [tokens(7), tokens(60)]
    assert compare(ours, theirs, prompts) < 2e-6, "Hugging Face, whose norms and angles are in float32"
    for prompt in prompts:
        with torch.no_grad():
            expected = reference(theirs, prompt)
            assert largest_difference(ours(prompt), expected) < 1e-10
            assert largest_difference(ours(prompt, tap=keep_all()), expected) < 1e-10


@pytest.mark.parametrize("name", SCALED_MODELS)
def test_rotary_scaling_matters_to_these_models(name, make_module, tokens):
    """Else the tests above would pass with the scaling left out."""
    theirs = make_module(LLAMA_LIKE[name])
    with torch.no_grad():
        plain = load_module(make_module(llama()))(tokens(60))
        assert largest_difference(load_module(theirs)(tokens(60)), plain) > 1e-2


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_saved_models_are_read_back_by_us_bit_for_bit_and_by_transformers(name, make_module, tokens, tmp_path):
    theirs = make_module(ALL[name])
    ours = load_module(theirs)
    save_model(ours, tmp_path / "model")
    back = load_folder(tmp_path / "model")
    assert back.config == ours.config
    for (key, parameter), (_, read) in zip(ours.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(parameter, read), key
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(again) is type(theirs) or name == "mistral", "which without windows is saved as llama: the same model"
    with torch.no_grad():
        assert torch.equal(again(tokens(40)).logits, theirs(tokens(40)).logits)


def reference(module, prompt):
    """Logits of a Llama-like module in float64, from its config and tensors: head by head, rotating complex numbers."""
    config, weights = module.config, {name: tensor.double() for name, tensor in module.state_dict().items()}
    n_pos, d_head = prompt.shape[1], config.head_dim if hasattr(config, "head_dim") else 32 // 4
    frequency, factor = reference_frequencies(config, n_pos, d_head)
    turns = factor * torch.polar(torch.ones(n_pos, d_head // 2).double(), torch.outer(torch.arange(n_pos), frequency))

    def apply(name, x):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def norm(name, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) ** 0.5 * weights[f"{name}.weight"]

    def turned(x):
        pairs = torch.complex(x[..., : d_head // 2].contiguous(), x[..., d_head // 2 :].contiguous()) * turns
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    activation = {"silu": lambda x: x / (1 + (-x).exp()), "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2}
    x = weights["model.embed_tokens.weight"][prompt]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        window = reference_window(config, layer) or n_pos
        ago = torch.arange(n_pos)[:, None] - torch.arange(n_pos)
        hidden = ~((ago >= 0) & (ago < window))
        h = norm(f"{at}.input_layernorm", x)
        q, k, v = (apply(f"{at}.self_attn.{kind}_proj", h).split(d_head, dim=-1) for kind in "qkv")
        mixed = []
        for head in range(config.num_attention_heads):
            group = head // (config.num_attention_heads // config.num_key_value_heads)
            scores = turned(q[head]) @ turned(k[group]).mT / d_head**0.5
            weight = scores.masked_fill(hidden, -math.inf).exp()
            mixed.append(weight / weight.sum(-1, keepdim=True) @ v[group])
        x = x + apply(f"{at}.self_attn.o_proj", torch.cat(mixed, dim=-1))
        h = norm(f"{at}.post_attention_layernorm", x)
        gate = activation[config.hidden_act](apply(f"{at}.mlp.gate_proj", h))
        x = x + apply(f"{at}.mlp.down_proj", gate * apply(f"{at}.mlp.up_proj", h))
    return norm("model.norm", x) @ weights["lm_head.weight"].T


def reference_window(config, layer):
    if hasattr(config, "layer_types") and config.model_type == "qwen2":
        return config.sliding_window if config.layer_types[layer] == "sliding_attention" else None
    return getattr(config, "sliding_window", None)


def reference_frequencies(config, n_pos, d_head):
    """Radians per position, pair by pair, and the factor on both parts of the rotation; from the papers' formulas."""
    rope = config.rope_parameters
    kind, theta, factor = rope["rope_type"], rope["rope_theta"], rope.get("factor", 1.0)
    original = rope.get("original_max_position_embeddings", config.max_position_embeddings)
    if kind == "dynamic" and n_pos > original:
        theta *= (factor * n_pos / original - factor + 1) ** (d_head / (d_head - 2))
    plain = [theta ** (-2 * pair / d_head) for pair in range(d_head // 2)]
    temperature = 1.0
    if kind == "linear":
        plain = [f / factor for f in plain]
    elif kind == "longrope":
        divisors = rope["long_factor" if n_pos > original else "short_factor"]
        plain = [f / divisor for f, divisor in zip(plain, divisors, strict=True)]
        temperature = math.sqrt(1 + math.log(factor) / math.log(original))
    elif kind == "llama3":
        plain = [between(f, factor, (original * f / (2 * math.pi) - 1) / (4 - 1)) for f in plain]
    elif kind == "yarn":
        fast, slow = (
            d_head * math.log(original / (2 * math.pi * rope.get(key, default))) / (2 * math.log(theta))
            for key, default in (("beta_fast", 32), ("beta_slow", 1))
        )
        if rope.get("truncate", True):
            fast, slow = math.floor(fast), math.ceil(slow)
        fast, slow = max(fast, 0), min(slow, d_head - 1)
        plain = [between(f, factor, 1 - (pair - fast) / (slow - fast)) for pair, f in enumerate(plain)]
        high, low = ((rope.get(key, default) * 0.1 * math.log(factor) + 1) for key, default in
                     (("mscale", 1), ("mscale_all_dim", 0)))  # fmt: skip
        temperature = rope.get("attention_factor") or high / low
    return torch.tensor(plain, dtype=torch.float64), temperature


def between(frequency, factor, kept):
    """A frequency of which the share `kept`, held within 0 and 1, is left alone and the rest is divided by factor."""
    kept = min(max(kept, 0.0), 1.0)
    return kept * frequency + (1 - kept) * frequency / factor
