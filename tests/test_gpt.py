"""The forward pass and the weights, apart from recording. That it is the right one is shown in `parity/`."""

import dataclasses

import pytest
import torch

from probe.attention import KeyValueCache, masked_softmax, visible_keys
from probe.errors import BadPrompt, BadShape, OutOfRange, ProbeError, UnsupportedModel
from probe.gpt import GPT
from probe.linear import affine
from tests.tiny import CONFIGS, GPT2, tiny_model, tiny_tokens

ROUNDING = 2e-5  # a few units in the last place of values of size 10


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


class Watch:
    """A tap that wants everything and keeps clones."""

    def __init__(self):
        self.values = {}

    def wants(self, name):
        return True

    def scope(self, prefix):
        return Scoped(self, prefix)

    def __call__(self, name, value):
        self.values[name] = value.detach().clone()
        return value


class Scoped:
    def __init__(self, watch, prefix):
        self.watch, self.prefix = watch, prefix

    def wants(self, name):
        return True

    def scope(self, prefix):
        return Scoped(self.watch, f"{self.prefix}.{prefix}")

    def __call__(self, name, value):
        return self.watch(f"{self.prefix}.{name}", value)


def test_a_config_with_another_vocabulary_predicts_all_of_it():
    """What was left out stays left out when a config is changed."""
    for d_vocab in (30, 700):
        changed = dataclasses.replace(GPT2, d_vocab=d_vocab)
        assert changed.n_outputs == d_vocab and GPT(changed)(tiny_tokens() % 30).shape[-1] == d_vocab
    assert dataclasses.replace(GPT2, d_vocab_out=GPT2.d_vocab) == GPT2
    with pytest.raises(UnsupportedModel, match="d_vocab_out 40 with tied_embeddings: W_U is then W_E, of all 50"):
        dataclasses.replace(GPT2, d_vocab_out=40)


def test_no_token_sees_a_later_one(model):
    tokens = tiny_tokens()
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 50
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5], atol=ROUNDING, rtol=0)
    assert ((after[:, 5:] - before[:, 5:]).abs().amax(-1) > 1e-3).all()


