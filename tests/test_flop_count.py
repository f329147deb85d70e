"""What a pass computes, by kind: products against torch's counter, the rest against all that torch does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import probe
from probe.errors import OutOfRange
from probe.flop_count import ACTIVATION_FLOPS, SOFTMAX_FLOPS, count_pass
from probe.rotary import rotary_turn
from probe.tap_protocol import NoTap
from probe.weight_count import GPT3, count_weights
from tests.tiny import CONFIGS, MORE

EVERY = {**CONFIGS, **MORE}

N = 7
ONE_EACH = {"mul", "add", "sub", "div", "pow", "tanh"}


class Asking(NoTap):
    """Has attention computed one step at a time, so that each can be counted."""

    def wants(self, name: str) -> bool:
        return name == "hook_pattern"

    def scope(self, prefix: str) -> "Asking":
        return self


class Numbers(TorchDispatchMode):
    """Counts operations number by number; those on one number a token (the end of a mean) are too few to matter."""

    def __init__(self, activation: str):
        super().__init__()
        self.flops = 0
        self.each = dict.fromkeys(("softmax", "_softmax"), SOFTMAX_FLOPS) | {"gelu": ACTIVATION_FLOPS[activation]}
        self.each |= {name: ACTIVATION_FLOPS[name] for name in ("silu", "relu")}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        found = func(*args, **kwargs or {})
        if name == "mean":
            self.flops += args[0].numel()
        elif name in ONE_EACH and found.shape[-1:] != (1,):
            self.flops += found.numel()
        elif name in self.each:
            self.flops += self.each[name] * found.numel()
        return found


@pytest.mark.parametrize("family", EVERY)
def test_products_are_those_that_torch_counts(family):
    config = EVERY[family]
    with FlopCounterMode(display=False) as counter:
        probe.record(probe.GPT(config), torch.arange(N)[None])
    assert count_pass(config, N).products == counter.get_total_flops()


@pytest.mark.parametrize("family", EVERY)
def test_the_rest_is_every_other_operation_of_a_pass(family):
    config = EVERY[family]
    model = probe.GPT(config)
    with torch.no_grad(), Numbers(config.activation) as counter:
        model(torch.arange(N)[None], tap=Asking())
    with Numbers(config.activation) as angles:  # of rotary positions: once for all layers
        if config.positions == "rotary":
            rotary_turn(config, torch.arange(N)[None], torch.float32, N)
    flops = {row.kind: row.flops for row in count_pass(config, N).rows if not row.is_product}
    biases = N * count_weights(config).extras["biases"]  # torch adds them inside a product
    logits = SOFTMAX_FLOPS * N * config.n_outputs  # whoever asks for probabilities takes their softmax
    assert counter.flops - angles.flops == sum(flops.values()) - biases - logits


def test_the_sums_of_a_pass_are_those_of_its_rows():
    count = count_pass(GPT3, 2048)
    table = count.to_dataframe()
    assert table["flops"].sum() == count.flops and table["share"].sum() == pytest.approx(1.0)
    assert table[table.is_product]["flops"].sum() == count.products
    assert 0.99 < count.products / count.flops < 1  # "nearly all is products of matrices and vectors"
    assert [row.flops for row in count.rows][:1] == [0]  # embeddings are looked up


def test_a_pass_has_a_token():
    with pytest.raises(OutOfRange, match="n_tokens=-1: expected at least 1"):
        count_pass(CONFIGS["gpt2"], -1)
