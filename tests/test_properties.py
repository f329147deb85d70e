"""Whatever is asked for, what is kept is that slice of each prompt's own full recording; inputs drawn at random."""

import copy
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import probe
from probe.gpt import GPT
from probe.sites import describe_site, site_dims, split_name
from tests.tiny import CONFIGS, tiny_model, tiny_tokens

pytestmark = pytest.mark.usefixtures("as_users_run_it")

# Sums of a batch are made in another order than those of one prompt; values are of size 10, scores of size 100.
ROUNDING = {"atol": 1e-4, "rtol": 1e-5}
MODELS = {family: tiny_model(family) for family in CONFIGS}
SHORT = {family: sorted({describe_site(n).short for n in probe.site_names(c)}) for family, c in CONFIGS.items()}

prompts = st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=7), min_size=1, max_size=3)
families = st.sampled_from(sorted(CONFIGS))


def full(model: GPT, ids: list[int]) -> dict[str, torch.Tensor]:
    """Everything of one prompt alone."""
    return dict(probe.record(model, [ids]).values)


def slice_of(value, name, *, positions, heads):
    """Of one prompt's value, (1, ...), the chosen positions and heads, picked one by one."""
    dims = ("batch", "pos", "d_vocab_out") if name == "logits" else site_dims(name)
    for place, dim in enumerate(dims):
        if dim in ("pos", "query_pos") and positions is not None:
            value = torch.stack([value.select(place, position) for position in positions], dim=place)
        if dim in ("head", "kv_head") and heads is not None:
            value = torch.stack([value.select(place, head) for head in heads], dim=place)
    return value


@settings(max_examples=100)
@given(st.data())
def test_what_is_kept_is_that_slice_of_each_prompts_own_recording(data):
    family = data.draw(families)
    model, ids = MODELS[family], data.draw(prompts)
    shortest = min(map(len, ids))
    # Several kinds at once: with, without and with two positions, of query and of key heads.
    sites = sorted(data.draw(st.sets(st.sampled_from(SHORT[family]), min_size=3, max_size=9)))
    layers = data.draw(st.none() | st.lists(st.integers(-3, 2), min_size=1, max_size=3))
    positions = data.draw(st.none() | st.lists(st.integers(-shortest, shortest - 1), min_size=1, max_size=4))
    with_heads = any({"head", "kv_head"} & set(site_dims(site)) for site in sites)
    heads = data.draw(st.none() | st.lists(st.integers(-2, 1), min_size=1, max_size=3)) if with_heads else None
    wrap = data.draw(st.sampled_from([list, tuple, np.array, torch.tensor]))
    chosen = {
        key: None if value is None else wrap(value)
        for key, value in {"layers": layers, "positions": positions, "heads": heads}.items()
    }

    rec = probe.record(model, ids, sites=iter(sites), **chosen)

    kept_layers = set(range(3)) if layers is None else {layer % 3 for layer in layers}
    assert set(rec.names) == {
        name
        for name in probe.site_names(model.config)
        if describe_site(name).short in sites and split_name(name)[0] in {None, *kept_layers}
    }
    for row, one in enumerate(ids):
        alone, mine = full(model, one), rec.prompt(row)
        for name in mine.values:
            torch.testing.assert_close(
                mine.values[name], slice_of(alone[name], name, positions=positions, heads=heads), **ROUNDING
            )


@settings(max_examples=25)
@given(families, prompts)
def test_padding_is_nan_and_never_reaches_a_real_entry(family, ids):
    model, longest = MODELS[family], max(map(len, ids))
    rec = probe.record(model, ids)
    for name, value in rec.values.items():
        for row, one in enumerate(ids):
            if name == "logits" or "pos" in site_dims(name):
                real, padded = value[row, : len(one)], value[row, len(one) : longest]
            else:  # pairs of query and key
                real, padded = value[row, :, : len(one), : len(one)], value[row, :, len(one) :, :]
                assert value[row, :, :, len(one) :].isnan().all()
            assert not real.isnan().any()
            assert padded.isnan().all()


