"""What the adapter says of its model and of text, and what it refuses: naming what was meant, or the way that works.

Its numbers are compared with TransformerLens's own in tests/parity/.
"""

import contextvars
import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

import probe
from probe.errors import (
    BadIntervention,
    BadPrompt,
    BadShape,
    OutOfRange,
    ProbeError,
    SiteNotRecorded,
    UnknownName,
    UnsupportedModel,
)
from probe.tokens import Tokenizer
from tests.tiny import CONFIGS, GPT2, LLAMA, MORE, NEOX, tiny_model, tiny_tokens

pytestmark = pytest.mark.usefixtures("as_users_run_it")
TOKENS = tiny_tokens()
START, BOS, END = 0, 1, 2
WORDS = {"<document>": START, "<bos>": BOS, "<end>": END} | {word: 3 + i for i, word in enumerate("abcdefgh")}


def words_tokenizer(*, adds_bos: bool = False) -> Tokenizer:
    """One token per word. Documents begin with <document>; <bos> is what the files declare, as chat models do."""
    backend = Backend(WordLevel(WORDS, unk_token="h"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens([AddedToken(text, special=True) for text in list(WORDS)[:3]])
    if adds_bos:
        backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return Tokenizer(backend, bos="<bos>", eos="<end>", document_start="<document>")


@pytest.fixture(params=CONFIGS)
def model(request):
    model = tiny_model(request.param)
    model.tokenizer = words_tokenizer()
    return model


@pytest.fixture
def adapter(model):
    return probe.as_transformer_lens(model)


ACCEPTED = ("neo", "neox", "phi", "attention")
"""Further families that the tools are right for."""


def keep(value, hook):
    return None


# What is wrong -> the call (of the adapter a of a tiny Llama), the error, and what its message names.
REFUSED = {
    "misspelt hook": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_resid_psot", keep)]),
        UnknownName, ["no hook 'blocks.1.hook_resid_psot'", "'blocks.1.hook_resid_post'"],
    ),
    "misspelt backward hook": (
        lambda a: a.run_with_hooks(TOKENS, bwd_hooks=[("blocks.1.attn.hook_zz", keep)]),
        UnknownName, ["no hook 'blocks.1.attn.hook_zz'", "'blocks.1.attn.hook_z'"],
    ),
    "misspelt derived value": (
        lambda a: a.run_with_cache(TOKENS, names_filter="blocks.1.attn.hook_reslut"),
        UnknownName, ["'blocks.1.attn.hook_result'"],
    ),
    "one misspelt name of a list": (
        lambda a: a.run_with_cache(TOKENS, names_filter=["hook_embed", "blocks.0.mlp.hook_pots"]),
        UnknownName, ["no hook 'blocks.0.mlp.hook_pots'", "'blocks.0.mlp.hook_post'"],
    ),
    "TransformerLens's other spelling": (
        lambda a: a.run_with_cache(TOKENS, names_filter="blocks.1.hook_q_input"),
        UnknownName, ["'blocks.1.attn.hook_q_input'"],
    ),
    "short name": (lambda a: a.run_with_cache(TOKENS, names_filter="pattern"), UnknownName, ["no hook 'pattern'"]),
    "a name that this family does not have": (
        lambda a: a.run_with_cache(TOKENS, names_filter="hook_pos_embed"),
        UnknownName, ["'hook_pos_embed' does not exist in this model", "rotary"],
    ),
    "a layer that is not there": (
        lambda a: a.run_with_cache(TOKENS, names_filter="blocks.3.attn.hook_z"),
        OutOfRange, ["layer 3", "layers 0 to 2"],
    ),
    "a function of names that is never true": (
        lambda a: a.run_with_cache(TOKENS, names_filter=lambda name: "hook_reslut" in name),
        UnknownName, ["true of no site"],
    ),
    "a function of names for derived values": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[(lambda name: name.endswith("hook_result"), keep)]),
        UnknownName, ["'blocks.0.attn.hook_result' or 'blocks.1.attn.hook_result'", "only where named"],
    ),
    "a filter that is none": (lambda a: a.run_with_cache(TOKENS, names_filter=[3]), UnknownName, ["hook 3", "a name"]),
    "a hook beyond the stop": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[("blocks.2.attn.hook_z", keep)], stop_at_layer=2),
        OutOfRange, ["'blocks.2.attn.hook_z' is not reached", "blocks.1.hook_resid_post"],
    ),
    "a derived value before the start": (
        lambda a: a.run_with_cache(torch.zeros(1, 3, 32), names_filter="blocks.0.hook_mlp_in", start_at_layer=1),
        OutOfRange, ["'blocks.0.hook_mlp_in' is not reached", "blocks.1.hook_resid_pre"],
    ),
    "a stop beyond the layers": (
        lambda a: a.run_with_cache(TOKENS, stop_at_layer=99),
        OutOfRange, ["stop_at_layer 99", "first layer not run", "to 3"],
    ),
    "a stop that is no layer": (lambda a: a(TOKENS, stop_at_layer="1"), OutOfRange, ["stop_at_layer '1'"]),
    "a stop before the start": (
        lambda a: a(torch.zeros(1, 3, 32), start_at_layer=2, stop_at_layer=1), OutOfRange, ["no layer is run"],
    ),
    "a loss without tokens": (
        lambda a: a(torch.zeros(1, 3, 32), start_at_layer=2, return_type="loss"),
        BadPrompt, ["needs tokens to predict"],
    ),
    "a loss of one token": (lambda a: a(TOKENS[:, :1], return_type="loss"), BadPrompt, ["at least two tokens"]),
    "an unknown return type": (lambda a: a(TOKENS, return_type="logit"), UnknownName, ["'logit'", "'logits'"]),
    "a hook that returns another shape": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", lambda value, hook: value[:, :1])]),
        BadIntervention, ["blocks.1.attn.hook_z", "(2, 1, 4, 8), expected (2, 9, 4, 8) (batch pos head d_head)"],
    ),
    "a hook of a derived value that returns another shape": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_k_input", lambda value, hook: value[0])]),
        BadIntervention, ["blocks.1.attn.hook_k_input", "expected (2, 9, 2, 32) (batch pos kv_head d_model)"],
    ),
    "a hook of a derived value that returns NaN": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_mlp_in", lambda value, hook: value * torch.nan)]),
        BadIntervention, ["blocks.1.hook_mlp_in", "NaN"],
    ),
    "a hook that returns no tensor": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", lambda value, hook: 3)]), BadIntervention, ["int"],
    ),
    "a hook that is no pair": (
        lambda a: a.run_with_hooks(TOKENS, fwd_hooks=[keep]), BadIntervention, ["expected (name, function)"],
    ),
    "hooks of which one passes the other by": (
        lambda a: a.run_with_hooks(
            TOKENS, fwd_hooks=[("blocks.1.attn.hook_q_input", keep), ("blocks.1.ln1.hook_normalized", keep)]
        ),
        BadIntervention, ["'blocks.1.attn.hook_q_input' and at 'blocks.1.ln1.hook_normalized'"],
    ),
    "hooks that stay": (
        lambda a: a.run_with_hooks(TOKENS, reset_hooks_end=False), BadIntervention, ["with adapter.hooks"],
    ),
    "hooks added for good": (lambda a: a.add_hook("hook_embed", keep), BadIntervention, ["run_with_hooks"]),
    "permanent hooks": (lambda a: a.add_perma_hook("hook_embed", keep), BadIntervention, ["with adapter.hooks"]),
    "gradients without gradients": (
        lambda a: torch.no_grad()(a.run_with_hooks)(TOKENS, bwd_hooks=[("hook_embed", keep)]),
        ProbeError, ["torch.no_grad()"],
    ),
    "gradients of many numbers": (
        lambda a: a.run_with_cache(TOKENS, incl_bwd=True), ProbeError, ["single number", "return_type='loss'"],
    ),
    "two prompts without batch": (
        lambda a: a.run_with_cache(TOKENS, remove_batch_dim=True), BadPrompt, ["2 prompts"],
    ),
    "two prompts for hooks without batch": (
        lambda a: a.run_with_hooks(["a b", "c d"], remove_batch_dim=True), BadPrompt, ["2 prompts"],
    ),
    "texts of different lengths": (
        lambda a: a.run_with_cache(["a b c", "d"]), BadPrompt, ["[3, 1] tokens", "to_tokens", "padding"],
    ),
    "padding on the left": (lambda a: a.to_tokens(["a", "b c"], padding_side="left"), BadPrompt, ["'left'", "'right'"]),
    "a start token for ids": (lambda a: a(TOKENS, prepend_bos=True), BadPrompt, ["prepend_bos=True is about text"]),
    "no texts": (lambda a: a.to_tokens([]), BadPrompt, ["the list is empty"]),
    "no text": (lambda a: a.to_tokens([3]), BadPrompt, ["expected text, got int"]),
    "two tokens for one": (lambda a: a.to_single_token("a b"), BadPrompt, ["'a b' is not one token"]),
    "a token that does not occur": (lambda a: a.get_token_position("e", "a b"), OutOfRange, ["'e'", "['a', 'b']"]),
    "positions of another kind": (lambda a: a.get_token_position("a", "a b", mode="frist"), UnknownName, ["'first'"]),
    "tokens of several prompts": (lambda a: a.to_str_tokens(TOKENS), BadShape, ["(2, 9)"]),
    "a direction of no token": (lambda a: a.tokens_to_residual_directions(50), OutOfRange, ["50", "0 to 49"]),
    "directions of no tokens": (
        lambda a: a.tokens_to_residual_directions(torch.tensor([3, 50])), OutOfRange, ["50", "0 to 49"],
    ),
    "a bias beyond the layers": (lambda a: a.accumulated_bias(4), OutOfRange, ["layer 4"]),
    "a switch that is not there": (lambda a: a.set_use_attn_in(True), UnknownName, ["hook_attn_in", "hook_q_input"]),
    "a setting changed": (lambda a: setattr(a.cfg, "n_heads", 3), ProbeError, ["cfg.n_heads", "describes"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_names_the_value_and_the_way_that_works(what):
    call, error, named = REFUSED[what]
    model = tiny_model("llama")
    model.tokenizer = words_tokenizer()
    with pytest.raises(error) as raised:
        call(probe.as_transformer_lens(model))
    message = str(raised.value)
    assert [part for part in named if part not in message] == [], message


def test_a_wrong_name_is_found_before_the_with_block_begins(adapter):
    with (
        pytest.raises(UnknownName, match="did you mean"),
        adapter.hooks(fwd_hooks=[("blocks.1.attn.hook_pattrn", keep)]),
    ):
        pytest.fail("the block began")


def test_misspelt_keywords_are_not_swallowed(adapter):
    with pytest.raises(TypeError, match="name_filter"):
        adapter.run_with_cache(TOKENS, name_filter="hook_embed")


def test_hooks_cannot_be_reset_while_a_with_block_holds_them(adapter):
    adapter.reset_hooks(including_permanent=True)
    with adapter.hooks(fwd_hooks=[("hook_embed", keep)]):
        with pytest.raises(BadIntervention, match="leave the block"):
            adapter.reset_hooks()
        contextvars.Context().run(adapter.reset_hooks)  # where other threads are
    adapter.reset_hooks()


def test_the_document_start_comes_first_only_where_asked(model):
    """TransformerLens would put <bos> there, unasked."""
    plain, starting = probe.as_transformer_lens(model), probe.as_transformer_lens(model, document_start=True)
    a, b = WORDS["a"], WORDS["b"]
    assert plain.to_tokens("a b").tolist() == plain.to_tokens("a b", prepend_bos=False).tolist() == [[a, b]]
    assert plain.to_tokens("a b", prepend_bos=True).tolist() == starting.to_tokens("a b").tolist() == [[START, a, b]]
    assert starting.to_tokens("a b", prepend_bos=False).tolist() == [[a, b]]
    assert starting.to_tokens("<document> a").tolist() == [[START, a]], "never twice"
    assert (plain.cfg.default_prepend_bos, starting.cfg.default_prepend_bos) == (False, True)
    for adapter, text in ((plain, "a b"), (starting, "a b")):
        expected = probe.record(model, text, document_start=adapter is starting)
        logits, cache = adapter.run_with_cache(text, names_filter="hook_embed")
        assert torch.equal(cache["hook_embed"], expected["hook_embed"].detach())
        assert torch.equal(adapter(text), logits) and logits.shape[1] == len(expected.str_tokens[0])


def test_what_a_tokenizer_adds_by_itself_stays_but_for_fragments(model):
    model.tokenizer = words_tokenizer(adds_bos=True)
    adapter, a = probe.as_transformer_lens(model), WORDS["a"]
    assert adapter.to_tokens("a").tolist() == [[BOS, a]]
    assert adapter.to_tokens("a", prepend_bos=False).tolist() == [[a]]
    assert adapter.to_tokens("a", prepend_bos=True).tolist() == [[START, BOS, a]]
    assert adapter.to_single_token("a") == a


def test_text_and_tokens(adapter):
    a, b, c = (WORDS[word] for word in "abc")
    assert adapter.to_tokens(["a b c", "b"]).tolist() == [[a, b, c], [b, END, END]], "padded on the right"
    assert adapter.to_tokens(" ".join("ab" * 40), truncate=True).shape == (1, 64)
    assert adapter.to_tokens(" ".join("ab" * 40)).shape == (1, 80), "not cut unless asked"
    assert adapter.to_str_tokens("a b", prepend_bos=True) == ["<document>", "a", "b"]
    assert adapter.to_str_tokens(["a b", "c"]) == [["a", "b"], ["c"]]
    for ids in (torch.tensor([a, b]), torch.tensor([[a, b]]), np.array([a, b])):
        assert adapter.to_str_tokens(ids) == ["a", "b"]
    assert adapter.to_str_tokens(torch.tensor(a)) == ["a"] and adapter.to_single_str_token(b) == "b"
    assert adapter.to_string(torch.tensor([a, c])).split() == ["a", "c"]
    assert [text.split() for text in adapter.to_string([[a, c], [b, b]])] == [["a", "c"], ["b", "b"]]
    assert [adapter.get_token_position("b", "a b b", mode=mode) for mode in ("first", "last")] == [1, 2]
    assert adapter.get_token_position(torch.tensor(c), torch.tensor([[a, b, c]])) == 2
    assert adapter.get_token_position("a", "a", prepend_bos=True) == 1


def test_token_ids_need_no_tokenizer(model):
    model.tokenizer = None
    adapter = probe.as_transformer_lens(model)
    assert torch.equal(adapter(TOKENS), model(TOKENS)) and torch.equal(adapter(TOKENS[0]), model(TOKENS[:1]))
    assert adapter.to_str_tokens(torch.tensor([3, 4])) == ["[3]", "[4]"]
    with pytest.raises(BadPrompt, match="no tokenizer; pass token ids"):
        adapter("a b")


def test_the_settings_describe_the_model(adapter, model):
    cfg, config = adapter.cfg, model.config
    for name in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx", "gated_mlp"):
        assert getattr(cfg, name) == getattr(config, name), name
    assert (cfg.n_key_value_heads, cfg.eps, cfg.dtype, cfg.device) == (config.kv_heads, 1e-5, torch.float32, "cpu")
    expected = {"layer": ("LN", "standard", "gelu_new"), "rms": ("RMS", "rotary", "silu")}[config.norm]
    assert (cfg.normalization_type, cfg.positional_embedding_type, cfg.act_fn) == expected
    assert cfg.model_name == model.name
    assert not cfg.parallel_attn_mlp and not cfg.attn_only


def test_switches_switch_nothing_since_nothing_need_be_switched(adapter):
    name = "blocks.1.attn.hook_result"
    for on in (True, False):
        for switch in ("attn_result", "split_qkv_input", "hook_mlp_in"):
            getattr(adapter, f"set_use_{switch}")(on)
        adapter.set_use_attn_in(False)
        assert adapter.run_with_cache(TOKENS, names_filter=name)[1][name].shape == (2, 9, 4, 32)


@pytest.mark.parametrize("model", [*CONFIGS, *ACCEPTED], indirect=True)
def test_every_hook_has_a_name_and_every_name_can_be_cached(adapter, model):
    names = list(adapter.hook_dict)
    assert set(probe.site_names(model.config)) < set(names) and len(names) == len(set(names))
    assert all(adapter.hook_dict[name].name == name for name in names)
    logits, cache = adapter.run_with_cache(TOKENS, names_filter=names)
    assert list(cache.keys()) == names
    with adapter.hooks(
        fwd_hooks=[(name, keep) for name in names if "ln1" not in name and "ln2.hook_scale" not in name]
    ):
        torch.testing.assert_close(adapter(TOKENS), logits, atol=1e-4, rtol=0)


def test_the_cache_holds_no_graph_and_the_output_follows_the_callers_mode(adapter):
    logits, cache = adapter.run_with_cache(TOKENS)
    assert logits.requires_grad and not any(value.requires_grad for value in cache.values())
    with torch.no_grad():
        assert not adapter(TOKENS).requires_grad
    assert torch.is_grad_enabled()
    assert next(iter(adapter.run_with_cache(TOKENS, device="meta")[1].values())).is_meta


@pytest.mark.parametrize("model", [*CONFIGS, *ACCEPTED], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_half_and_double_precision(model, dtype):
    model = copy.deepcopy(model).to(dtype)
    adapter = probe.as_transformer_lens(model)
    logits, cache = adapter.run_with_cache(TOKENS)
    found = cache.logit_lens(positions=None).values[-1]
    assert adapter.cfg.dtype == cache["z", 0].dtype == dtype
    torch.testing.assert_close(found, logits.to(found.dtype), atol=0.2 if dtype == torch.bfloat16 else 1e-10, rtol=0)


def test_weights_are_read_anew_after_the_model_was_changed(adapter, model):
    before = adapter.W_U.clone()
    with torch.no_grad():
        model.ln_final.w.mul_(2)
    torch.testing.assert_close(adapter.W_U, 2 * before)
    assert not any(weight.requires_grad for weight in (adapter.W_U, adapter.W_E, adapter.W_Q, adapter.blocks[0].ln1.w))
    assert len(adapter.blocks) == 3 and adapter.blocks[-1].attn.W_O.shape == (4, 8, 32)


def test_what_it_does_not_have_is_an_attribute_error(adapter):
    assert not hasattr(adapter, "generate") and not hasattr(adapter, "adapter")
    with pytest.raises(AttributeError, match="'generate'.*as_transformer_lens"):
        _ = adapter.generate
    assert copy.copy(adapter).W_Q.shape == adapter.W_Q.shape


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("qwen3", "qk_norm"),
        ("gemma2", "post_norms, attn_soft_cap"),
        ("bare", "no norms, d_vocab_out"),
        ("solu", "mlp_norm"),
    ],
)
def test_models_whose_sums_its_tools_do_not_do_are_refused(family, says):
    model = tiny_model(family)
    for refused in (
        lambda: probe.as_transformer_lens(model),
        lambda: probe.to_activation_cache(probe.record(model, TOKENS), model),
    ):
        with pytest.raises(UnsupportedModel, match=says):
            refused()
    assert set(MORE) - {"qwen3", "gemma2", "bare", "solu"} == set(ACCEPTED)


@pytest.mark.parametrize("family", ACCEPTED)
def test_the_parts_of_a_cache_add_up_to_what_is_read_and_to_the_logits(family):
    model = tiny_model(family).to(torch.float64)
    adapter = probe.as_transformer_lens(model)
    with torch.no_grad():
        logits, cache = adapter.run_with_cache(TOKENS)
    for layer in (1, 2):
        for parts in (
            cache.decompose_resid(layer, apply_ln=True),
            cache.stack_head_results(layer, incl_remainder=True, apply_ln=True),
            cache.get_full_resid_decomposition(layer, apply_ln=True),
            cache.get_full_resid_decomposition(layer, expand_neurons=False, apply_ln=True),
        ):
            torch.testing.assert_close(parts.sum(0), cache[f"blocks.{layer}.ln1.hook_normalized"])
    bias = adapter.b_U[5] - adapter.b_U[7]
    for parts in (cache.decompose_resid(), cache.get_full_resid_decomposition()):
        found = cache.logit_attrs(parts, 5, 7).sum(0) + bias
        torch.testing.assert_close(found, logits[..., 5] - logits[..., 7])
    torch.testing.assert_close(cache.logit_lens(positions=None).values[-1], logits)


@pytest.mark.parametrize("family", ["neox", "phi"])
def test_in_parallel_layers_the_mlp_alone_reads_its_copy_of_the_stream_that_enters(family):
    model = tiny_model(family).to(torch.float64)
    adapter, name = probe.as_transformer_lens(model), "blocks.1.hook_mlp_in"
    assert adapter.cfg.parallel_attn_mlp and not adapter.cfg.attn_only
    _, cache = adapter.run_with_cache(TOKENS, names_filter=[name, "blocks.1.hook_resid_pre"])
    assert torch.equal(cache[name], cache["resid_pre", 1])

    def turn(value, hook=None):
        return value.flip(-1)

    written = model.blocks[1].mlp_out(turn(cache["resid_pre", 1]))
    found = adapter.run_with_hooks(TOKENS, fwd_hooks=[(name, turn)])
    expected = adapter.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: written)])
    torch.testing.assert_close(found, expected)
    assert (found - adapter(TOKENS)).abs().max() > 0.01
    both = [("blocks.1.hook_resid_pre", turn), (name, turn)]
    _, cache = adapter.run_with_cache(TOKENS, names_filter="blocks.1.hook_mlp_out")
    with adapter.hooks(fwd_hooks=both):
        _, again = adapter.run_with_cache(TOKENS, names_filter="blocks.1.hook_mlp_out")
    torch.testing.assert_close(again["mlp_out", 1], cache["mlp_out", 1])  # turned, and turned back


