"""`record`: what is kept is what the pass made, in the shape that was asked for."""

import pytest
import torch

import probe
from probe.errors import BrokenFile, NumbersBroke, OutOfRange, SiteNotRecorded, UnknownName
from probe.sites import site_names, site_shape
from tests.tiny import CONFIGS, tiny_model, tiny_tokens

# The same sums in another order (batched or alone, whole or from the middle): a few units in the last place of values
# of size 10.
ROUNDING = 2e-5


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def test_without_sites_every_site_is_kept_in_the_order_of_the_pass(model):
    rec = probe.record(model, tiny_tokens())
    assert rec.names == site_names(model.config)
    for name in rec.names:
        assert tuple(rec[name].shape) == site_shape(model.config, name, batch=2, pos=9)


def test_recording_changes_nothing(model):
    tokens = tiny_tokens()
    plain = model(tokens)
    torch.testing.assert_close(probe.record(model, tokens).logits, plain, atol=ROUNDING, rtol=0)
    fused = probe.record(model, tokens, sites=["resid_post", "z"]).logits
    assert torch.equal(fused, plain), "without scores or pattern, the pass is the plain one, bit for bit"


def test_the_residual_stream_is_the_sum_of_what_was_added(model):
    rec = probe.record(model, tiny_tokens())
    start = rec["embed"] + (rec["pos_embed"] if model.config.positions == "learned" else 0)
    total = start + rec.stack("attn_out").sum(0) + rec.stack("mlp_out").sum(0)
    torch.testing.assert_close(total, rec["resid_post", 2], atol=ROUNDING, rtol=0)


def test_heads_add_up_to_attn_out(model):
    rec = probe.record(model, tiny_tokens())
    per_head = torch.einsum("bphd,hdm->bphm", rec["z", 1], model.W_O[1])
    out = per_head.sum(2) + (model.b_O[1] if model.config.attn_out_bias else 0)
    torch.testing.assert_close(out, rec["attn_out", 1], atol=ROUNDING, rtol=0)


def test_pattern_is_the_softmax_of_the_masked_scores(model):
    rec = probe.record(model, tiny_tokens(), sites=["attn_scores", "pattern"])
    visible = torch.ones(9, 9, dtype=torch.bool).tril()
    expected = rec["attn_scores", 2].masked_fill(~visible, -torch.inf).softmax(-1)
    torch.testing.assert_close(rec["pattern", 2], expected)


def test_each_row_of_a_padded_batch_equals_its_prompt_alone(model):
    prompts = ["hello", "a", "interpret"]
    rec = probe.record(model, prompts)
    assert rec.lengths.tolist() == [5, 1, 9]
    for row, prompt in enumerate(prompts):
        alone = probe.record(model, prompt)
        padded = rec.prompt(row)
        assert padded.str_tokens == alone.str_tokens
        for name, value in alone.values.items():
            torch.testing.assert_close(padded.values[name], value, atol=ROUNDING, rtol=0, msg=name)


def test_padded_entries_are_nan_and_only_they(model):
    rec = probe.record(model, ["abc", "abcde"])
    for name in rec.names:
        value = rec[name]
        if name.endswith(("hook_pattern", "hook_attn_scores")):
            assert value[0, :, 3:].isnan().all() and value[0, :, :, 3:].isnan().all()
            assert not value[0, :, :3, :3].isnan().any()
        else:
            assert value[0, 3:].isnan().all() and not value[0, :3].isnan().any()
        assert not value[1].isnan().any()
    assert rec.tokens[0].tolist() == [1, 2, 3, -1, -1]


