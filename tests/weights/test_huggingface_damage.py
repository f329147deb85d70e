"""Damaged Hugging Face folders cost an error that names the file, never a crash, a hang, memory or wrong numbers."""

import json
import math
import random
import shutil

import pytest
import torch

import probe
from probe.errors import BrokenFile, ProbeError
from tests.gguf_files import BYTE_TOKENIZER, converted, huggingface

pytestmark = pytest.mark.usefixtures("as_users_run_it")

VALUES = [
    None, True, 0, -1, 2.5, 1e308, 10**18, 10**30,
    "", "x", "\ud800", [], {}, [1], {"a": 1}, [[]], math.nan, math.inf, ...,
]  # fmt: skip
"""What stands in the place of a value; ... for nothing at all."""
TOKENS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with everything in it: config, weights, tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whole")
    path = converted(folder / "m.gguf", huggingface("llama"), "llama", metadata=BYTE_TOKENIZER)
    probe.save_model(probe.load_model(path, device="cpu"), folder / "model")
    return folder / "model"


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def loads_or_is_refused(folder) -> bool:
    """Whether it loads; then it runs, with finite numbers, and reads text."""
    try:
        model = probe.load_model(folder, device="cpu")
    except ProbeError:
        return False
    with torch.no_grad():
        assert model(TOKENS).isfinite().all()
    if model.tokenizer is not None:
        try:
            model.tokenizer.str_tokens(model.tokenizer.encode("the in"))
        except ProbeError:  # says why it cannot
            pass
    return True


ROPE = [
    {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "beta_fast": 32.0, "beta_slow": 1.0},
    {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
]
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 4,
         "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention"]}  # fmt: skip


def places_in(value, at=()):
    """Where every value of a JSON file stands; of long lists the first few."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else []
    for key in keys:
        yield (*at, key)
        yield from places_in(value[key], (*at, key))


def damaged_json(values):
    """The same with one value replaced, every value by everything."""
    for place in places_in(values):
        for new in VALUES:
            changed = json.loads(json.dumps(values))
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if new is ...:
                del holder[place[-1]]
            else:
                holder[place[-1]] = new
            yield changed


def damages_of(whole, file):
    values = json.loads((whole / file).read_text())
    yield from damaged_json(values)
    if file == "config.json":
        for rope in ROPE:
            of_rope = values | {"rope_scaling": None, "rope_parameters": rope}
            yield of_rope
            yield from (of_rope | {"rope_parameters": damaged} for damaged in damaged_json(rope))
        yield from (values | damaged for damaged in damaged_json(QWEN2))


def nothing_else_happens(whole, folder, file, n: int | None) -> None:
    every = list(damages_of(whole, file))
    loaded = 0
    for values in every if n is None else random.Random(0).sample(every, n):
        (folder / file).write_text(json.dumps(values))
        loaded += loads_or_is_refused(folder)
    assert 0 < loaded < len(every)


FILES = ["config.json", "tokenizer_config.json", "tokenizer.json"]


@pytest.mark.parametrize(("file", "n"), [*zip(FILES, (120, 30, 60), strict=True)])
def test_a_wrong_value_in_a_json_file_is_refused_or_changes_nothing_that_breaks(file, n, whole, folder):
    nothing_else_happens(whole, folder, file, n)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "n"), [*zip(FILES, (None, None, 600), strict=True)])
def test_no_wrong_value_at_any_place_does_harm(file, n, whole, folder):
    nothing_else_happens(whole, folder, file, n)


CASES = {
    "a kind of rotary positions that is no name": {"rope_parameters": {"rope_type": [1]}, "rope_scaling": None},
    "layer types that are no list": QWEN2 | {"layer_types": True},
    "no number of layers with a window": QWEN2 | {"max_window_layers": None},
    "architectures that are no list": {"architectures": True},
    "an activation that is no name": {"hidden_act": []},
    "positions stretched to infinity": {"rope_scaling": {"rope_type": "yarn", "factor": 1e308, "type": "yarn"}},
    "pairs that all turn alike": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1}},
    "more words than memory": {"vocab_size": 10**18},
    "more layers than memory": {"num_hidden_layers": 10**30},
    "wider than memory": {"head_dim": 10**18},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_what_once_escaped_is_refused(changes, folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ProbeError):
        probe.load_model(folder)


def test_a_tokenizer_that_panics_is_refused(folder, capfd):
    """The library's Rust code stops with what is no Exception, and prints where."""
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["continuing_subword_prefix"] = "llama"
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BrokenFile, match="tokenizer.json holds no usable tokenizer"):
        probe.load_model(folder)


@pytest.mark.parametrize("file", [*FILES, "model.safetensors"])
def test_a_file_cut_anywhere_is_named(file, folder):
    whole = (folder / file).read_bytes()
    for length in random.Random(0).sample(range(len(whole) - 1), 25):
        (folder / file).write_bytes(whole[:length])
        with pytest.raises(BrokenFile, match=file.partition(".")[0]):
            probe.load_model(folder)


def test_flipped_bits_of_the_weights_are_refused_or_leave_finite_numbers(folder):
    path, rng = folder / "model.safetensors", random.Random(0)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(8), *rng.sample(range(8, header), 40), *rng.sample(range(header, len(whole)), 40)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        loads_or_is_refused(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_named(value, folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    weights[name][3, 4] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BrokenFile, match=f"{name} holds NaN or infinity"):
        probe.load_model(folder)