ABSENT = "its layers are attention alone, without an MLP"
WITHOUT_MLP = {
    "a site": (lambda a, c: c["mlp_out", 0], SiteNotRecorded, f"blocks.0.hook_mlp_out.*{ABSENT}"),
    "a filter": (lambda a, c: a.run_with_cache(TOKENS, names_filter="blocks.1.mlp.hook_post"), UnknownName, ABSENT),
    "the MLP's input": (lambda a, c: a.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_mlp_in", keep)]),
                        UnknownName, f"blocks.1.hook_mlp_in.*{ABSENT}"),
    "the stream between": (lambda a, c: c["resid_mid", 1], SiteNotRecorded, f"hook_resid_mid.*{ABSENT}"),
    "a sum": (lambda a, c: c.decompose_resid(1, mlp_input=True), UnsupportedModel, "without an MLP"),
    "all parts": (lambda a, c: c.get_full_resid_decomposition(1, mlp_input=True), UnsupportedModel, "without an MLP"),
    "its norm": (lambda a, c: c.apply_ln_to_stack(c.decompose_resid(1), 1, mlp_input=True), KeyError, "ln2.hook_scale"),
    "neurons": (lambda a, c: c.stack_neuron_results(2), SiteNotRecorded, f"mlp.hook_post.*{ABSENT}"),
    "weights": (lambda a, c: a.W_in, AttributeError, "'W_in'"),
    "weights of a layer": (lambda a, c: a.blocks[0].mlp, AttributeError, "mlp"),
}  # fmt: skip


