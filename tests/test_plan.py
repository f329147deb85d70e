"""A plan tells the bytes exactly, and runs nothing."""

import pytest
import torch

import probe
from probe.plan import count_flops
from probe.request import read_request
from tests.tiny import CONFIGS, tiny_model, tiny_tokens


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def bytes_of(rec: probe.Recording) -> int:
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in rec.values.values()}
    return sum(storages.values())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sites": ["resid_pre", "resid_post"]},
        {"sites": ["resid_pre", "resid_post"], "dtype": "float16"},
        {"sites": ["z", "pattern", "k"], "heads": [1], "positions": [0, -1], "layers": [0, 2]},
        {"sites": ["resid_pre", "resid_post"], "interventions": [probe.zero("resid_pre", layer=1)]},
        {"sites": ["pattern"], "stop_after_layer": 1},
        {"sites": [], "reduce": {"z": "mean", "pattern": "mean per position"}, "logits": False},
    ],
)
def test_planned_bytes_are_the_bytes_kept(model, arguments):
    plan = probe.plan_recording(model, tiny_tokens(), **arguments)
    rec = probe.record(model, tiny_tokens(), **arguments)
    assert {name: tuple(value.shape) for name, value in rec.values.items()} == dict(plan.shapes)
    assert plan.bytes == bytes_of(rec)


def test_a_plan_runs_nothing(model):
    for block in model.blocks:
        block.forward = lambda *_: pytest.fail("the model ran")
    plan = probe.plan_recording(model, ["abc", "abcde"])
    assert plan.seconds > 0 and "GFLOP" in str(plan)
    assert set(plan.to_dataframe()["name"]) == {*probe.site_names(model.config), "logits"}


def test_flops_are_those_that_torch_counts(model):
    from torch.utils.flop_counter import FlopCounterMode

    tokens = tiny_tokens()
    request = read_request(model, tokens)
    with FlopCounterMode(display=False) as counter:
        probe.record(model, tokens)
    assert count_flops(model, request) == counter.get_total_flops()
    early = read_request(model, tokens, stop_after_layer=0)
    with FlopCounterMode(display=False) as counter:
        probe.record(model, tokens, stop_after_layer=0)
    assert count_flops(model, early) == counter.get_total_flops()


def test_bad_arguments_are_those_of_record(model):
    with pytest.raises(probe.ProbeError, match="did you mean 'resid_post'"):
        probe.plan_recording(model, tiny_tokens(), sites=["resid_psot"])


def test_a_float64_model_counts_eight_bytes(model):
    small = probe.plan_recording(model, tiny_tokens(), sites=["z"])
    large = probe.plan_recording(model.to(torch.float64), tiny_tokens(), sites=["z"])
    assert large.bytes == 2 * small.bytes