def test_position_minus_one_is_each_prompts_own_last_token(model):
    prompts = ["abc", "abcde"]
    whole = probe.record(model, prompts)
    last = probe.record(model, prompts, positions=-1)
    for name in ("blocks.1.attn.hook_z", "blocks.2.hook_resid_post", "logits"):
        expected = torch.stack([whole[name][0, 2], whole[name][1, 4]])[:, None]
        torch.testing.assert_close(last[name], expected, atol=ROUNDING, rtol=0)
    pattern = last["pattern", 1]
    assert pattern.shape == (2, 4, 1, 5)
    torch.testing.assert_close(pattern[0, :, 0, :3], whole["pattern", 1][0, :, 2, :3], atol=ROUNDING, rtol=0)
    assert pattern[0, :, 0, 3:].isnan().all()
    assert last.positions.tolist() == [[2], [4]]


def test_sites_layers_heads_and_positions_choose_slices(model):
    tokens = tiny_tokens()
    whole = probe.record(model, tokens)
    part = probe.record(model, tokens, sites=["z", "attn_scores"], layers=[0, -1], heads=[3, 1], positions=[4, 0])
    assert part.names == tuple(
        f"blocks.{layer}.attn.{site}" for layer in (0, 2) for site in ("hook_attn_scores", "hook_z")
    )
    torch.testing.assert_close(part["z", 2], whole["z", 2][:, [4, 0]][:, :, [3, 1]], atol=ROUNDING, rtol=0)
    expected = whole["attn_scores", 0][:, [3, 1]][:, :, [4, 0]]
    torch.testing.assert_close(part["attn_scores", 0], expected, atol=ROUNDING, rtol=0)
    assert part.layers("z") == (0, 2)


def test_stack_puts_layers_first(model):
    rec = probe.record(model, tiny_tokens(), sites="resid_post", layers=[0, 2])
    assert rec.stack("resid_post").shape == (2, 2, 9, 32)
    assert torch.equal(rec.stack("resid_post")[1], rec["blocks.2.hook_resid_post"])


def test_a_pass_can_start_and_stop_anywhere(model):
    tokens = tiny_tokens()
    whole = probe.record(model, tokens)
    early = probe.record(model, tokens, stop_after_layer=1)
    assert early.names[-1] == "blocks.1.hook_resid_post"
    torch.testing.assert_close(early["resid_post", 1], whole["resid_post", 1], atol=ROUNDING, rtol=0)
    with pytest.raises(SiteNotRecorded, match="stopped early"):
        _ = early.logits
    late = probe.record(model, whole["resid_post", 1], start_at_layer=2)
    assert late.names[0] == "blocks.2.hook_resid_pre" and late.tokens is None
    torch.testing.assert_close(late.logits, whole.logits, atol=ROUNDING, rtol=0)


def test_a_padded_residual_stream_can_be_run_on(model):
    whole = probe.record(model, ["abc", "abcde"])
    late = probe.record(model, whole["resid_pre", 1], start_at_layer=1)
    assert late.lengths.tolist() == [3, 5]
    torch.testing.assert_close(late.logits, whole.logits, atol=ROUNDING, rtol=0, equal_nan=True)


def test_stopping_early_runs_no_later_layer(model):
    def fail(*_):
        raise AssertionError("layer 2 ran")

    model.blocks[2].forward = fail
    probe.record(model, tiny_tokens(), stop_after_layer=1)
    with pytest.raises(AssertionError, match="layer 2 ran"):
        probe.record(model, tiny_tokens())


def test_document_start_is_put_first_once(model):
    assert probe.record(model, "ab", document_start=True).tokens.tolist() == [[0, 1, 2]]
    assert probe.record(model, [[0, 1, 2]], document_start=True).tokens.tolist() == [[0, 1, 2]]
    assert probe.record(model, "ab").tokens.tolist() == [[1, 2]]


def test_dtype_is_that_of_what_is_kept_not_of_the_pass(model):
    half = probe.record(model, tiny_tokens(), dtype="float16")
    full = probe.record(model, tiny_tokens())
    assert {value.dtype for value in half.values.values()} == {torch.float16}
    for name in full.values:
        assert torch.equal(half.values[name], full.values[name].half())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_record(model, dtype):
    full = probe.record(model, tiny_tokens())
    half = probe.record(model.to(dtype), tiny_tokens())
    assert half["resid_post", 1].dtype == dtype
    # 8 bits of mantissa over three layers of values of size 10.
    torch.testing.assert_close(half["resid_post", 1].float(), full["resid_post", 1], atol=0.5, rtol=0.05)