@pytest.mark.parametrize("what", WITHOUT_MLP)
def test_of_layers_of_attention_alone_no_mlp_is_made_up(what):
    adapter = probe.as_transformer_lens(tiny_model("attention"))
    asks, error, message = WITHOUT_MLP[what]
    _, cache = adapter.run_with_cache(TOKENS)
    with pytest.raises(error, match=message):
        asks(adapter, cache)


def test_the_tools_read_layers_of_attention_alone():
    from transformer_lens import patching
    from transformer_lens.tools.analysis import attribution_patch, direct_logit_attribution

    model = tiny_model("attention").to(torch.float64)
    adapter = probe.as_transformer_lens(model)
    assert adapter.cfg.attn_only and not adapter.cfg.parallel_attn_mlp and adapter.cfg.d_mlp == 0
    assert not any("mlp" in name for name in adapter.hook_dict)
    clean, corrupted = TOKENS[:1], TOKENS[1:]
    found = direct_logit_attribution(adapter, clean, 5, 7)
    assert found.labels == ["embed", "pos_embed", *(f"{layer}_attn_out" for layer in range(3))]

    def metric(logits):
        return logits[0, -1, 5] - logits[0, -1, 7]

    with torch.no_grad():
        _, cache = adapter.run_with_cache(clean)
        patched = patching.get_act_patch_attn_head_out_all_pos(adapter, corrupted, cache, metric)
        z = probe.record(model, clean, sites="z")["z", 1]
        swapped = probe.record(
            model, corrupted, sites=[], interventions=[probe.edit("z", lambda value: z[:, :, [2]], layer=1, heads=2)]
        )
    torch.testing.assert_close(patched[1, 2].double(), metric(swapped.logits), atol=1e-5, rtol=0)
    with pytest.raises(SiteNotRecorded, match=f"hook_mlp_out.*{ABSENT}"):
        patching.get_act_patch_mlp_out(adapter, corrupted, cache, metric)
    with pytest.raises(ValueError, match="missing from the cache: blocks.0.hook_mlp_out"):
        attribution_patch(adapter, clean, corrupted, metric)


