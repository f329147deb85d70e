"""Interventions change exactly what they say, say how often they did, and leave nothing behind."""

import pytest
import torch

import probe
from probe.errors import BadIntervention, OutOfRange, UnknownName
from tests.tiny import CONFIGS, tiny_model, tiny_tokens

ROUNDING = 2e-5  # a few units in the last place of values of size 10


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def run(model, *interventions, prompts=None, **arguments):
    prompts = tiny_tokens() if prompts is None else prompts
    return probe.record(model, prompts, interventions=list(interventions), **arguments)


def test_steering_by_nothing_changes_nothing(model):
    plain = run(model)
    for nothing in (
        probe.add("resid_mid", torch.zeros(32), layer=1),
        probe.scale("z", 1.0),
        probe.edit("q", lambda v: v),
    ):
        same = run(model, nothing)
        for name, value in plain.values.items():
            assert torch.equal(same.values[name], value), f"{nothing}: {name}"


def test_an_edited_site_keeps_the_edited_value(model):
    rec = run(model, probe.zero("z", layer=1, heads=[2]))
    assert rec["z", 1][:, :, 2].abs().max() == 0
    assert rec["z", 1][:, :, [0, 1, 3]].abs().min() > 0


def test_zeroing_a_head_removes_its_write_and_nothing_else(model):
    plain, ablated = run(model), run(model, probe.zero("z", layer=1, heads=2))
    write = plain["z", 1][:, :, 2] @ model.W_O[1, 2]
    torch.testing.assert_close(ablated["attn_out", 1], plain["attn_out", 1] - write, atol=ROUNDING, rtol=0)
    assert torch.equal(ablated["resid_post", 0], plain["resid_post", 0])


def test_positions_rows_and_heads_bound_the_change(model):
    plain = run(model)
    rec = run(model, probe.add("q", torch.ones(8), layer=0, heads=[1, 3], positions=[2, -1], rows=[1]))
    changed = (rec["q", 0] - plain["q", 0]).abs().amax(-1) > 0.5
    expected = torch.zeros(2, 9, 4, dtype=torch.bool)
    for position in (2, 8):
        expected[1, position, [1, 3]] = True
    assert torch.equal(changed, expected)


def test_positions_of_patterns_are_query_positions(model):
    uniform = torch.full((9,), 1 / 9)
    rec = run(model, probe.replace("pattern", uniform, layer=1, heads=0, positions=4))
    assert torch.allclose(rec["pattern", 1][:, 0, 4], uniform)
    assert not torch.allclose(rec["pattern", 1][:, 0, 5], uniform)


def test_a_pattern_edit_reaches_z(model):
    first = torch.zeros(9)
    first[0] = 1.0
    rec = run(model, probe.replace("pattern", first, layer=1, heads=3))
    group = 3 // model.config.heads_per_group
    values = rec["v", 1][:, 0, group]
    torch.testing.assert_close(rec["z", 1][:, :, 3], values[:, None].expand(-1, 9, -1), atol=ROUNDING, rtol=0)


def test_score_edits_come_before_the_softmax(model):
    rec = run(model, probe.zero("attn_scores", layer=2))
    seen = torch.arange(1, 10, dtype=torch.float)
    expected = (torch.ones(9, 9).tril() / seen[:, None]).expand(2, 4, 9, 9)
    torch.testing.assert_close(rec["pattern", 2], expected)


def test_keys_and_values_are_chosen_by_their_own_heads():
    model = tiny_model("llama")
    plain, rec = run(model), run(model, probe.zero("v", layer=0, heads=1))
    changed = (rec["z", 0] - plain["z", 0]).abs().amax((0, 1, 3)) > 0
    assert changed.tolist() == [False, False, True, True]
    with pytest.raises(OutOfRange, match="query head 3 reads key/value head 1"):
        run(model, probe.zero("v", layer=0, heads=3))


@pytest.mark.parametrize("site", probe.site_names(CONFIGS["llama"]))
def test_every_site_can_be_edited_and_the_edit_takes_effect(site):
    model = tiny_model("llama")
    plain, rec = run(model), run(model, probe.scale(site, 1.7))
    torch.testing.assert_close(rec[site], plain[site] * 1.7, atol=ROUNDING, rtol=0)
    later = rec.names[rec.names.index(site) + 1 :]
    moved = [name for name in (*later, "logits") if not torch.equal(rec.values[name], plain.values[name])]
    assert moved, "an edit that nothing later notices took no effect"
    before = rec.names[: rec.names.index(site)]
    assert all(torch.equal(rec.values[name], plain.values[name]) for name in before)


def test_edits_of_one_site_apply_in_the_order_given(model):
    double, one_more = probe.scale("mlp_out", 2.0, layer=1), probe.edit("mlp_out", lambda value: value + 1, layer=1)
    plain = run(model)["mlp_out", 1]
    torch.testing.assert_close(run(model, double, one_more)["mlp_out", 1], plain * 2 + 1)
    torch.testing.assert_close(run(model, one_more, double)["mlp_out", 1], (plain + 1) * 2)


def test_a_function_that_writes_into_what_it_gets_corrupts_nothing(model):
    def overwrite(value):
        value.zero_()
        return value

    plain, rec = run(model), run(model, probe.edit("resid_pre", overwrite, layer=2))
    assert torch.equal(rec["resid_post", 1], plain["resid_post", 1]), "the same memory as layer 2's resid_pre"
    assert rec["resid_pre", 2].abs().max() == 0


def test_projecting_out_leaves_nothing_along_the_direction_and_all_else(model):
    direction = torch.randn(32)
    plain, rec = run(model), run(model, probe.project_out("resid_mid", direction, layer=1))
    unit = direction / direction.norm()
    assert (rec["resid_mid", 1] @ unit).abs().max() < ROUNDING
    removed = plain["resid_mid", 1] - rec["resid_mid", 1]
    torch.testing.assert_close(removed, (plain["resid_mid", 1] @ unit)[..., None] * unit, atol=ROUNDING, rtol=0)


