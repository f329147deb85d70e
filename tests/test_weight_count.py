"""Weights counted from a config: GPT-3's as the video has them, a model's as the model has them."""

import dataclasses

import pytest

import probe
from probe.weight_count import GPT3, count_weights
from tests.tiny import CONFIGS, MORE

EVERY = {**CONFIGS, **MORE}

KINDS = (
    "embedding", "query", "key", "value", "output", "up-projection", "down-projection", "unembedding",
)  # fmt: skip


def test_gpt3_has_175_billion_weights_of_eight_kinds_in_just_under_28_000_matrices():
    count = count_weights(GPT3, tied=False)
    assert tuple(row.kind for row in count.rows) == KINDS
    assert count.weights == count.running[-1] == 175_181_291_520 and count.matrices == 27_938
    by_kind = {row.kind: row for row in count.rows}
    assert by_kind["embedding"].weights == by_kind["unembedding"].weights == 617_558_016
    assert by_kind["query"].weights == 14_495_514_624 and by_kind["query"].matrices == 96 * 96
    assert by_kind["output"].matrices == 96 and by_kind["up-projection"].weights == 57_982_058_496
    assert count.extras["position table"] == 25_165_824


def test_a_tied_unembedding_has_no_weights_but_takes_its_multiplications():
    tied, untied = count_weights(GPT3), count_weights(GPT3, tied=False)
    assert untied.weights - tied.weights == 617_558_016 and untied.matrices - tied.matrices == 1
    assert tied.multiplications == untied.multiplications == untied.weights - 617_558_016


VARIANTS = {
    "as it is": {}, "untied": {"tied_embeddings": False}, "grouped heads": {"n_kv_heads": 1},
    "gated": {"gated_mlp": True}, "not gated": {"gated_mlp": False}, "rms": {"norm": "rms"},
    "biases": {"qkv_bias": True, "attn_out_bias": True, "mlp_bias": True},
    "no biases": {"qkv_bias": False, "attn_out_bias": False, "mlp_bias": False}, "wide heads": {"d_head": 10},
}  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("family", EVERY)
def test_the_count_is_what_a_model_of_this_shape_holds(family, changes):
    if "gated_mlp" in changes and family in ("attention", "solu"):
        pytest.skip("no such model")
    config = dataclasses.replace(EVERY[family], **changes)
    model, count = probe.GPT(config), count_weights(config)
    assert count.parameters == sum(parameter.numel() for parameter in model.parameters())
    for row in count.rows:
        name = {"embedding": "W_E", "query": "W_Q", "key": "W_K", "value": "W_V", "output": "W_O", "gate": "W_gate",
                "up-projection": "W_in", "down-projection": "W_out", "unembedding": "W_U"}[row.kind]  # fmt: skip
        weight = getattr(model, name)
        one = {"query": (0, 0), "key": (0, 0), "value": (0, 0), "output": 0, "gate": 0, "up-projection": 0,
               "down-projection": 0}.get(row.kind)  # fmt: skip
        shape = tuple((weight if one is None else weight[one]).shape)
        assert (shape if row.kind != "output" else (shape[0] * shape[1], shape[2])) == row.shape


@pytest.mark.parametrize("family", EVERY)
def test_multiplications_are_those_that_torch_counts(family):
    """Of one token: attention adds its two products of n_heads * d_head each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = EVERY[family]
    with FlopCounterMode(display=False) as counter:
        probe.record(probe.GPT(config), torch.zeros(1, 1, dtype=torch.long), sites=["pattern"])
    attention = 2 * 2 * config.n_layers * config.n_heads * config.d_head
    assert counter.get_total_flops() == 2 * count_weights(config).multiplications + attention


def test_the_table_has_kinds_then_extras():
    table = count_weights(GPT3, tied=False).to_dataframe()
    assert table["kind"].tolist() == [*KINDS, "position table", "biases", "norms"]
    assert table["running_total"].dropna().iloc[-1] == 175_181_291_520
    assert table["share"].sum() == pytest.approx(1.0) == table["share_of_multiplications"].sum()
    assert table["weights"].tolist()[-2:] == [10_616_832, 4_743_168]
