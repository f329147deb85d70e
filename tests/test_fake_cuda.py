"""Everything a pass makes is made where the model is: tested with a pretend CUDA device, on machines without any GPU.

torch's FakeTensorMode computes shapes and devices and no numbers, and fails where two devices meet. Without numbers
there is nothing to look at, so the one function that looks at them, `any_true`, and the fingerprint of the weights are
replaced. What depends on numbers alone (a basis of directions, the NaN padding of a residual stream) cannot be tested
this way.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

import probe
from probe.attention import KeyValueCache
from probe.config import GPTConfig, RotaryScaling
from probe.errors import BadIntervention
from probe.generation import Settings, Step
from probe.gpt import GPT
from tests.tiny import CONFIGS, GPT2, LLAMA, LetterTokenizer

SCALINGS = {
    "linear": RotaryScaling("linear", factor=2.0),
    "dynamic": RotaryScaling("dynamic", factor=2.0, original_n_ctx=64),
    "yarn": RotaryScaling("yarn", factor=2.0, original_n_ctx=32),
    "llama3": RotaryScaling("llama3", factor=8.0, original_n_ctx=8),
    "longrope": RotaryScaling(
        "longrope", factor=2.0, original_n_ctx=64, short_factor=(1.0,) * 4, long_factor=(2.0,) * 4
    ),
}
ALL_CONFIGS = {
    **CONFIGS,
    "gpt2 with a window": GPTConfig(**GPT2.to_dict() | {"windows": (2, None, 3)}),
    "llama with a window": GPTConfig(**LLAMA.to_dict() | {"windows": (2, None, 3)}),
    **{f"llama, {kind} scaling": GPTConfig(**LLAMA.to_dict() | {"rotary_scaling": s}) for kind, s in SCALINGS.items()},
}
CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.usefixtures("as_users_run_it")  # checks of annotations would take most of the time
RAGGED = [[1, 2, 3, 4], [5, 6]]
ON_CPU = torch.linspace(-1, 1, 32)  # operands as users have them: made before the model went to the GPU


class PretendCuda(TorchFunctionMode):
    """`x[...]`, `x[...] = y` and `~x` want a real driver even for a pretend tensor; here they are spelt in functions
    that do not. Index tensors must be on the device of what they index: torch takes some from the CPU, and waits."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__getitem__:
            return _indexed(*args)
        if func is Tensor.__setitem__:
            return torch.ops.aten.copy_(_indexed(*args[:2]), args[2])
        if func is Tensor.__invert__:
            return args[0].bitwise_not()
        if func is Tensor.index_put:
            _check_devices(args[0], args[1])
        return func(*args, **(kwargs or {}))


def _indexed(value: Tensor, index) -> Tensor:
    index = index if isinstance(index, tuple) else (index,)
    dim, tensors = 0, []
    for place, item in enumerate(index):
        if item is Ellipsis:
            dim = value.ndim - sum(later is not None for later in index[place + 1 :])
            continue
        if isinstance(item, int):
            value = value.select(dim, item)
            continue
        if item is None:
            value = value.unsqueeze(dim)
        elif isinstance(item, slice):
            value = torch.ops.aten.slice(value, dim, item.start, item.stop, item.step or 1)
        else:
            tensors += [None] * (dim - len(tensors)) + [item]
        dim += 1
    _check_devices(value, tensors)
    return torch.ops.aten.index(value, tensors) if tensors else value


def _check_devices(value: Tensor, indices) -> None:
    for index in indices:
        if index is not None and index.device != value.device:
            raise RuntimeError(f"an index on {index.device}, into a value on {value.device}: expected the same device")


@pytest.fixture(autouse=True)
def no_numbers(monkeypatch) -> None:
    monkeypatch.setattr("probe.interventions.any_true", lambda mask: False)
    monkeypatch.setattr("probe.provenance.fingerprint", lambda model: "pretend")


@pytest.fixture
def on_cuda() -> Iterator[Callable[[GPTConfig], GPT]]:
    """A function: config -> model on the pretend GPU; the whole test runs there."""
    # Autograd asks the device's driver about streams, so no graph here; see `test_a_graph_...` below.
    with FakeTensorMode(allow_non_fake_inputs=True), PretendCuda(), torch.no_grad():
        yield lambda config: empty_model(config, CUDA)


def empty_model(config: GPTConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> GPT:
    """Made without numbers, then given weights of the right shape."""
    with torch.device("meta"):
        model = GPT(config, tokenizer=LetterTokenizer())
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=dtype, device=device))
    return model


def devices(rec: probe.Recording) -> set[torch.device]:
    return {value.device for value in rec.values.values()}


@pytest.fixture(params=ALL_CONFIGS.values(), ids=ALL_CONFIGS.keys())
def config(request) -> GPTConfig:
    return request.param


@pytest.fixture
def model(on_cuda) -> GPT:
    return on_cuda(LLAMA)