@pytest.mark.parametrize("config", [NEOX, GPT2, LLAMA])
def test_a_bias_of_the_unembedding_is_added_to_what_the_final_norms_bias_adds(config):
    torch.manual_seed(0)
    model = probe.GPT(dataclasses.replace(config, unembed_bias=True))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith("b"):
                weight.normal_()
    adapter = probe.as_transformer_lens(model)
    resid = probe.record(model, TOKENS, sites="resid_post")["resid_post", model.config.n_layers - 1]
    assert torch.allclose(adapter.unembed(adapter.ln_final(resid)), model(TOKENS), atol=1e-5)
    if config.norm == "rms":
        assert torch.equal(adapter.b_U, model.b_U)


def test_what_a_cache_does_not_hold_is_a_key_error_that_says_why(adapter, model):
    _, cache = adapter.run_with_cache(TOKENS, names_filter=["hook_embed", "blocks.0.attn.hook_z"])
    for key, says in {
        "blocks.0.attn.hook_zz": "did you mean 'blocks.0.attn.hook_z'",
        ("resid_post", 7): "layer 7: this model has layers 0 to 2",
        "blocks.1.attn.hook_z": "blocks.1.attn.hook_z",
        ("result", 0): "blocks.0.attn.hook_result",
    }.items():
        with pytest.raises(KeyError, match=says):
            cache[key]
    cache.model = None
    with pytest.raises(KeyError, match="blocks.0.attn.hook_zz"):
        cache["blocks.0.attn.hook_zz"]


def test_a_cache_is_pickled_and_copied_as_it_is(adapter):
    _, cache = adapter.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    pickled = pickle.loads(pickle.dumps(cache))  # noqa: S301  (our own bytes)
    for other in (pickled, copy.copy(cache), copy.deepcopy(cache)):
        assert type(other) is type(cache) and not other.has_batch_dim
        assert all(torch.equal(other[name], cache[name]) for name in cache)
        assert torch.equal(other.decompose_resid(), cache.decompose_resid())


def test_a_gain_of_one_plus_its_weight_is_folded_as_any_other():
    torch.manual_seed(0)
    model = probe.GPT(dataclasses.replace(LLAMA, norm="rms_plus_one"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".w"):
                weight.normal_()
    adapter = probe.as_transformer_lens(model)
    assert adapter.cfg.normalization_type == "RMS" and adapter.cfg.uses_rms_norm and not adapter.b_U.any()
    assert torch.equal(adapter.blocks[0].ln1.w, 1 + model.blocks[0].ln1.w)
    resid = probe.record(model, TOKENS, sites="resid_post")["resid_post", model.config.n_layers - 1]
    assert torch.allclose(adapter.unembed(adapter.ln_final(resid)), model(TOKENS), atol=1e-5)