def test_projecting_out_a_space_counts_repeated_directions_once(model):
    first, second = torch.randn(2, 32)
    space = torch.stack([first, second, first - 3 * second, 2 * first])
    twice = run(model, probe.project_out("resid_mid", space, layer=1))["resid_mid", 1]
    once = run(model, probe.project_out("resid_mid", torch.stack([first, second]), layer=1))["resid_mid", 1]
    torch.testing.assert_close(twice, once, atol=ROUNDING, rtol=0)
    assert once.abs().max() > 1


def test_effects_count_what_was_changed_without_padding(model):
    prompts = ["abc", "abcde"]
    rec = run(
        model,
        probe.zero("z", heads=[0, 1]),
        probe.scale("resid_post", 0.5, layer=1, positions=-1),
        probe.scale("resid_mid", 0.5, layer=0, rows=0),
        prompts=prompts,
    )
    heads, last, one_row = rec.effects
    assert len(heads.sites) == 3 and heads.entries == 3 * 2 * (3 + 5)
    assert last.sites == ("blocks.1.hook_resid_post",) and last.entries == 2
    assert one_row.entries == 3


def test_a_mean_over_positions_cannot_quietly_include_padding(model):
    centre = probe.edit("resid_mid", lambda value: value - value.mean(1, keepdim=True), layer=1)
    with pytest.raises(BadIntervention, match="holds NaN"):
        run(model, centre, prompts=["abc", "abcde"])
    run(model, centre, prompts=["abc", "abd"])


def test_each_row_of_a_padded_batch_is_edited_as_it_would_be_alone(model):
    edits = [probe.add("resid_pre", torch.ones(32), layer=1, positions=-1), probe.scale("pattern", 0.5, layer=2)]
    prompts = ["abc", "abcdefg"]
    batch = run(model, *edits, prompts=prompts)
    for row, prompt in enumerate(prompts):
        alone = run(model, *edits, prompts=prompt)
        torch.testing.assert_close(batch.prompt(row).logits, alone.logits, atol=ROUNDING, rtol=0)


def test_what_a_function_returns_for_padding_is_dropped(model):
    double = probe.edit("resid_mid", lambda value: value * 2, layer=1)  # NaN stays NaN where the padding is
    batch = run(model, double, prompts=["abc", "abcde"])
    alone = run(model, double, prompts="abc")
    torch.testing.assert_close(batch.prompt(0).logits, alone.logits, atol=ROUNDING, rtol=0)


def test_a_steering_vector_can_be_learned(model):
    vector = torch.zeros(32, requires_grad=True)
    optimizer = torch.optim.Adam([vector], lr=0.3)
    losses = []
    for _ in range(20):
        rec = run(
            model, probe.add("resid_mid", vector, layer=1), prompts=[[1, 2, 3]], sites=[], positions=-1, grad=True
        )
        loss = -rec.logits[0, 0].log_softmax(-1)[17]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_would_touch_nothing_is_an_error_before_anything_runs(model):
    model.blocks[0].forward = lambda *_: pytest.fail("the model ran")
    with pytest.raises(BadIntervention, match="would touch nothing at blocks.2.hook_resid_pre"):
        run(model, probe.zero("resid_pre", layer=2), stop_after_layer=1)
    with pytest.raises(BadIntervention, match="ln_final.hook_scale, which this call does not compute"):
        run(model, probe.scale("ln_final.scale", 2.0), stop_after_layer=1)
    with pytest.raises(OutOfRange, match="prompt 0 has positions 0 to 2"):
        run(model, probe.zero("z", positions=4), prompts=["abc", "abcde"])
    with pytest.raises(probe.ProbeError, match="chooses nothing"):
        run(model, probe.zero("z", heads=[]))
    with pytest.raises(UnknownName, match="it has no heads to choose"):
        run(model, probe.zero("resid_pre", heads=1))
    with pytest.raises(BadIntervention, match=r"operand of shape \(7,\) does not fit"):
        run(model, probe.add("z", torch.ones(7)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda value: value[:, :2], r"returned shape \(2, 2, 32\), expected \(2, 9, 32\) \(batch pos d_model\)"),
        (lambda value: value * torch.nan, "holds NaN"),
        (lambda value: None, "returned NoneType, expected a tensor"),
        (lambda value: value.to("meta"), "on meta, expected cpu"),
        (lambda value: value * 1j, "returned torch.complex64, expected real numbers"),
    ],
)
def test_an_edit_that_returns_something_else_is_an_error(model, function, message):
    with pytest.raises(BadIntervention, match=message):
        run(model, probe.edit("resid_mid", function, layer=1))


@pytest.mark.parametrize("function", [lambda value, hook: value, lambda: None])
def test_what_does_not_take_the_value_alone_is_refused_when_the_edit_is_made(function):
    with pytest.raises(BadIntervention, match=r"edit 'z': the function takes .*, expected the value alone"):
        probe.edit("z", function)
    probe.edit("z", lambda value, factor=2: factor * value)
    probe.edit("z", torch.relu)  # written in C: it does not say what it takes


def test_attention_that_sees_nothing_is_an_error_not_nan(model):
    with pytest.raises(BadIntervention, match="the residual stream holds NaN after these interventions"):
        run(model, probe.edit("attn_scores", lambda scores: scores * 0 - torch.inf, layer=1))


def test_a_misspelt_option_is_named():
    with pytest.raises(UnknownName, match="no option 'head'; known: layer, heads, positions, rows"):
        probe.zero("z", head=3)
