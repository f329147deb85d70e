"""TransformerLens's tools give on our model what they give on its own bridge with the same weights.

In float64, so that effects of 1e-4 tell right from wrong; the tolerance is 1e-5, since Hugging Face computes norms and
angles in float32 whatever the dtype, and some tools store float32. Where a tool needs the final norm folded, the bridge
is one with that folding and no other processing, since our other weights are as they are.
"""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig, PhiConfig, PreTrainedTokenizerFast

import probe
from probe.errors import DifferentModel, ProbeError, SiteNotRecorded, UnknownName, UnsupportedModel
from tests.tiny import tiny_model

PARALLEL = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48,
            "vocab_size": 50, "max_position_embeddings": 64}  # fmt: skip
MODELS = {
    "gpt2": GPT2Config(n_layer=3, n_head=4, n_embd=32, vocab_size=50, n_positions=64, bos_token_id=1, eos_token_id=2),
    "llama": LlamaConfig(
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, intermediate_size=48,
        vocab_size=50, max_position_embeddings=64,
    ),
    "neox": GPTNeoXConfig(**PARALLEL, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
    "phi": PhiConfig(**PARALLEL, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
}  # fmt: skip
BRIDGE_LACKS = {"neox": ("attn.hook_rot_q", "attn.hook_rot_k"), "phi": ("ln2.hook_scale", "ln2.hook_normalized")}
"""Sites of ours that the bridge of a family does not have; of Phi, whose one norm it calls ln1, also hook_mlp_in."""
NO_MID = "nothing lies between attention and MLP"
EXACT = 1e-5
TARGET, AGAINST = 5, 7
LENGTH = 7


def bridge_of(folder, dtype=torch.float64):
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TransformerLens's own, while it wraps the module
        tokenizer = AutoTokenizer.from_pretrained(folder, add_bos_token=True)
        bridge = TransformerBridge.boot_transformers(str(folder), tokenizer=tokenizer, dtype=dtype)
    bridge.eval()
    bridge.cfg.default_prepend_bos = False
    return bridge


def fold(bridge):
    """The final norm into the unembedding (and the others into what follows them); nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode(
            disable_warnings=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )


class Both:
    """Our model behind the adapter, and the bridges of the same folder: as it is, and with its norms folded."""

    def __init__(self, family, folder):
        self.family = family
        self.model = probe.load_model(folder, dtype="float64")
        self.ours, self.theirs, self.folded = (
            probe.as_transformer_lens(self.model),
            bridge_of(folder),
            bridge_of(folder),
        )
        fold(self.folded)

    @property
    def shared_sites(self):
        """Those of our sites that the bridge has."""
        lacks = BRIDGE_LACKS.get(self.family, ())
        return {name for name in probe.site_names(self.model.config) if not name.endswith(lacks)}


@pytest.fixture(scope="module", params=MODELS)
def both(request, make_module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_module(MODELS[request.param]).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(50)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made_up = {"tokenizer_object": words, "bos_token": "1", "eos_token": "2", "pad_token": "2"}
    PreTrainedTokenizerFast(**made_up).save_pretrained(folder)
    return Both(request.param, folder)


def metric(logits):
    return logits[0, -1, TARGET] - logits[0, -1, AGAINST]


def close(ours, theirs, message=None, atol=EXACT):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0, msg=message)


def test_the_adapter_is_what_transformer_lens_calls_a_model(both):
    from transformer_lens.model_protocol import TransformerLensModel, TransformerLensModelWithWeights

    assert isinstance(both.ours, TransformerLensModel) and isinstance(both.ours, TransformerLensModelWithWeights)


def test_weights_are_those_of_the_bridge(both):
    config = both.model.config
    biases = ["b_Q", "b_K", "b_V", "b_O", "b_in", "b_out"] if config.qkv_bias else ["W_gate"]
    positions = ["W_pos"] if config.positions == "learned" else []
    for name in ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_E", *biases, *positions]:
        close(getattr(both.ours, name), getattr(both.theirs, name).detach(), name, atol=0)
    ours = both.ours.ln_final(both.ours.blocks[0].attn.W_O) @ both.ours.W_U + both.ours.b_U
    theirs = both.theirs.unembed(both.theirs.ln_final(both.theirs.blocks[0].attn.W_O))
    close(ours, theirs.detach())
    for layer, mlp_input, with_mlp in [(0, False, True), (0, True, True), (2, True, False), (3, False, True)]:
        if mlp_input and config.parallel:
            with pytest.raises(UnsupportedModel, match="the MLP does not read"):
                both.ours.accumulated_bias(layer, mlp_input, with_mlp)
            continue
        expected = both.theirs.accumulated_bias(layer, mlp_input, with_mlp).detach().double()
        close(both.ours.accumulated_bias(layer, mlp_input, with_mlp), expected)
    for tokens in ["5", 5, torch.tensor([5]), torch.tensor([[5, 6, 7]])]:
        expected = both.folded.tokens_to_residual_directions(tokens).detach()
        ours = both.ours.tokens_to_residual_directions(tokens)
        assert ours.shape == expected.shape
        centred = expected - expected.mean(-1, keepdim=True) if config.norm == "layer" else expected
        close(ours, centred)


def test_caches_are_equal(both, tokens):
    prompts = tokens(LENGTH)
    with torch.no_grad():
        logits, cache = both.ours.run_with_cache(prompts)
        expected, theirs = both.theirs.run_with_cache(prompts)
    close(logits, expected)
    assert set(cache.keys()) == set(probe.site_names(both.model.config))
    for name in both.shared_sites:
        if not name.endswith("attn_scores"):  # ours are before the mask
            close(cache[name], theirs[name], name)
    assert cache["pattern", -1] is cache["blocks.2.attn.hook_pattern"]
    rec = probe.to_activation_cache(probe.record(both.model, prompts), both.model)
    assert all(torch.equal(rec[name], cache[name]) for name in cache)
    assert torch.equal(rec.stack_head_results(), cache.stack_head_results())


@pytest.mark.parametrize("stop", [0, 1, 2, -1, -3])
def test_stopping_means_what_transformer_lens_means(both, tokens, stop):
    with torch.no_grad():
        resid, cache = both.ours.run_with_cache(tokens(LENGTH), stop_at_layer=stop)
        expected, theirs = both.theirs.run_with_cache(tokens(LENGTH), stop_at_layer=stop)
    close(resid, expected)
    shared = both.shared_sites
    assert shared & set(cache.keys()) == shared & set(theirs.keys())
    close(both.ours(tokens(LENGTH), stop_at_layer=stop), resid)


def test_stopping_after_the_last_layer_gives_the_last_residual_stream(both, tokens):
    resid, cache = both.ours.run_with_cache(tokens(LENGTH), stop_at_layer=3)
    assert torch.equal(resid.detach(), cache["resid_post", 2]) and "ln_final.hook_scale" not in cache.keys()


def test_a_pass_can_start_at_a_layer(both, tokens):
    with torch.no_grad():
        logits, cache = both.ours.run_with_cache(tokens(LENGTH))
        again, later = both.ours.run_with_cache(cache["resid_pre", 1], start_at_layer=1)
        theirs = both.theirs.run_with_hooks(cache["resid_pre", 1], start_at_layer=1)
    close(again, logits, atol=1e-5)
    close(again, theirs)
    assert "hook_embed" not in later.keys() and "blocks.0.hook_resid_pre" not in later.keys()


@pytest.mark.parametrize("return_type", ["logits", "loss", "both", None])
@pytest.mark.parametrize("loss_per_token", [False, True])
def test_what_is_returned_is_what_was_asked_for(both, tokens, return_type, loss_per_token):
    arguments = {"return_type": return_type, "loss_per_token": loss_per_token}
    with torch.no_grad():
        ours, theirs = (run(tokens(LENGTH), **arguments) for run in (both.ours, both.theirs))
        again, _ = both.ours.run_with_cache(tokens(LENGTH), names_filter=[], **arguments)
    for one, other in ((ours, theirs), (again, theirs)):
        if return_type == "both":
            close(one[0], other[0])
            close(one[1], other[1])
        elif return_type is None:
            assert one is None and other is None
        else:
            close(one, other)


def test_names_are_filtered_by_a_name_a_list_or_a_function(both, tokens):
    from transformer_lens.utilities.slice import Slice

    def names(names_filter, **options):
        return list(both.ours.run_with_cache(tokens(LENGTH), names_filter=names_filter, **options)[1].keys())

    assert names("blocks.1.attn.hook_z") == ["blocks.1.attn.hook_z"]
    assert names(["blocks.2.hook_attn_out", "hook_embed"]) == ["blocks.2.hook_attn_out", "hook_embed"]
    assert names(lambda name: name.endswith("hook_k")) == [f"blocks.{layer}.attn.hook_k" for layer in range(3)]
    assert names(lambda name: "hook_z" in name, stop_at_layer=1) == ["blocks.0.attn.hook_z"]
    one = tokens(LENGTH)[:1]
    for options in ({"pos_slice": -1}, {"pos_slice": [1, 3]}, {"pos_slice": Slice((1, 4))}):
        wanted = ["blocks.1.attn.hook_pattern", "blocks.1.hook_mlp_out"]
        found, expected = (
            model.run_with_cache(one, names_filter=wanted, remove_batch_dim=True, return_cache_object=False, **options)[
                1
            ]
            for model in (both.ours, both.theirs)
        )
        assert isinstance(found, dict) and list(found) == wanted
        for name in wanted:
            close(found[name], expected[name])
            assert not found[name].requires_grad


def test_gradients_are_cached_and_the_weights_are_left_alone(both, tokens):
    names = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"]
    arguments = {"names_filter": names, "incl_bwd": True, "return_type": "loss"}
    _, ours = both.ours.run_with_cache(tokens(LENGTH), **arguments)
    _, theirs = both.theirs.run_with_cache(tokens(LENGTH), **arguments)
    both.theirs.zero_grad()
    for name in names[1:]:
        assert ours[f"{name}_grad"].abs().max() > 10 * EXACT
        close(ours[f"{name}_grad"], theirs[f"{name}_grad"], name)
    assert set(ours.keys()) == {*names, *(f"{name}_grad" for name in names)}
    assert all(weight.grad is None for weight in both.model.parameters())


PATCHES = ["block_every", "attn_head_all_pos_every", "resid_mid", "attn_head_k_by_pos", "attn_head_pattern_by_pos"]
"""The first two are eight others, one after another."""


@pytest.mark.usefixtures("as_users_run_it")  # hundreds of passes
@pytest.mark.parametrize("name", PATCHES)
def test_patching(both, tokens, name):
    from transformer_lens import patching

    clean, corrupted = tokens(4)[:1], tokens(4)[1:]
    found = []
    with torch.no_grad():
        for model in (both.ours, both.theirs):
            _, cache = model.run_with_cache(clean)
            if name == "resid_mid" and not both.model.config.has_mid:
                with pytest.raises(SiteNotRecorded if model is both.ours else KeyError, match="hook_resid_mid"):
                    patching.get_act_patch_resid_mid(model, corrupted, cache, metric)
                continue
            found.append(getattr(patching, f"get_act_patch_{name}")(model, corrupted, cache, metric))
    if found:
        close(*found)
        assert found[0].std() > 100 * EXACT


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_patching_of_direct_paths(both, tokens, component):
    from transformer_lens import patching

    clean, corrupted = tokens(LENGTH)[:1], tokens(LENGTH)[1:]
    found = []
    for model in (both.ours, both.theirs):
        with torch.no_grad():
            _, clean_cache = model.run_with_cache(clean)
            _, corrupted_cache = model.run_with_cache(corrupted)
            arguments = (model, corrupted, clean_cache, corrupted_cache, metric, 0, 1, component, False)
            if component != "q" and both.model.config.heads_per_group > 1:
                with pytest.raises(ValueError, match="n_key_value_heads=2"):
                    patching.get_act_patch_direct_path(*arguments)
                return
            found.append(patching.get_act_patch_direct_path(*arguments))
    close(*found)
    assert found[0][1:].std() > 5 * EXACT


@pytest.mark.parametrize("pattern", ["previous_token_head", "duplicate_token_head", "induction_head"])
@pytest.mark.parametrize(
    "options", [{}, {"exclude_bos": True, "exclude_current_token": True}, {"error_measure": "abs"}]
)
def test_detect_head(both, pattern, options):
    from transformer_lens.head_detector import detect_head

    for text in ("3 4 5 3 4 5 3 4", ["3 4 5 3 4", "7 8 7 8 7 8"]):
        ours, theirs = (detect_head(model, text, pattern, **options) for model in (both.ours, both.theirs))
        close(ours, theirs, atol=2e-3 if options.get("error_measure") else EXACT)  # "abs" is rounded to 0.001
        assert ours.shape == (3, 4) and ours.std() > 0.01


def test_what_a_cache_computes(both, tokens):
    of_mlp = {"mlp_input": both.model.config.has_mid}
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def all_of(model):
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens(LENGTH))
            yield from cache.decompose_resid(return_labels=True)
            yield from cache.decompose_resid(2, **of_mlp, mode="attn", pos_slice=-1, return_labels=True)
            yield from cache.decompose_resid(2, **of_mlp, apply_ln=True, pos_slice=-1, return_labels=True)
            yield from cache.decompose_resid(2, mlp_input=True, mode="mlp", pos_slice=-1, return_labels=True)
            yield from cache.stack_head_results(incl_remainder=True, apply_ln=True, return_labels=True)
            yield from cache.stack_head_results(layer=2, pos_slice=-1, return_labels=True)
            yield from cache.accumulated_resid(incl_mid=both.model.config.has_mid, return_labels=True)
            yield from cache.stack_neuron_results(2, pos_slice=-1, incl_remainder=True, return_labels=True)
            yield from cache.get_full_resid_decomposition(expand_neurons=True, pos_slice=-1, return_labels=True)
            yield from cache.get_full_resid_decomposition(2, **of_mlp, apply_ln=True, pos_slice=-1, return_labels=True)
            yield cache.get_neuron_results(1, pos_slice=-1)
            if both.family != "phi":
                yield cache.apply_ln_to_stack(cache.decompose_resid(2), 2, mlp_input=True)
                yield cache.stack_neuron_results(2, apply_ln=True, mlp_input=True, project_output_onto=direction)

    for ours, theirs in zip(list(all_of(both.ours)), list(all_of(both.theirs)), strict=True):
        if isinstance(ours, list):
            assert [str(label) for label in ours] == [str(label) for label in theirs]
        else:
            close(ours, theirs)


def test_the_parts_of_a_cache_add_up_to_the_logits(both, tokens):
    with torch.no_grad():
        logits, cache = both.ours.run_with_cache(tokens(LENGTH))
    parts = cache.get_full_resid_decomposition(expand_neurons=False)
    attributed = cache.logit_attrs(parts, TARGET, AGAINST).sum(0)
    bias = both.ours.b_U[TARGET] - both.ours.b_U[AGAINST]
    close(attributed + bias, logits[..., TARGET] - logits[..., AGAINST])
    normed = cache.accumulated_resid(apply_ln=True)[-1]
    close(both.ours.unembed(normed), logits)


@pytest.mark.parametrize("both", ["neox", "phi"], indirect=True)
def test_in_parallel_layers_the_stream_between_attention_and_mlp_is_missing_and_said_to_be(both, tokens):
    """The bridge adds what attention writes to what it says that the MLP reads."""
    from transformer_lens.tools.analysis import direct_logit_attribution, logit_lens

    prompts, absent = tokens(LENGTH), (SiteNotRecorded, UnknownName)
    _, whole = both.ours.run_with_cache(prompts)
    for cache in (whole, whole.apply_slice_to_batch_dim(slice(0, 1))):
        for asks in (
            lambda cache: cache["resid_mid", 1],
            lambda cache: cache.accumulated_resid(incl_mid=True),
            lambda cache: cache.accumulated_resid(1, mlp_input=True),
            lambda cache: cache.stack_neuron_results(1, incl_remainder=True, mlp_input=True),
            lambda cache: cache.logit_lens(incl_mid=True),
            lambda cache: logit_lens(both.ours, prompts, incl_mid=True),
            lambda cache: direct_logit_attribution(both.ours, prompts, TARGET, unit="layer"),
        ):
            with pytest.raises(absent, match=f"hook_resid_mid.*{NO_MID}"):
                asks(cache)
        for asks in (
            lambda cache: cache.decompose_resid(1, mlp_input=True),
            lambda cache: cache.decompose_resid(1, True, "attn", True),
            lambda cache: cache.get_full_resid_decomposition(1, mlp_input=True),
            lambda cache: cache.get_full_resid_decomposition(1, mlp_input=True, expand_neurons=False),
        ):
            with pytest.raises(UnsupportedModel, match="mlp_input=True would add what the layer's attention writes"):
                asks(cache)
        read = cache.apply_ln_to_stack(cache.decompose_resid(1), 1, mlp_input=True)
        close(read.sum(0), cache["blocks.1.ln2.hook_normalized"])


@pytest.mark.parametrize("against", [None, AGAINST, str(AGAINST)])
@pytest.mark.parametrize("unit", ["component", "layer", "head"])
@pytest.mark.parametrize("position", [-1, None])
def test_direct_logit_attribution(both, tokens, unit, against, position):
    from transformer_lens.tools.analysis import direct_logit_attribution

    if unit == "layer" and not both.model.config.has_mid:  # what it asks for does not exist
        with pytest.raises(KeyError, match="hook_resid_mid"):
            direct_logit_attribution(both.folded, tokens(LENGTH), TARGET, unit=unit)
        return
    found = [
        direct_logit_attribution(model, tokens(LENGTH), TARGET, against, unit=unit, pos=position)
        for model in (both.ours, both.folded)
    ]
    assert found[0].labels == found[1].labels
    close(found[0].attribution.detach(), found[1].attribution.detach())
    assert found[0].attribution.std() > 100 * EXACT


def test_logit_attributions_of_several_tokens(both, tokens):
    per_prompt, per_position = torch.tensor([3, 4]), tokens(LENGTH)
    for wanted, other in ((per_prompt, None), (per_position, None), (per_position, per_position.flip(1)), ("3", "4")):
        found = []
        for model in (both.ours, both.folded):
            _, cache = model.run_with_cache(tokens(LENGTH))
            found.append(cache.logit_attrs(cache.decompose_resid(), wanted, other).detach())
        close(*found)


LENSES = {
    "logits": {},
    "ranks": {"targets": ["5", 7], "incl_mid": True, "positions": None},
    "next tokens": {"targets": torch.tensor([[3], [4]]), "positions": None, "return_type": "log_probs"},
    "top": {"top_k": 4, "return_type": "probs", "layers": [0, -1]},
    "some": {"vocab": [1, 2, 3], "batch_slice": 1},
}


@pytest.mark.parametrize("name", LENSES)
def test_logit_lens(both, tokens, name):
    from transformer_lens.tools.analysis import logit_lens

    options = {**LENSES[name], "incl_mid": "incl_mid" in LENSES[name] and both.model.config.has_mid}
    ours, theirs = (logit_lens(model, tokens(LENGTH), **options) for model in (both.ours, both.theirs))
    assert ours.labels == theirs.labels
    close(ours.values, theirs.values)
    close(ours.readout.entropy, theirs.readout.entropy)
    for field in ("target_ranks", "top_ids"):
        one, other = (getattr(result.readout, field) for result in (ours, theirs))
        assert (one is None and other is None) or torch.equal(one, other)
    if name == "logits":
        close(ours.values[-1], both.ours(tokens(LENGTH))[:, -1].detach())
    if name == "top":
        assert ours.top_tokens(both.ours.tokenizer)["final_post"][0][0] == str(int(ours.readout.top_ids[-1, 0, 0]))


def test_logit_lens_of_a_recording(both, tokens):
    rec = probe.record(both.model, tokens(LENGTH), sites=["resid_pre", "resid_post"], positions=[2, -1])
    found = probe.to_activation_cache(rec, both.model).logit_lens(positions=None, targets=TARGET)
    lens = probe.logit_lens(both.model, probe.record(both.model, tokens(LENGTH)), watch=[TARGET])
    close(found.values[-1, ..., 0], rec.logits[..., TARGET])
    assert found.readout.target_ranks[-1, 0, -1, 0] == lens.watched_ranks[-1, 0, -1, 0] - 1  # theirs begin with 0


@pytest.mark.parametrize("granularity", ["node", "edge"])
def test_attribution_patching(both, tokens, granularity):
    from transformer_lens.tools.analysis import EdgeAttributionConfig, attribution_patch

    clean, corrupted = tokens(4)[:1], tokens(4)[1:]
    found = []
    for model in (both.ours, both.theirs):
        arguments = (model, clean, corrupted, metric, EdgeAttributionConfig(granularity))
        if granularity == "edge" and both.model.config.heads_per_group > 1:
            with pytest.raises(ValueError, match="n_key_value_heads=2"):
                attribution_patch(*arguments)
            return
        if granularity == "edge" and both.family == "phi" and model is both.theirs:
            with pytest.raises(ValueError, match="hook_mlp_in"):
                attribution_patch(*arguments)
            continue
        found.append(attribution_patch(*arguments))
    if granularity == "edge":  # the edges that leave a node add up to its own effect
        nodes = attribution_patch(both.ours, clean, corrupted, metric).node_scores
        sums = found[0].node_scores
        assert set(nodes) == set(sums)
        close(torch.tensor([nodes[node] for node in sums]), torch.tensor(list(sums.values())))
    ours, theirs = found[0], found[-1]
    for scores in ("node_scores", "edge_scores"):
        one, other = getattr(ours, scores), getattr(theirs, scores)
        assert list(one) == list(other)
        close(torch.tensor(list(one.values())), torch.tensor(list(other.values())))
    assert max(map(abs, ours.node_scores.values())) > 100 * EXACT
    assert all(weight.grad is None for weight in both.model.parameters())


def test_attribution_patching_needs_no_trainable_weights(both, tokens):
    from transformer_lens.tools.analysis import attribution_patch

    clean, corrupted = tokens(4)[:1], tokens(4)[1:]
    expected = attribution_patch(both.ours, clean, corrupted, metric).node_scores
    both.model.requires_grad_(False)
    try:
        found = attribution_patch(both.ours, clean, corrupted, metric).node_scores
    finally:
        both.model.requires_grad_(True)
    assert found == expected


@pytest.mark.parametrize("both", ["gpt2", "neox"], indirect=True)
@pytest.mark.parametrize("ablation", ["corrupt", "mean"])
def test_faithfulness_of_a_circuit(both, tokens, ablation):
    from transformer_lens.tools.analysis import (
        EdgeAttributionConfig,
        FaithfulnessConfig,
        attribution_patch,
        faithfulness,
    )

    clean, corrupted = tokens(4)[:1], tokens(4)[1:]
    circuit = attribution_patch(both.ours, clean, corrupted, metric, EdgeAttributionConfig("edge")).top_edges(150)
    others = tokens(4, 40) + 3 if ablation == "mean" else None
    ours, theirs = (
        faithfulness(model, clean, corrupted, metric, circuit, FaithfulnessConfig(ablation), mean_tokens=others)
        for model in (both.ours, both.theirs)
    )
    assert ours.recovered == pytest.approx(theirs.recovered, abs=1e-3)
    assert ours.edge_class_recovered == pytest.approx(theirs.edge_class_recovered, abs=1e-3)
    assert ours.circuit_size == 150 and abs(ours.recovered - 1) > 0.01


DERIVED = ["attn.hook_result", "attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input", "hook_mlp_in"]


@pytest.fixture
def switched_on(both):
    """The bridge makes these values where it is told to."""
    switches = (both.theirs.set_use_attn_result, both.theirs.set_use_split_qkv_input, both.theirs.set_use_hook_mlp_in)
    for switch in switches:
        switch(True)
    yield
    for switch in switches:
        switch(False)


@pytest.mark.parametrize("site", DERIVED)
def test_values_that_no_pass_makes_are_read_and_changed_as_on_the_bridge(both, tokens, switched_on, site):
    if both.family == "phi" and site == "hook_mlp_in":
        pytest.skip("the bridge of Phi does not make it")
    name = f"blocks.1.{site}"
    with torch.no_grad():
        _, cache = both.ours.run_with_cache(tokens(LENGTH), names_filter=[name])
        _, theirs = both.theirs.run_with_cache(tokens(LENGTH), names_filter=[name])
    assert list(cache.keys()) == [name]
    close(cache[name], theirs[name])

    def turn_one_position(value, hook):
        assert hook.name == name and hook.layer() == 1
        value = value.clone()  # the bridge hands out the stream itself, and with backward hooks forbids writing
        value[:, 2] = value[:, 2].flip(-1)  # not a factor: the norm would undo it
        return value

    def twice(grad, hook):
        return 2 * grad

    plain = both.ours(tokens(LENGTH))
    for hooks in ({"fwd_hooks": [(name, turn_one_position)]}, {"bwd_hooks": [(name, twice)]}):
        found = []
        for model in (both.ours, both.theirs):
            embedded = []
            keep = ("hook_embed", lambda value, hook, kept=embedded: kept.append(value))
            with model.hooks(fwd_hooks=[keep]), model.hooks(**hooks):
                logits = model(tokens(LENGTH))
                found.append((logits, torch.autograd.grad(metric(logits), embedded)[0]))
        for ours, expected in zip(*found, strict=True):
            close(ours, expected)
        changed = (found[0][0] - plain).abs().max() > 100 * EXACT
        assert changed == ("fwd_hooks" in hooks)


def test_a_backward_hook_gets_the_gradient_and_may_return_another(both, tokens):
    """At a site that is not derived; the stream between two layers, which has two names."""
    names = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_pre"]

    def gradients(model, change):
        seen, embedded = {}, []

        def note(name):
            def hook(grad, hook):
                seen[name] = grad.clone()
                return (3 * grad,) if change and name == names[1] else None  # a tuple, as torch's own hooks return

            return hook

        keep = ("hook_embed", lambda value, hook: embedded.append(value))
        with model.hooks(fwd_hooks=[keep], bwd_hooks=[(name, note(name)) for name in names]):
            loss = model(tokens(LENGTH), return_type="loss")
            return torch.autograd.grad(loss, embedded)[0], seen

    plain, seen = gradients(both.ours, change=False)
    expected, theirs = gradients(both.theirs, change=False)
    changed, seen_then = gradients(both.ours, change=True)
    close(plain, expected)
    for name in names:
        close(seen[name], theirs[name])
    close(changed, 3 * plain)
    close(seen_then[names[0]], 3 * seen[names[1]])
    close(seen_then[names[1]], seen[names[1]])


def test_a_hook_may_write_into_its_value_and_nobody_else_sees_that(both, tokens):
    def write(value, hook):
        value[:, 1:] = 0.0  # and returns nothing

    with torch.no_grad():
        _, before = both.ours.run_with_cache(tokens(LENGTH), names_filter=["blocks.0.hook_resid_post"])
        with both.ours.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", write)]):
            logits, cache = both.ours.run_with_cache(tokens(LENGTH))
        theirs = both.theirs.run_with_hooks(tokens(LENGTH), fwd_hooks=[("blocks.1.hook_resid_pre", write)])
    close(logits, theirs)
    close(cache["resid_post", 0], before["resid_post", 0])
    assert not cache["resid_pre", 1][:, 1:].any()


def test_hooks_run_in_order_at_every_name_that_their_function_picks(both, tokens):
    ran = []

    def note(text):
        def hook(value, hook):
            ran.append((text, hook.name))
            hook.ctx[text] = len(hook.ctx)
            return value + 1.0 if text == "first" else None

        return hook

    hooks = [(lambda name: name.endswith("hook_z"), note("first")), ("blocks.1.attn.hook_z", note("second"))]
    found = [model.run_with_hooks(tokens(LENGTH), fwd_hooks=hooks) for model in (both.ours, both.theirs)]
    close(*found)
    z = [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    assert ran[:4] == [("first", z[0]), ("first", z[1]), ("second", z[1]), ("first", z[2])]


def test_hooks_may_know_no_batch(both, tokens):
    def shift(value, hook):
        assert value.ndim == 2
        return value.roll(1, 0)

    def write(value, hook):
        value[0] = 0.0

    for function in (shift, write):
        arguments = {"fwd_hooks": [("blocks.1.hook_mlp_out", function)], "remove_batch_dim": True}
        with torch.no_grad():
            found = [model.run_with_hooks(tokens(LENGTH)[:1], **arguments) for model in (both.ours, both.theirs)]
        close(*found)


class UsersOwnError(Exception):
    pass


def fail(value, hook):
    raise UsersOwnError


@pytest.mark.usefixtures("as_users_run_it")
def test_two_threads_two_adapters_and_failures_do_not_meet(both, tokens):
    """One model. Each thread holds hooks of its own in force, or none, and calls that fail in between."""
    prompts, name = tokens(LENGTH), "blocks.1.attn.hook_z"
    start = threading.Barrier(4)
    shared = both.ours

    def ablated(head):
        def zero(value, hook):
            value[:, :, head] = 0.0

        return zero

    def passes(adapter, head, repeats):
        found = []
        for _ in range(repeats):
            with pytest.raises(UsersOwnError), adapter.hooks(fwd_hooks=[(name, fail)]):
                adapter(prompts)
            if head is None:
                logits, cache = adapter.run_with_cache(prompts)
            else:
                with adapter.hooks(fwd_hooks=[(name, ablated(head))]):
                    logits, cache = adapter.run_with_cache(prompts)
            with pytest.raises(UsersOwnError):
                adapter.run_with_hooks(prompts, fwd_hooks=[("blocks.2.hook_mlp_out", fail)], stop_at_layer=3)
            found.append((logits.detach(), dict(cache.items())))
        return found

    def work(job):
        start.wait()
        return passes(*job, repeats=8)

    jobs = [(shared, None), (shared, 0), (shared, 1), (probe.as_transformer_lens(both.model), 2)]
    before = {key: weight.clone() for key, weight in both.model.state_dict().items()}
    serial = [passes(*job, repeats=1)[0] for job in jobs]
    assert (serial[0][0] - serial[1][0]).abs().max() > 100 * EXACT
    with ThreadPoolExecutor(4) as pool:
        for found, (logits, cache) in zip(pool.map(work, jobs), serial, strict=True):
            for ours, values in found:
                close(ours, logits, atol=1e-12)
                assert all(torch.allclose(values[key], cache[key], atol=1e-12, rtol=0) for key in cache)
    assert all(torch.equal(weight, before[key]) for key, weight in both.model.state_dict().items())
    for module in both.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert vars(shared) == {"_model": both.model, "_document_start": False}


def test_hooks_of_one_adapter_do_not_touch_another(both, tokens):
    other = probe.as_transformer_lens(both.model)
    with both.ours.hooks(fwd_hooks=[("hook_embed", fail)]):
        other(tokens(LENGTH))
        with other.hooks(), pytest.raises(UsersOwnError):
            both.ours(tokens(LENGTH))
    both.ours(tokens(LENGTH))


def test_a_cache_of_padded_partial_or_foreign_recordings_is_refused(both):
    record, to_cache = probe.record, probe.to_activation_cache
    ragged = record(both.model, [[1, 2, 3], [4, 5]])
    with pytest.raises(ProbeError, match=r"2 to 3 tokens: .*recording.prompt\(i\)"):
        to_cache(ragged, both.model)
    assert to_cache(ragged.prompt(1), both.model)["z", 0].shape == (1, 2, 4, 8)
    with pytest.raises(ProbeError, match="heads=.1.: a cache holds whole values"):
        to_cache(record(both.model, [1, 2], sites=["z"], heads=1), both.model)
    with pytest.raises(ProbeError, match="reduce=.*leave reduce out"):
        to_cache(record(both.model, [1, 2], sites=[], reduce={"z": "mean"}), both.model)
    with pytest.raises(DifferentModel, match="not made with this 'tiny llama'"):
        to_cache(ragged, tiny_model())


@pytest.mark.slow
@pytest.mark.model
def test_on_the_default_model_attribution_lens_and_heads_are_those_of_the_bridge(default_model, tmp_path):
    """9 query heads, 3 key heads, a real tokenizer. In float32: attributions of up to 30 within 1e-3."""
    from transformer_lens.head_detector import detect_head
    from transformer_lens.tools.analysis import direct_logit_attribution, logit_lens

    default_model.save(tmp_path / "model")
    adapter, bridge = probe.as_transformer_lens(default_model), bridge_of(tmp_path / "model", torch.float32)
    fold(bridge)
    text = "When Mary and John went to the store, John gave a drink to"
    assert torch.equal(adapter.to_tokens(text), bridge.to_tokens(text))
    assert adapter.to_str_tokens(text) == bridge.to_str_tokens(text)
    close(*(detect_head(model, text, "duplicate_token_head") for model in (adapter, bridge)), atol=1e-4)
    tokens = adapter.to_tokens(text, prepend_bos=True)
    assert tokens[0, 0] == default_model.tokenizer.document_start_id != default_model.tokenizer.bos_id
    ours, theirs = (direct_logit_attribution(m, tokens, " Mary", " John", unit="head") for m in (adapter, bridge))
    close(ours.attribution.detach(), theirs.attribution.detach(), atol=1e-3)
    assert ours.top(2)[1][0] == "L23H3"
    ours, theirs = (
        logit_lens(m, tokens, targets=[" Mary", " John"], return_type="log_probs") for m in (adapter, bridge)
    )
    close(ours.values, theirs.values, atol=1e-3)
    assert torch.equal(ours.readout.target_ranks[-5:], theirs.readout.target_ranks[-5:])
