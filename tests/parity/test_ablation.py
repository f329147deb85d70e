"""A sweep gives what a plain loop of edited passes through TransformerLens gives on the same weights.

Tolerance 1e-4 in logits, of size up to about 30: rounding.
"""

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

import probe

MODELS = {
    "gpt2": GPT2Config(n_layer=3, n_head=4, n_embd=32, vocab_size=50, n_positions=64, bos_token_id=1, eos_token_id=2),
    "llama": LlamaConfig(
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, intermediate_size=48,
        vocab_size=50, max_position_embeddings=64,
    ),
}  # fmt: skip
HOOKS = {"heads": ("attn.hook_z",), "MLPs": ("hook_mlp_out",), "layers": ("hook_attn_out", "hook_mlp_out")}
EXACT = 1e-4
TARGET, AGAINST = 5, 7


def bridge_of(folder):
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TransformerLens's own, while it wraps the module
        tokenizer = AutoTokenizer.from_pretrained(folder, add_bos_token=True)
        return TransformerBridge.boot_transformers(str(folder), tokenizer=tokenizer, dtype=torch.float32)


@pytest.fixture(scope="module", params=MODELS)
def both(request, make_module, tmp_path_factory):
    """Our model and TransformerLens's, of the same folder."""
    folder = tmp_path_factory.mktemp("model")
    make_module(MODELS[request.param]).save_pretrained(folder)
    vocabulary = models.WordLevel({str(i): i for i in range(50)}, unk_token="0")
    made_up = {"tokenizer_object": Tokenizer(vocabulary), "bos_token": "1", "eos_token": "2", "pad_token": "2"}
    PreTrainedTokenizerFast(**made_up).save_pretrained(folder)
    return probe.load_model(folder), bridge_of(folder)


def edited(bridge, ids, unit, new, positions):
    """The logit difference of one pass with every part of a unit replaced at these positions."""

    def hook_for(part):
        def replace(value, hook):
            value = value.clone()
            own = value if part.index is None else value[:, :, part.index]
            own[:, positions] = new(hook.name, own[:, positions], part)
            return value

        return replace

    names = {"z": "attn.hook_z", "mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out"}
    hooks = [(f"blocks.{part.layer}.{names[part.site]}", hook_for(part)) for part in unit.parts]
    with torch.no_grad():
        logits = bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
    return float(logits[0, -1, TARGET] - logits[0, -1, AGAINST])


@pytest.mark.parametrize("units", HOOKS)
@pytest.mark.parametrize("value", ["zero", "mean"])
@pytest.mark.parametrize("positions", ["after the first", -1, None])
def test_a_sweep_equals_a_loop_of_transformer_lens_passes(both, tokens, units, value, positions):
    model, bridge = both
    prompts = tokens(11).tolist()
    metric = probe.logit_difference(TARGET, AGAINST)
    found = probe.ablation_sweep(
        model, prompts, metric=metric, units=units, value=value, positions=positions, progress=False
    )
    where = {"after the first": slice(1, None), -1: slice(-1, None), None: slice(None)}[positions]
    with torch.no_grad():
        logits, _ = bridge.run_with_cache(torch.tensor([prompts[0]]))
        _, other = bridge.run_with_cache(torch.tensor([prompts[1]]))
    clean = float(logits[0, -1, TARGET] - logits[0, -1, AGAINST])
    assert float(found.clean[0]) == pytest.approx(clean, abs=EXACT)

    def new(name, old, part):
        if value == "zero":
            return torch.zeros_like(old)
        mean = other[name][:, 1:].mean(1, keepdim=True)  # of the only other prompt, position 0 left out
        return mean if part.index is None else mean[:, :, part.index]

    for number, unit in enumerate(found.units):
        expected = edited(bridge, prompts[0], unit, new, where) - clean
        assert float(found.effects[number, 0]) == pytest.approx(expected, abs=EXACT), unit.name
    assert found.effects.abs().max() > 100 * EXACT


@pytest.mark.slow
@pytest.mark.model
def test_on_the_default_model_thirty_heads_equal_transformer_lens(default_model, tmp_path):
    prompt = "When Mary and John went to the store, John gave a drink to"
    ids = default_model.tokenizer.encode(prompt)
    target, against = (default_model.tokenizer.token_id(text) for text in (" Mary", " John"))
    found = probe.ablation_sweep(
        default_model, ids, metric=probe.logit_difference(target, against), value="zero", progress=False
    )
    default_model.save(tmp_path / "model")
    bridge = bridge_of(tmp_path / "model")
    for number in range(0, len(found.units), 9):
        (part,) = found.units[number].parts

        def zero(value, hook, head=part.index):
            value = value.clone()
            value[:, 1:, head] = 0.0
            return value

        with torch.no_grad():
            hooks = [(f"blocks.{part.layer}.attn.hook_z", zero)]
            logits = bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
        expected = float(logits[0, -1, target] - logits[0, -1, against]) - float(found.clean[0])
        assert float(found.effects[number, 0]) == pytest.approx(expected, abs=EXACT), found.units[number].name