def test_step_by_step_and_fused_attention_agree(model):
    tokens, watch = tiny_tokens(), Watch()
    torch.testing.assert_close(model(tokens, tap=watch), model(tokens), atol=ROUNDING, rtol=0)
    assert "blocks.2.attn.hook_pattern" in watch.values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_is_the_same_with_and_without_gradients_and_leaves_the_scores(dtype):
    scores = torch.randn(2, 3, 5, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
    before, visible = scores.clone(), visible_keys(5, 7, None, scores.device)
    with torch.enable_grad():
        expected = masked_softmax(scores, visible)
    with torch.no_grad():
        found = masked_softmax(scores, visible)
    assert torch.equal(found, expected)
    assert torch.equal(scores, before)
    assert torch.equal(found == 0, ~visible.expand_as(found))
    with torch.no_grad():
        assert torch.equal(masked_softmax(scores, visible, keep_scores=False), expected)


@pytest.mark.parametrize("pieces", [[9], [5, 4], [1] * 9, [3, 1, 5]])
def test_a_cached_pass_in_pieces_equals_the_whole(model, pieces):
    tokens, cache = tiny_tokens(), KeyValueCache(capacity=9)
    whole = model(tokens)
    parts = [model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=ROUNDING, rtol=0)
    assert cache.length == 9


def test_a_cached_pass_step_by_step_equals_the_whole(model):
    tokens, cache = tiny_tokens(), KeyValueCache(capacity=9)
    parts = [model(piece, cache=cache, tap=Watch()) for piece in tokens.split([4, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=ROUNDING, rtol=0)


def test_a_full_cache_is_an_error(model):
    cache = KeyValueCache(capacity=4)
    model(tiny_tokens(pos=4), cache=cache)
    with pytest.raises(OutOfRange, match="token 5 does not fit its capacity of 4"):
        model(tiny_tokens(pos=1), cache=cache)


def test_only_the_positions_asked_for_are_unembedded(model):
    tokens = tiny_tokens()
    some = model(tokens, unembed_at=torch.tensor([[8, 0], [3, 3]]))
    whole = model(tokens)
    expected = torch.stack([whole[0, [8, 0]], whole[1, [3, 3]]])
    torch.testing.assert_close(some, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O"])
def test_head_weights_are_views_of_the_layers_own_parameter(model, name):
    parameter = getattr(model.blocks[1].attn, name)
    view = getattr(model, name)[1, 1]
    assert view.shape == ((8, 32) if name == "W_O" else (32, 8))
    with torch.no_grad():
        view.zero_()
    assert (parameter == 0).sum() == 32 * 8


def test_head_weights_are_those_that_the_pass_uses(model):
    watch = Watch()
    model(tiny_tokens(), tap=watch)
    normed = watch.values["blocks.1.ln1.hook_normalized"] * model.blocks[1].ln1.w
    if model.config.norm == "layer":
        normed = normed + model.blocks[1].ln1.b
    for name, heads in (("q", 4), ("k", model.config.kv_heads), ("v", model.config.kv_heads)):
        for head in range(heads):
            expected = normed @ getattr(model, f"W_{name.upper()}")[1, head]
            if model.config.qkv_bias:
                expected = expected + getattr(model, f"b_{name.upper()}")[1, head]
            got = watch.values[f"blocks.1.attn.hook_{name}"][:, :, head]
            torch.testing.assert_close(got, expected, atol=ROUNDING, rtol=0)


def test_weights_of_all_layers_stack(model):
    assert model.W_in.stack().shape == (3, 32, 48)
    assert model.W_Q.stack().shape == (3, 4, 32, 8)
    assert [tuple(weight.shape) for weight in model.W_out] == [(48, 32)] * 3
    assert model.W_U.shape == (32, 50) and model.W_E.shape == (50, 32)


def test_weights_that_do_not_exist_say_why():
    llama = tiny_model("llama")
    with pytest.raises(OutOfRange, match="layer 3: this model has layers 0 to 2"):
        llama.W_Q[3]
    with pytest.raises(OutOfRange, match="query head 3 reads key/value head 1"):
        llama.W_K[0, 3]
    with pytest.raises(OutOfRange, match="head 4: W_Q has heads 0 to 3"):
        llama.W_Q[0, 4]
    with pytest.raises(ProbeError, match="no b_Q: this model was built without it"):
        llama.b_Q[0]
    with pytest.raises(ProbeError, match="positions are rotary"):
        _ = llama.W_pos
    with pytest.raises(ProbeError, match="no W_gate"):
        tiny_model("gpt2").W_gate[0]


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.zeros(1, 3), BadShape, "integer ids, got torch.float32"),
        (torch.zeros(3, dtype=torch.long), BadShape, r"expected shape \(batch, pos\), got \(3,\)"),
        (torch.zeros(1, 0, dtype=torch.long), BadPrompt, "no token"),
        (torch.zeros(1, 65, dtype=torch.long), BadPrompt, "65 tokens: this model's context holds 64"),
        (torch.full((1, 2), 50), OutOfRange, "token id 50: this model's vocabulary has ids 0 to 49"),
        (torch.full((1, 2), -1), OutOfRange, "token id -1"),
    ],
)
def test_tokens_that_cannot_be_run_are_refused(model, tokens, error, message, as_users_run_it):
    with pytest.raises(error, match=message):
        model(tokens)


def test_a_cache_counts_towards_the_context(model):
    cache = KeyValueCache(capacity=100)
    model(tiny_tokens(pos=60), cache=cache)
    with pytest.raises(BadPrompt, match="65 tokens"):
        model(tiny_tokens(pos=5), cache=cache)


def test_a_new_model_says_next_to_nothing_about_the_next_token():
    torch.manual_seed(0)
    model = GPT(CONFIGS["gpt2"])
    probabilities = model(tiny_tokens()).softmax(-1)
    assert probabilities.max() < 0.1, "nearly uniform over 50 tokens"


def test_a_window_hides_what_is_further_back():
    import dataclasses

    config = dataclasses.replace(CONFIGS["llama"], windows=(3, 3, 3))
    model = GPT(config)
    model.load_state_dict(tiny_model("llama").state_dict())
    watch = Watch()
    step_by_step = model(tiny_tokens(), tap=watch)
    pattern = watch.values["blocks.1.attn.hook_pattern"]
    visible = torch.ones(9, 9).tril().triu(-2).bool()
    assert (pattern[..., ~visible] == 0).all() and (pattern[..., visible] > 0).all()
    torch.testing.assert_close(model(tiny_tokens()), step_by_step, atol=ROUNDING, rtol=0)
    cache = KeyValueCache(capacity=9)
    parts = [model(piece, cache=cache) for piece in tiny_tokens().split(1, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), step_by_step, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("stored", ["in, out", "out, in", "neither"])
@pytest.mark.parametrize("shape", [(12, 24), (24, 12), (7, 12), (12, 7), (5, 7)])
def test_one_row_is_shared_by_the_threads_and_comes_out_the_same(monkeypatch, threads, stored, shape):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    n, m = shape
    weight = {
        "in, out": lambda: torch.randn(n, m, generator=generator),
        "out, in": lambda: torch.randn(m, n, generator=generator).T,
        "neither": lambda: torch.randn(n, 2 * m, generator=generator)[:, ::2],
    }[stored]()
    x, offset = torch.randn(1, 1, n, generator=generator), torch.randn(m, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(affine(x, weight, offset), x @ weight + offset, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(affine(x, weight, None), x @ weight, atol=ROUNDING, rtol=0)
