"""Every value on the way equals TransformerLens's at the site of the same name, for tiny random models of each family.

Tolerance 1e-5 in float32: rounding, at values of size up to 30. Scores are compared where both mean the same: ours are
before the mask, TransformerLens's after it, so only the visible entries count. `hook_normalized` is before the gain in
both (TransformerLens 4.3; the gains here are 0.4 to 1.6, so the one would not pass for the other).
"""

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from probe.attention import visible_keys
from probe.sites import site_names, site_shape, split_name
from probe.weights.huggingface import load_folder

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
         "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
GPT2_SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 50, "n_positions": 64, "bos_token_id": 1,
              "eos_token_id": 2}  # fmt: skip
NEOX_SIZES = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
NEO_SIZES = {"num_layers": 2, "num_heads": 4, "hidden_size": 32, "vocab_size": 50, "max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 32}
MODELS = {
    "gpt2": GPT2Config(**GPT2_SIZES),
    "gpt2 untied, inverse layer scale": GPT2Config(
        **GPT2_SIZES, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True
    ),
    "llama": LlamaConfig(**SIZES),
    "llama one key head, biases": LlamaConfig(
        **{**SIZES, "num_key_value_heads": 1}, attention_bias=True, mlp_bias=True
    ),
    "llama full heads, yarn": LlamaConfig(**{**SIZES, "num_key_value_heads": 4}, rope_parameters=YARN),
    "mistral sliding": MistralConfig(**SIZES, sliding_window=5),
    "qwen2 tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(**SIZES, head_dim=16, sliding_window=5, final_logit_softcapping=2.0),
    "phi": PhiConfig(**SIZES),
    "gpt_neo": GPTNeoConfig(
        **NEO_SIZES, attention_types=[[["local", "global"], 1]], window_size=5, bos_token_id=1, eos_token_id=2
    ),
    "gpt_neox": GPTNeoXConfig(**NEOX_SIZES, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
    "gpt_neox sequential": GPTNeoXConfig(**NEOX_SIZES, use_parallel_residual=False, rotary_pct=1.0),
}
LACKING = {
    "gpt_neox": ("hook_rot_q", "hook_rot_k"),
    "gpt_neo": ("hook_attn_scores",),
    "phi": ("ln2.hook_scale", "ln2.hook_normalized"),
}
"""What TransformerLens 4.3 does not show: of GPT-Neo it has the pattern under the name of the scores; Phi has one norm
for attention and MLP, which ours shows under both names, as `HookedTransformer` did."""
LENGTH = 12


@pytest.fixture(scope="module", params=MODELS)
def one_pass(request, make_module, tokens, tmp_path_factory):
    """One model's name and folder, and what TransformerLens's pass over it gives: logits, and values by name."""
    from transformer_lens.model_bridge import TransformerBridge

    folder = tmp_path_factory.mktemp("model")
    make_module(MODELS[request.param]).save_pretrained(folder)
    vocabulary = models.WordLevel({str(i): i for i in range(50)}, unk_token="0")
    made_up = {"tokenizer_object": Tokenizer(vocabulary), "bos_token": "1", "eos_token": "2", "pad_token": "2"}
    PreTrainedTokenizerFast(**made_up).save_pretrained(folder)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TransformerLens's own, while it wraps the module
        tokenizer = AutoTokenizer.from_pretrained(folder, add_bos_token=True)
        bridge = TransformerBridge.boot_transformers(str(folder), tokenizer=tokenizer, dtype=torch.float32)
        logits, values = bridge.run_with_cache(tokens(LENGTH))
    return request.param, folder, logits, values


def test_every_site_equals_transformer_lens(one_pass, tokens, keep_all):
    model_name, folder, their_logits, theirs = one_pass
    model, tap = load_folder(folder), keep_all()
    with torch.no_grad():
        logits = model(tokens(LENGTH), tap=tap)
    assert set(tap.kept) == set(site_names(model.config))
    torch.testing.assert_close(logits, their_logits, atol=1e-5, rtol=0)
    for name, value in tap.kept.items():
        assert value.shape == site_shape(model.config, name, batch=2, pos=LENGTH), name
        visible = slice(None)
        if name.endswith("hook_attn_scores"):
            window = model.config.window_of_layer(split_name(name)[0])
            visible = visible_keys(LENGTH, LENGTH, window, value.device)
        if name.endswith(LACKING.get(MODELS[model_name].model_type, ())):
            shown = theirs.cache_dict.get(name)
            assert shown is None or torch.equal(shown, theirs[name.replace("attn_scores", "pattern")]), "compare it now"
            continue
        expected = theirs[name]
        if ".q_norm." in name or ".k_norm." in name:  # TransformerLens has heads before positions there
            expected = expected.transpose(1, 2)
        assert expected.shape == value.shape, name
        difference = (value[..., visible] - expected[..., visible]).abs().max().item()
        assert difference < 1e-5, f"{name}: {difference:.1e}"