def test_means_and_sums_count_real_entries_only(model):
    prompts = ["abc", "abcdefg", "hi"]
    rec = probe.record(model, prompts)
    reduced = probe.record(
        model, prompts, sites=[], reduce={"z": "mean", "resid_post": "mean per position", "pre": "sum"}
    )
    torch.testing.assert_close(reduced["z", 1], rec["z", 1].nanmean((0, 1)), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(reduced["resid_post", 2], rec["resid_post", 2].nanmean(0), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(reduced["pre", 0], rec["pre", 0].nansum((0, 1)), atol=1e-4, rtol=0)
    pattern = probe.record(model, prompts, sites=[], reduce={"pattern": "mean"})["pattern", 1]
    torch.testing.assert_close(pattern, rec["pattern", 1].nanmean((0, 2)), atol=ROUNDING, rtol=0)


def test_a_reduction_can_be_any_function_and_sees_what_is_real(model):
    seen = {}

    def largest(value, real):
        seen["real"] = real
        return value.nan_to_num(-torch.inf).amax((0, 1))

    prompts = ["abc", "abcdefg"]
    reduced = probe.record(model, prompts, sites=[], layers=[1], reduce={"z": largest})
    expected = probe.record(model, prompts)["z", 1].nan_to_num(-torch.inf).amax((0, 1))
    torch.testing.assert_close(reduced["z", 1], expected, atol=ROUNDING, rtol=0)
    assert seen["real"].tolist() == [[True] * 3 + [False] * 4, [True] * 7]


@pytest.mark.parametrize("frozen", [False, True])
def test_any_kept_value_has_a_gradient(model, frozen):
    model.requires_grad_(not frozen)
    rec = probe.record(model, ["abc", "abcde"], grad=True)
    number = rec.logits[0, 2, 7]
    for name in (
        "blocks.0.attn.hook_q",
        "blocks.1.attn.hook_pattern",
        "blocks.2.mlp.hook_post",
        "blocks.1.hook_resid_pre",
    ):
        (gradient,) = torch.autograd.grad(number, rec[name], retain_graph=True)
        assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0, name
        assert not gradient.isnan().any()


def test_the_gradient_is_the_derivative(model):
    model.double()
    tokens = tiny_tokens(batch=1)
    rec = probe.record(model, tokens, sites=["z"], positions=[3], grad=True)
    (gradient,) = torch.autograd.grad(rec.logits[0, 0, 5], rec["z", 1])
    direction, step = torch.randn(gradient.shape, dtype=torch.float64), 1e-5

    def logit(size):
        moved = probe.add("z", size * direction, layer=1, positions=[3])
        return probe.record(model, tokens, sites=[], positions=[3], interventions=moved).logits[0, 0, 5]

    measured = (logit(step) - logit(-step)) / (2 * step)
    torch.testing.assert_close(measured, (gradient * direction).sum(), rtol=1e-6, atol=1e-9)


def test_without_grad_nothing_holds_a_graph(model):
    rec = probe.record(model, tiny_tokens())
    assert not any(value.requires_grad for value in rec.values.values())


def test_a_saved_recording_is_read_back_without_the_model(model, tmp_path):
    rec = probe.record(model, ["abc", "abcde"], interventions=probe.zero("z", layer=1), positions=[0, -1])
    rec.save(tmp_path / "rec")
    back = probe.Recording.load(tmp_path / "rec")
    assert back.names == rec.names and back.str_tokens == rec.str_tokens and back.effects == rec.effects
    assert back.manifest == rec.manifest and back.config == rec.config
    for name in rec.values:
        torch.testing.assert_close(back.values[name], rec.values[name], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(back.positions, rec.positions) and torch.equal(back.tokens, rec.tokens)


def test_a_changed_file_is_noticed(model, tmp_path):
    probe.record(model, "abc").save(tmp_path / "rec")
    path = tmp_path / "rec" / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BrokenFile, match="checksum"):
        probe.Recording.load(tmp_path / "rec")


def test_the_manifest_says_what_is_needed_to_repeat_the_call(model):
    rec = probe.record(model, "abc", sites=["z"], layers=[1], interventions=[probe.zero("z", layer=0, heads=[2])])
    arguments = rec.manifest["arguments"]
    assert arguments["sites"] == ["z"] and arguments["layers"] == [1]
    assert arguments["interventions"] == ["zero z, layer 0, heads [2]"]
    assert rec.manifest["model"] == model.name and len(rec.manifest["fingerprint"]) == 16


def test_one_changed_weight_changes_the_fingerprint(model):
    before = probe.record(model, "abc", sites=[]).manifest["fingerprint"]
    assert probe.record(model, "abc", sites=[]).manifest["fingerprint"] == before
    with torch.no_grad():
        model.blocks[1].attn.W_V[5, 3] += 1e-3
    assert probe.record(model, "abc", sites=[]).manifest["fingerprint"] != before


def test_exchanged_rows_or_columns_change_the_fingerprint(model):
    for dim in (0, 1):
        before = probe.record(model, "abc", sites=[]).manifest["fingerprint"]
        with torch.no_grad():
            weight = model.embed.W_E if dim == 0 else model.blocks[1].mlp.W_in.t()
            weight[[3, 6]] = weight[[6, 3]]
        assert probe.record(model, "abc", sites=[]).manifest["fingerprint"] != before


def test_reading_what_was_not_kept_says_how_to_keep_it(model):
    rec = probe.record(model, "abc", sites=["z"], layers=[1])
    with pytest.raises(SiteNotRecorded, match=r"record it with sites=\['q'\], layers=\[2\]"):
        rec["q", 2]
    with pytest.raises(UnknownName, match="did you mean 'pattern'"):
        rec["patern", 1]
    with pytest.raises(OutOfRange, match="layers 0 to 2"):
        rec["z", 3]
    with pytest.raises(SiteNotRecorded):
        rec.stack("resid_post")
    assert ("z", 1) in rec and ("z", 2) not in rec and "nonsense" not in rec


def test_what_a_float16_pass_cannot_hold_is_an_error(model):
    with torch.no_grad():
        model.blocks[0].mlp.W_out.mul_(1e6)
    with pytest.raises(NumbersBroke, match="float16 overflowed"):
        probe.record(model.half(), tiny_tokens())


def test_generators_and_numpy_numbers_are_fine(model):
    import numpy as np

    rec = probe.record(model, np.arange(5), sites=(s for s in ("z", "q")), layers=range(2), positions=np.array([1, 2]))
    assert rec.layers("q") == (0, 1) and rec["z", 1].shape[1] == 2


def test_a_recording_from_a_residual_stream_keeps_a_copy_of_it(model):
    resid = probe.record(model, tiny_tokens(), sites="resid_pre")["resid_pre", 1].clone()
    found = probe.record(model, resid, start_at_layer=1)
    before = found["resid_pre", 1].clone()
    resid.add_(1.0)
    assert torch.equal(found["resid_pre", 1], before)


def test_of_two_reductions_of_a_site_the_last_one_says_what_the_table_holds(model):
    found = probe.record(model, [[1, 2, 3], [4, 5]], reduce={"blocks.0.attn.hook_z": "mean", "z": "mean per position"})
    assert {*found.to_dataframe(("z", 0))} >= {"pos", "head"}


def test_a_recording_goes_through_its_names(model):
    rec = probe.record(model, "abc", sites=["z", "pattern"])
    assert list(rec) == [*rec.names, "logits"] and len(rec) == 7
    assert all(rec[name] is rec.values[name] for name in rec)