@settings(max_examples=25)
@given(st.data())
def test_an_intervention_on_a_batch_is_the_same_on_each_prompt_alone(data):
    family = data.draw(families)
    model, ids = MODELS[family], data.draw(prompts)
    shortest = min(map(len, ids))
    site = data.draw(st.sampled_from(["z", "resid_mid", "pattern", "k", "post", "attn_out", "ln1.scale"]))
    where = {
        "layer": data.draw(st.none() | st.integers(-3, 2)),
        "positions": data.draw(st.none() | st.lists(st.integers(-shortest, shortest - 1), min_size=1, max_size=2)),
    }
    if {"head", "kv_head"} & set(site_dims(site)):
        where["heads"] = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=1, max_size=2))
    changes = [
        probe.scale(site, 0.5, **where),
        probe.edit(site, lambda value: value.add_(0.25), **where),  # in place
        probe.edit(site, lambda value: value.flip(-1).flip(-1), **where),
    ]
    rec = probe.record(model, ids, interventions=changes)
    for row, one in enumerate(ids):
        alone, mine = probe.record(model, [one], interventions=changes), rec.prompt(row)
        for name in mine.values:
            torch.testing.assert_close(mine.values[name], alone.values[name], **ROUNDING)


@settings(max_examples=25)
@given(st.data())
def test_an_intervention_on_some_rows_leaves_the_others_alone(data):
    family = data.draw(families)
    model, ids = MODELS[family], data.draw(prompts)
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=2))
    rec = probe.record(model, ids, interventions=probe.edit("resid_mid", torch.neg, layer=1, rows=rows))
    plain = probe.record(model, ids)
    for name in rec.values:
        for row in set(range(len(ids))) - set(rows):
            assert torch.equal(rec.values[name][row].nan_to_num(), plain.values[name][row].nan_to_num())
    for row in set(rows):
        changed, before = rec.prompt(row)["resid_mid", 1], plain.prompt(row)["resid_mid", 1]
        assert torch.equal(changed, -before)


@pytest.mark.parametrize("family", CONFIGS)
def test_values_recorded_before_an_edit_in_place_are_not_touched(family):
    model, tokens = MODELS[family], tiny_tokens()
    plain = probe.record(model, tokens)
    # resid_post of one layer and resid_pre of the next are one tensor; only the second is edited.
    rec = probe.record(model, tokens, interventions=probe.edit("resid_pre", lambda value: value.zero_(), layer=1))
    assert torch.equal(rec["resid_post", 0], plain["resid_post", 0])
    assert not rec["resid_pre", 1].any()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_function_may_return_the_same_memory_for_every_layer(family):
    model, tokens = MODELS[family], tiny_tokens()
    buffer = torch.empty(2, 9, 4, 8)

    def into_buffer(value):
        return buffer.copy_(value).mul_(2)

    rec = probe.record(model, tokens, sites=["z"], interventions=probe.edit("z", into_buffer))
    expected = probe.record(model, tokens, sites=["z"], interventions=probe.scale("z", 2.0))
    assert all(torch.equal(rec["z", layer], expected["z", layer]) for layer in range(3))


def test_a_recording_does_not_change_when_an_operand_does():
    value = torch.ones(2, 9, 32)
    rec = probe.record(MODELS["gpt2"], tiny_tokens(), interventions=probe.replace("resid_post", value, layer=2))
    value.zero_()
    assert (rec["resid_post", 2] == 1).all()


def test_a_reduction_that_writes_into_its_value_changes_nothing_else():
    model, tokens = MODELS["llama"], tiny_tokens()
    rec = probe.record(model, tokens, sites=["z"], reduce={"pattern": lambda value, real: value.zero_().sum()})
    plain = probe.record(model, tokens, sites=["z", "pattern"])
    assert torch.equal(rec.logits, plain.logits)
    assert not rec["pattern", 0].any()


def test_a_reduction_keeps_no_more_memory_than_its_result():
    rec = probe.record(MODELS["llama"], tiny_tokens(), sites=[], reduce={"pattern": lambda value, real: value[0, 0]})
    assert rec["pattern", 0].untyped_storage().nbytes() == rec["pattern", 0].numel() * 4