def test_every_family_runs_and_records_where_it_is(config, on_cuda):
    model = on_cuda(config)
    assert model.device == CUDA
    logits = model(torch.ones(2, 5, dtype=torch.long, device=CUDA))
    assert (logits.device, tuple(logits.shape)) == (CUDA, (2, 5, 50))
    rec = probe.record(model, RAGGED)
    assert rec.names == probe.site_names(config)
    assert devices(rec) == {CUDA}
    for name in rec.names:
        assert tuple(rec[name].shape) == probe.site_shape(config, name, batch=2, pos=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_stays_so(on_cuda, dtype):
    rec = probe.record(empty_model(LLAMA, CUDA, dtype), RAGGED, sites=["z", "pattern", "resid_post"])
    assert {value.dtype for value in rec.values.values()} == {dtype}
    assert devices(rec) == {CUDA}


@pytest.mark.parametrize("family", CONFIGS)
def test_a_cached_pass_and_a_partial_unembedding_run_where_the_model_is(family, on_cuda):
    model, cache = on_cuda(CONFIGS[family]), KeyValueCache(8)
    at = torch.zeros(2, 1, dtype=torch.long, device=CUDA)
    for n in (3, 1, 2):
        logits = model(torch.ones(2, n, dtype=torch.long, device=CUDA), cache=cache, unembed_at=at)
        assert (logits.device, tuple(logits.shape)) == (CUDA, (2, 1, 50))


@pytest.mark.parametrize("family", CONFIGS)
def test_generation_runs_where_the_model_is_and_chooses_on_the_cpu(family, on_cuda, monkeypatch):
    """One row of logits comes back for each step; choosing from it needs numbers, so that is replaced."""
    came_back = []

    def choose(settings, model, logits, steps, position):
        came_back.append((logits.device.type, tuple(logits.shape)))
        return Step(position, 7, "g", 1.0, 1.0, 1, 0.0, None, None)

    monkeypatch.setattr(Settings, "choose", choose)
    edited = [probe.zero("z", layer=1, heads=0), probe.add("resid_mid", ON_CPU, positions=-1)]
    generation = probe.generate(on_cuda(CONFIGS[family]), [1, 2, 3], max_tokens=3, interventions=edited)
    assert generation.run().ids == [1, 2, 3, 7, 7, 7]
    assert came_back == [("cpu", (50,))] * 3


def test_loss_is_computed_where_the_model_is(model):
    assert probe.loss(model, RAGGED).device == CUDA


OPTIONS = {
    "everything": {},
    "residuals only": {"sites": ["resid_pre", "resid_mid", "resid_post"]},
    "one layer": {"layers": [1]},
    "last positions": {"positions": -1},
    "several positions": {"sites": ["z", "k", "pattern", "ln1.scale"], "positions": [0, -1]},
    "heads": {"sites": ["z", "pattern", "rot_q"], "heads": [0, 3]},
    "heads of keys": {"sites": ["k", "v"], "heads": 1},
    "heads and positions": {"sites": ["z", "pattern"], "heads": [2], "positions": [-1, 0]},
    "another dtype": {"sites": ["z"], "dtype": "bfloat16"},
    "float16": {"sites": ["z"], "dtype": "float16"},
    "early stop": {"stop_after_layer": 1},
    "no logits": {"sites": ["z"], "logits": False},
    "mean": {"sites": [], "reduce": {"resid_post": "mean", "pattern": "mean", "z": "sum"}},
    "mean per position": {
        "sites": ["z"],
        "reduce": {"resid_post": "mean per position", "pattern": "mean per position"},
    },
    "mean at the last": {"sites": [], "reduce": {"z": "mean"}, "positions": -1, "heads": 1},
    "own reduction": {"sites": [], "reduce": {"z": lambda value, real: (value * real[..., None, None]).sum((0, 1))}},
}


@pytest.mark.parametrize("prompts", [["abcd", "e"], ["abc", "def"]], ids=["ragged", "even"])
@pytest.mark.parametrize("arguments", OPTIONS.values(), ids=OPTIONS.keys())
def test_recording_stays_on_the_device_and_goes_to_the_cpu_when_asked(model, arguments, prompts):
    assert devices(probe.record(model, prompts, **arguments, document_start=True)) == {CUDA}
    assert devices(probe.record(model, prompts, **arguments, device="cpu")) == {torch.device("cpu")}


def test_the_device_may_be_named_without_its_number(model):
    assert devices(probe.record(model, RAGGED, sites=["z"], device="cuda")) == {CUDA}


def test_tokens_and_lengths_stay_on_the_cpu(model):
    rec = probe.record(model, RAGGED, positions=-1)
    assert {rec.tokens.device.type, rec.lengths.device.type, rec.positions.device.type} == {"cpu"}


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_pass_from_a_residual_stream_runs_where_the_model_is(model, where):
    resid = torch.empty(2, 5, 32, device=where)
    rec = probe.record(model, resid, start_at_layer=1, positions=[0, -1], interventions=probe.zero("z", layer=2))
    assert devices(rec) == {CUDA}


PLACES = {
    "everywhere": {},
    "a layer": {"layer": 1},
    "positions": {"positions": [0, -1]},
    "a row": {"rows": [1]},
    "a row and its last position": {"rows": 1, "positions": -1},
}
PLACES_WITH_HEADS = PLACES | {
    "a head": {"heads": 1},
    "everything at once": {"layer": [0, 2], "heads": [0, 1], "positions": [-1], "rows": [0, 1]},
}
CHANGES = {
    "edit": lambda site, **where: probe.edit(site, lambda value: value * 2 + torch.ones_like(value), **where),
    "zero": probe.zero,
    "add": lambda site, **where: probe.add(site, ON_CPU[0], **where),
    "add a vector": lambda site, **where: probe.add(site, width(site), **where),
    "replace": lambda site, **where: probe.replace(site, width(site), **where),
    "scale": lambda site, **where: probe.scale(site, 0.5, **where),
    "scale by a vector": lambda site, **where: probe.scale(site, width(site).double(), **where),
}


def width(site: str) -> Tensor:
    """An operand on the CPU as wide as the site."""
    return ON_CPU[: {"resid_post": 32, "z": 8, "k": 8, "pattern": 4}[site]]


@pytest.mark.parametrize("prompts", [RAGGED, [[1, 2, 3, 4], [5, 6, 7, 8]]], ids=["ragged", "even"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("site", ["resid_post", "z", "k", "pattern"])
def test_every_intervention_runs_where_the_model_is(model, site, change, prompts):
    places = PLACES if site == "resid_post" else PLACES_WITH_HEADS
    changes = [change(site, **where) for where in places.values()]
    rec = probe.record(model, prompts, sites=[site], interventions=changes)
    assert devices(rec) == {CUDA}
    assert all(effect.entries for effect in rec.effects)


def test_operands_may_be_on_the_device_already(model):
    vector = torch.empty(32, device=CUDA)
    changes = [probe.add("resid_post", vector), probe.replace("resid_mid", vector), probe.scale("attn_out", vector)]
    assert devices(probe.record(model, RAGGED, interventions=changes)) == {CUDA}


OUT = [probe.project_out("resid_post", ON_CPU), probe.project_out("z", torch.eye(8)[:2], positions=-1, heads=[0, 2])]


@pytest.mark.parametrize("prompts", [RAGGED, [[1, 2, 3, 4], [5, 6, 7, 8]]], ids=["ragged", "even"])
def test_directions_found_on_the_cpu_are_projected_out_on_the_device(model, prompts):
    assert devices(probe.record(model, prompts, interventions=OUT)) == {CUDA}


def test_an_edit_that_leaves_the_device_is_an_error(model):
    with pytest.raises(BadIntervention, match="returned a tensor on cpu, expected cuda:0"):
        probe.record(model, RAGGED, interventions=probe.edit("z", lambda value: torch.zeros(value.shape)))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_graph_is_kept_where_the_model_is(family):
    # As a second pretend device, "meta": autograd needs no driver for it.
    elsewhere = torch.device("meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = empty_model(CONFIGS[family], elsewhere)
        vector = torch.empty(32, requires_grad=True)
        changes = [probe.add("resid_post", vector, layer=0), probe.scale("z", 2.0, heads=1, positions=-1)]
        for frozen in (False, True):
            model.requires_grad_(not frozen)
            rec = probe.record(model, RAGGED, interventions=[*changes, OUT[1]], grad=True)
            of = [rec["z", 0], rec["resid_pre", 1], rec["pattern", 2], vector]
            gradients = torch.autograd.grad(rec.logits.sum(), of)
            assert devices(rec) == {elsewhere}
            assert [gradient.device for gradient in gradients] == [value.device for value in of]


def misplaced(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable:
    """The same function, forgetting where the model is."""

    def wrapped(*args, **kwargs):
        made = function(*args, **kwargs)
        return made.cpu() if isinstance(made, Tensor) else made and tuple(part.cpu() for part in made)

    return wrapped


@pytest.mark.parametrize(
    "maker", ["attention.visible_keys", "gpt.rotary_turn", "selection.Selection.real", "selection.Selection.index"]
)
def test_a_tensor_made_on_the_wrong_device_is_found(model, maker, monkeypatch):
    """These tests can fail."""
    module, name = f"probe.{maker}".rsplit(".", 1)
    owner = probe.selection.Selection if "Selection" in module else getattr(probe, module.split(".")[1])
    monkeypatch.setattr(owner, name, misplaced(getattr(owner, name)))
    with pytest.raises(RuntimeError, match="device"):
        probe.record(model, RAGGED, interventions=probe.zero("z", heads=1))


def test_a_model_on_the_cpu_may_keep_its_values_elsewhere(on_cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    rec = probe.record(empty_model(LLAMA, torch.device("cpu")), RAGGED, sites=["z", "pattern"], device="cuda:0")
    assert devices(rec) == {CUDA}