def test_the_same_intervention_twice_is_applied_and_counted_twice():
    double = probe.scale("attn_out", 2.0, layer=0)
    rec = probe.record(MODELS["llama"], tiny_tokens(), interventions=[double, double])
    plain = probe.record(MODELS["llama"], tiny_tokens())
    torch.testing.assert_close(rec["attn_out", 0], plain["attn_out", 0] * 4)
    assert [effect.entries for effect in rec.effects] == [18, 18]


def test_what_is_chosen_twice_is_counted_once():
    change = probe.zero("z", layer=0, heads=[0, 0], positions=[-1, 8], rows=[1, 1])
    assert probe.record(MODELS["llama"], tiny_tokens(), interventions=change).effects[0].entries == 1


def test_arguments_may_be_iterators_and_are_written_down_in_full():
    rec = probe.record(
        MODELS["llama"], tiny_tokens(),
        sites=iter(["z", "q"]), layers=iter([2, 0]), heads=iter([1]), positions=iter([-1]),
        interventions=iter([probe.zero("z", layer=2)]),
    )  # fmt: skip
    assert {rec["z", 2].shape, rec["q", 0].shape} == {(2, 1, 1, 8)}
    arguments = rec.manifest["arguments"]
    assert [arguments[key] for key in ("sites", "layers", "heads", "positions")] == [["z", "q"], [2, 0], [1], [-1]]


def test_numpy_numbers_survive_saving(tmp_path):
    resid = probe.record(MODELS["llama"], tiny_tokens())["resid_pre", 1]
    rec = probe.record(MODELS["llama"], resid, start_at_layer=np.int64(1), stop_after_layer=np.int32(-1))
    rec.save(tmp_path / "rec")
    arguments = probe.Recording.load(tmp_path / "rec").manifest["arguments"]
    assert (arguments["start_at_layer"], arguments["stop_after_layer"]) == (1, 2)


@pytest.mark.parametrize("family", CONFIGS)
def test_train_mode_inference_mode_and_copies_make_no_difference(family):
    model, tokens = MODELS[family], tiny_tokens()
    expected = probe.record(model, tokens)
    others = [copy.deepcopy(model).train(), pickle.loads(pickle.dumps(model)).eval()]  # noqa: S301  our own bytes
    recordings = [probe.record(other, tokens) for other in others]
    with torch.inference_mode():
        recordings.append(probe.record(copy.deepcopy(model), tokens))
    recordings.append(pickle.loads(pickle.dumps(expected)))  # noqa: S301
    for rec in recordings:
        assert rec.manifest["fingerprint"] == expected.manifest["fingerprint"]
        assert all(torch.equal(rec.values[name], expected.values[name]) for name in expected.values)


@pytest.mark.parametrize("outside", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("grad", [False, True])
def test_a_graph_is_kept_if_asked_for_whatever_is_switched_on_outside(outside, grad):
    with outside():
        rec = probe.record(
            MODELS["llama"], [[1, 2, 3], [4]], grad=grad, interventions=probe.zero("z", layer=1, heads=0)
        )
        assert torch.is_grad_enabled() == (outside is torch.enable_grad)
    assert all(value.requires_grad == grad for value in rec.values.values())


def test_gradients_of_a_padded_batch_are_those_of_each_prompt_alone():
    model, ids = MODELS["llama"], [[1, 2, 3, 4], [5, 6]]
    batch = probe.record(model, ids, sites=["z", "resid_pre"], grad=True)
    rows = torch.arange(2)
    total = batch.logits[rows, batch.lengths - 1, 7].sum()
    together = torch.autograd.grad(total, [batch["z", 1], batch["resid_pre", 0]])
    for row, one in enumerate(ids):
        alone = probe.record(model, [one], sites=["z", "resid_pre"], grad=True)
        apart = torch.autograd.grad(alone.logits[0, -1, 7], [alone["z", 1], alone["resid_pre", 0]])
        for mine, expected in zip(together, apart, strict=True):
            torch.testing.assert_close(mine[row : row + 1, : len(one)], expected, **ROUNDING)
            assert not mine[row, len(one) :].any()


def test_a_writing_of_a_weight_is_seen_in_the_fingerprint_of_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = GPT(CONFIGS["gpt2"])
        before = probe.record(model, [1]).manifest["fingerprint"]
        model.blocks[0].attn.W_Q[0, 0] += 1
        assert probe.record(model, [1]).manifest["fingerprint"] != before
