"""Every mistake brings an error that says what came, what was expected and the nearest right thing: before anything
runs where it can be known beforehand, else when it shows. Nothing is half done."""

import errno
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import probe
from probe import GPTConfig, Recording, RotaryScaling, record
from probe.errors import (
    BadIntervention,
    BadPrompt,
    BadShape,
    BrokenFile,
    NotSaved,
    NumbersBroke,
    OutOfRange,
    ProbeError,
    SiteNotRecorded,
    UnknownName,
    UnsupportedModel,
)
from probe.gpt import GPT
from tests.tiny import LLAMA, tiny_model, tiny_tokens

pytestmark = pytest.mark.usefixtures("as_users_run_it")

TOKENS = tiny_tokens()
RAGGED = [[1, 2, 3], [4, 5]]
SIZES = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 8, "d_vocab": 9, "n_ctx": 8}
ROTARY = SIZES | {"positions": "rotary"}
DYNAMIC = RotaryScaling("dynamic", factor=2.0, original_n_ctx=2)
NARROW = RotaryScaling("longrope", factor=2.0, original_n_ctx=4, short_factor=(1.0,), long_factor=(1.0, 2.0))

# What is wrong with a call -> the call (of m: a tiny Llama), the error, and what its message names.
BEFORE_ANYTHING_RUNS: dict[str, tuple[Callable[[GPT], Any], type[ProbeError], list[str]]] = {
    # Prompts
    "empty text": (lambda m: record(m, ""), BadPrompt, ["the prompt is empty", "document_start=True"]),
    "no prompts": (lambda m: record(m, []), BadPrompt, ["the list is empty"]),
    "one empty prompt of two": (lambda m: record(m, ["ab", ""]), BadPrompt, ["prompt 1 is empty"]),
    "tensor of no tokens": (lambda m: record(m, TOKENS[:, :0]), BadPrompt, ["prompt 0 is empty"]),
    "text without tokenizer": (lambda m: record(GPT(LLAMA), "hi"), BadPrompt, ["'hi'", "no tokenizer", "token ids"]),
    "document start without tokenizer": (
        lambda m: record(GPT(LLAMA), [1], document_start=True), BadPrompt, ["no tokenizer", "yourself"],
    ),
    "prompt longer than the context": (lambda m: record(m, [1] * 65), BadPrompt, ["65 tokens", "context holds 64"]),
    "document start makes it too long": (
        lambda m: record(m, [1] * 64, document_start=True), BadPrompt, ["65 tokens", "context holds 64"],
    ),
    "token id too large": (lambda m: record(m, [[1, 50]]), OutOfRange, ["token id 50 at position 1", "ids 0 to 49"]),
    "negative token id": (lambda m: record(m, [[3], [-2]]), OutOfRange, ["token id -2", "prompt 1", "ids 0 to 49"]),
    "padding as token ids": (lambda m: record(m, [[3, -1]]), OutOfRange, ["token id -1", "different lengths"]),
    "float ids": (lambda m: record(m, TOKENS.float()), BadShape, ["torch.float32", "integer ids", "start_at_layer"]),
    "list of floats": (lambda m: record(m, [1.0, 2.0]), BadShape, ["1.0", "integer token ids"]),
    "boolean ids": (lambda m: record(m, TOKENS > 3), BadShape, ["torch.bool", "integer ids"]),
    "complex ids": (lambda m: record(m, TOKENS * 1j), BadShape, ["complex64", "integer ids"]),
    "3-D ids": (lambda m: record(m, TOKENS[None]), BadShape, ["(1, 2, 9)", "(batch, pos)"]),
    "3-D list": (lambda m: record(m, [[[1, 2]]]), BadShape, ["[[1, 2]]", "list of integer token ids"]),
    "0-D ids": (lambda m: record(m, torch.tensor(3)), BadShape, ["()", "(batch, pos)"]),
    "a single number": (lambda m: record(m, np.int64(3)), BadShape, ["int64", "token ids"]),
    "nothing": (lambda m: record(m, None), BadShape, ["NoneType", "text"]),
    "bytes": (lambda m: record(m, b"abc"), BadShape, ["bytes", "text"]),
    "numbers and texts mixed": (lambda m: record(m, [1, "a"]), BadShape, ["prompt 1", "text or a list"]),
    "long and short prompts, angles that depend on length": (
        lambda m: record(GPT(GPTConfig(**ROTARY, rotary_scaling=DYNAMIC)), RAGGED),
        BadPrompt, ["2 to 3 tokens", "'dynamic'", "apart"],
    ),
    # Sites, layers, positions, heads
    "misspelt site": (
        lambda m: record(m, TOKENS, sites=["patern"]),
        UnknownName, ["'patern'", "did you mean 'pattern'"],
    ),
    "misspelt full name": (
        lambda m: record(m, TOKENS, sites="blocks.1.hook_resid_psot"), UnknownName, ["'blocks.1.hook_resid_post'"],
    ),
    "site of another family": (lambda m: record(m, TOKENS, sites="pos_embed"), UnknownName, ["positions are rotary"]),
    "logits as a site": (lambda m: record(m, TOKENS, sites="logits"), UnknownName, ["rec.logits"]),
    "number as a site": (lambda m: record(m, TOKENS, sites=[3]), UnknownName, ["site 3", "such as 'z'"]),
    "sites that are no names": (lambda m: record(m, TOKENS, sites=3), UnknownName, ["sites 3", "['z', 'pattern']"]),
    "layer too large": (lambda m: record(m, TOKENS, layers=[0, 3]), OutOfRange, ["layer 3", "layers 0 to 2"]),
    "layer too negative": (lambda m: record(m, TOKENS, layers=-4), OutOfRange, ["layer -4", "layers 0 to 2"]),
    "layer that is no number": (lambda m: record(m, TOKENS, layers="all"), OutOfRange, ["'all'", "integer"]),
    "layers none": (lambda m: record(m, TOKENS, layers=[]), ProbeError, ["layers=[]", "leave layers out"]),
    "layer not run": (
        lambda m: record(m, TOKENS, sites="z", layers=2, stop_after_layer=1),
        OutOfRange, ["blocks.2.attn.hook_z", "not computed"],
    ),
    "site after the stop": (
        lambda m: record(m, TOKENS, sites="ln_final.scale", layers=0, stop_after_layer=1),
        OutOfRange, ["ln_final", "not computed"],
    ),
    "full name outside layers": (
        lambda m: record(m, TOKENS, sites="blocks.1.attn.hook_z", layers=2), UnknownName, ["layer 1", "layers=[2]"],
    ),
    "position too large": (lambda m: record(m, TOKENS, positions=9), OutOfRange, ["position 9", "positions 0 to 8"]),
    "position beyond a shorter prompt": (
        lambda m: record(m, RAGGED, positions=[0, 2]), OutOfRange, ["position 2", "prompt 1 has positions 0 to 1"],
    ),
    "float position": (lambda m: record(m, TOKENS, positions=1.0), OutOfRange, ["1.0", "integer"]),
    "float tensor of positions": (
        lambda m: record(m, TOKENS, positions=torch.tensor([1.5])),
        OutOfRange, ["1.5", "integer"],
    ),
    "mask as positions": (
        lambda m: record(m, TOKENS, positions=torch.tensor([True] * 9)),
        OutOfRange, ["True", "integer"],
    ),
    "column as positions": (lambda m: record(m, TOKENS, positions=torch.ones(2, 1).int()), OutOfRange, ["integer"]),
    "table as positions": (lambda m: record(m, TOKENS, positions=np.ones((2, 1), int)), OutOfRange, ["[1]", "integer"]),
    "head too large": (lambda m: record(m, TOKENS, sites="z", heads=4), OutOfRange, ["head 4", "heads 0 to 3"]),
    "query head of keys": (
        lambda m: record(m, TOKENS, sites="k", heads=3), OutOfRange, ["head 3", "heads 0 to 1", "key/value head 1"],
    ),
    "heads of what has none": (
        lambda m: record(m, TOKENS, sites="mlp_out", heads=0),
        UnknownName, ["heads=[0]", "none"],
    ),
    # How and where it is kept
    "unknown dtype": (lambda m: record(m, TOKENS, dtype="float61"), UnknownName, ["'float61'", "'float16'"]),
    "integer dtype": (lambda m: record(m, TOKENS, dtype=torch.int32), UnknownName, ["'int32'", "float32"]),
    "unknown device": (lambda m: record(m, TOKENS, device="cdua"), UnknownName, ["'cdua'", "did you mean 'cuda'"]),
    "device without memory": (lambda m: record(m, TOKENS, device="meta"), UnknownName, ["'meta'", "cpu, cuda, mps"]),
    "device that is not here": (
        lambda m: record(m, TOKENS, device="cuda:77"),
        OutOfRange, ["'cuda:77'", "'cpu' works"],
    ),
    "unknown reduction": (
        lambda m: record(m, TOKENS, reduce={"z": "maen"}),
        UnknownName, ["'maen'", "did you mean 'mean'"],
    ),
    "reduction of an unknown site": (lambda m: record(m, TOKENS, reduce={"zz": "mean"}), UnknownName, ["'zz'", "'z'"]),
    "reduction without site": (lambda m: record(m, TOKENS, reduce="mean"), UnknownName, ["'mean'", "{'z': 'mean'}"]),
    "graph of a copy": (
        lambda m: record(m, TOKENS, grad=True, dtype="float16"),
        ProbeError, ["grad=True", "leave out"],
    ),
    "graph in inference mode": (
        lambda m: torch.inference_mode()(lambda: record(m, TOKENS, grad=True))(),
        ProbeError, ["inference_mode", "leave"],
    ),
    # Which layers are run
    "start without residual stream": (
        lambda m: record(m, TOKENS, start_at_layer=1), BadPrompt, ["residual stream", "(batch, pos, d_model)"],
    ),
    "start at text": (lambda m: record(m, "abc", start_at_layer=1), BadPrompt, ["residual stream"]),
    "residual stream too narrow": (
        lambda m: record(m, torch.ones(1, 2, 31), start_at_layer=1), BadShape, ["(1, 2, 31)", "d_model = 32"],
    ),
    "residual stream of no batch": (
        lambda m: record(m, torch.ones(2, 32), start_at_layer=1), BadShape, ["(2, 32)", "(batch, pos, d_model"],
    ),
    "residual stream with NaN": (
        lambda m: record(m, torch.ones(1, 2, 32).index_fill(1, torch.tensor(0), torch.nan), start_at_layer=1),
        BadShape, ["NaN", "after the end"],
    ),
    "residual stream too long": (
        lambda m: record(m, torch.ones(1, 65, 32), start_at_layer=1), BadPrompt, ["65 positions", "context holds 64"],
    ),
    "document start of a residual stream": (
        lambda m: record(m, torch.ones(1, 2, 32), start_at_layer=1, document_start=True), BadPrompt, ["no token"],
    ),
    "start too late": (lambda m: record(m, torch.ones(1, 2, 32), start_at_layer=3), OutOfRange, ["layer 3", "0 to 2"]),
    "stop too late": (lambda m: record(m, TOKENS, stop_after_layer=99), OutOfRange, ["layer 99", "layers 0 to 2"]),
    "stop before start": (
        lambda m: record(m, torch.ones(1, 2, 32), start_at_layer=2, stop_after_layer=1),
        OutOfRange, ["stop_after_layer=1"],
    ),
    "float start": (
        lambda m: record(m, torch.ones(1, 2, 32), start_at_layer=1.0),
        OutOfRange, ["start_at_layer=1.0", "integer"],
    ),
    # Interventions
    "intervention at a misspelt site": (
        lambda m: record(m, TOKENS, interventions=probe.zero("patern")), UnknownName, ["did you mean 'pattern'"],
    ),
    "intervention at no such layer": (
        lambda m: record(m, TOKENS, interventions=probe.zero("z", layer=3)), OutOfRange, ["layer 3", "layers 0 to 2"],
    ),
    "intervention at no such head": (
        lambda m: record(m, TOKENS, interventions=probe.zero("z", heads=4)), OutOfRange, ["head 4", "heads 0 to 3"],
    ),
    "intervention at a query head of keys": (
        lambda m: record(m, TOKENS, interventions=probe.zero("v", heads=2)),
        OutOfRange, ["query head 2 reads key/value head 1"],
    ),
    "intervention at no such position": (
        lambda m: record(m, RAGGED, interventions=probe.zero("z", positions=2)),
        OutOfRange, ["prompt 1 has positions 0 to 1"],
    ),
    "intervention at no such row": (
        lambda m: record(m, RAGGED, interventions=probe.zero("z", rows=2)), OutOfRange, ["row 2", "rows 0 to 1"],
    ),
    "intervention after the stop": (
        lambda m: record(m, TOKENS, interventions=probe.zero("z", layer=2), stop_after_layer=1),
        BadIntervention, ["touch nothing", "blocks.2.attn.hook_z"],
    ),
    "intervention before the start": (
        lambda m: record(m, torch.ones(1, 2, 32), start_at_layer=1, interventions=probe.zero("embed")),
        BadIntervention, ["touch nothing", "hook_embed"],
    ),
    "intervention at a layer of what has none": (
        lambda m: record(m, TOKENS, interventions=probe.zero("embed", layer=0)),
        OutOfRange, ["outside the layers", "leave layer out"],
    ),
    "intervention at no heads": (
        lambda m: record(m, TOKENS, interventions=probe.zero("z", heads=[])),
        ProbeError, ["heads=[]"],
    ),
    "operand that does not fit": (
        lambda m: record(m, TOKENS, interventions=probe.add("z", torch.ones(7))),
        BadIntervention, ["(7,)", "(2, 9, 4, 8)", "batch pos head d_head"],
    ),
    "operand that would enlarge": (
        lambda m: record(m, TOKENS, interventions=probe.replace("z", torch.ones(3, 9, 4, 8), layer=0)),
        BadIntervention, ["(3, 9, 4, 8)", "(2, 9, 4, 8)"],
    ),
    "function as intervention": (
        lambda m: record(m, TOKENS, interventions=[torch.relu]),
        BadIntervention, ["builtin_function", "edit, zero, add"],
    ),
    "no interventions": (
        lambda m: record(m, TOKENS, interventions=None),
        BadIntervention, ["NoneType", "edit, zero, add"],
    ),
    "misspelt option": (lambda m: probe.zero("z", head=3), UnknownName, ["'head'", "heads"]),
    "edit by no function": (lambda m: probe.edit("z", 3), BadIntervention, ["int", "function"]),
    "add a word": (lambda m: probe.add("z", "steer"), BadIntervention, ["str", "number or a tensor"]),
    "add integers": (
        lambda m: probe.add("z", torch.ones(8, dtype=torch.int64)),
        BadIntervention, ["int64", "floating point"],
    ),
    "add NaN": (lambda m: probe.add("z", torch.tensor([torch.nan])), BadIntervention, ["NaN"]),
    "scale by True": (lambda m: probe.scale("z", True), BadIntervention, ["bool", "number"]),
    "project out nothing": (lambda m: probe.project_out("z", torch.zeros(8)), BadIntervention, ["length zero"]),
    "project out a cube": (
        lambda m: probe.project_out("z", torch.ones(1, 1, 8)),
        BadIntervention, ["(1, 1, 8)", "(d,) or (k, d)"],
    ),
    # Other functions of a model
    "loss of one token": (lambda m: probe.loss(m, [1]), BadPrompt, ["two tokens"]),
    "plan for a misspelt site": (lambda m: probe.plan_recording(m, TOKENS, sites="zz"), UnknownName, ["'zz'", "'z'"]),
    "plain pass of a list": (lambda m: m([[1, 2]]), BadShape, ["list", "tensor of integer ids"]),
    "plain pass of floats": (lambda m: m(TOKENS.float()), BadShape, ["torch.float32"]),
    "plain pass of one dim": (lambda m: m(TOKENS[0]), BadShape, ["(9,)", "(batch, pos)"]),
    "plain pass of unknown ids": (lambda m: m(TOKENS + 45), OutOfRange, ["ids 0 to 49"]),
    "plain pass of nothing": (lambda m: m(TOKENS[:, :0]), BadPrompt, ["(2, 0)"]),
    "plain pass too long": (lambda m: m(torch.ones(1, 65, dtype=torch.long)), BadPrompt, ["65 tokens", "holds 64"]),
    "weights of no such layer": (lambda m: m.W_Q[3], OutOfRange, ["layer 3", "layers 0 to 2"]),
    "weights of no such head": (lambda m: m.W_O[0, 4], OutOfRange, ["head 4", "heads 0 to 3"]),
    "weights of a query head of keys": (lambda m: m.W_K[0, 2], OutOfRange, ["query head 2 reads key/value head 1"]),
    "weights by True": (lambda m: m.W_Q[0, True], OutOfRange, ["True", "integer"]),
    "weights beyond their shape": (lambda m: m.W_Q[0, 1, 99], OutOfRange, ["W_Q[0]", "(4, 32, 8)"]),
    "weights that are not there": (lambda m: m.b_Q[0], ProbeError, ["b_Q", "without it"]),
    "a bias that no unembedding has": (lambda m: m.b_U, ProbeError, ["b_U", "no bias"]),
    "positions of a rotary model": (lambda m: m.W_pos, ProbeError, ["W_pos", "rotary"]),
}  # fmt: skip


@pytest.fixture
def model() -> GPT:
    return tiny_model("llama")


@pytest.fixture
def passes(monkeypatch) -> list[str]:
    """What of a pass has begun."""
    begun: list[str] = []

    def counted(name: str) -> Callable:
        original = getattr(GPT, name)

        def wrapper(*args, **kwargs):
            begun.append(name)
            return original(*args, **kwargs)

        return wrapper

    for name in ("embed_tokens", "run_layers", "read_out"):
        monkeypatch.setattr(GPT, name, counted(name))
    return begun


def check(call: Callable[[], Any], error: type[ProbeError], names: list[str]) -> None:
    with pytest.raises(ProbeError) as raised:
        call()
    assert type(raised.value) is error
    message = str(raised.value)
    assert all(name in message for name in names), message
    assert len(message) < 400


@pytest.mark.parametrize(("call", "error", "names"), BEFORE_ANYTHING_RUNS.values(), ids=BEFORE_ANYTHING_RUNS.keys())
def test_a_mistake_is_found_before_anything_runs(call, error, names, model, passes):
    check(lambda: call(model), error, names)
    assert not passes


def edited(function: Callable, **arguments) -> Callable[[GPT], Any]:
    return lambda m: record(m, TOKENS, interventions=probe.edit("z", function, layer=1), **arguments)


def with_weight(value: float) -> GPT:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.ln_final.b[0] = value
    return model


WHILE_IT_RUNS: dict[str, tuple[Callable[[GPT], Any], type[ProbeError], list[str]]] = {
    "an edit returns another shape": (
        edited(lambda v: v[:, :1]),
        BadIntervention, ["blocks.1.attn.hook_z", "(2, 1, 4, 8)", "(2, 9, 4, 8)"],
    ),
    "an edit returns NaN": (edited(lambda v: v / 0 * 0), BadIntervention, ["blocks.1.attn.hook_z", "NaN"]),
    "an edit returns nothing": (edited(lambda v: None), BadIntervention, ["NoneType", "expected a tensor"]),
    "an edit returns a number": (edited(lambda v: 3.0), BadIntervention, ["float", "expected a tensor"]),
    "an edit returns an array": (edited(lambda v: v.numpy()), BadIntervention, ["ndarray", "expected a tensor"]),
    "an edit returns another device": (edited(lambda v: v.to("meta")), BadIntervention, ["meta", "expected cpu"]),
    "an edit returns infinity": (
        edited(lambda v: v + torch.inf),
        BadIntervention, ["residual stream", "edit z, layer 1"],
    ),
    "the last norm is divided by zero": (
        lambda m: record(m, TOKENS, interventions=probe.zero("ln_final.scale")),
        BadIntervention, ["logits", "zero ln_final.scale"],
    ),
    "the last norm is divided by zero, without logits": (
        lambda m: record(m, TOKENS, interventions=probe.zero("ln_final.scale"), logits=False),
        BadIntervention, ["final norm", "zero ln_final.scale"],
    ),
    "infinity is added at the end": (
        lambda m: record(m, TOKENS, interventions=probe.add("resid_post", torch.inf, layer=2)),
        BadIntervention, ["residual stream", "infinity"],
    ),
    "a reduction returns NaN": (
        lambda m: record(m, TOKENS, reduce={"z": lambda v, real: v.mean() * torch.nan}),
        BadIntervention, ["NaN", "hook_z"],
    ),
    "a reduction returns no tensor": (
        lambda m: record(m, TOKENS, reduce={"z": lambda v, real: 3}),
        BadShape, ["int", "expected a tensor"],
    ),
    "a value does not fit float16": (
        lambda m: record(m, TOKENS, dtype="float16", interventions=probe.add("resid_post", 1e5, layer=2)),
        NumbersBroke, ["resid_post", "65504", "bfloat16"],
    ),
    "float16 overflows at the end": (
        lambda m: record(m.half(), TOKENS, interventions=[probe.add("resid_post", 6e4, layer=2)] * 2),
        NumbersBroke, ["float16", "bfloat16 or float32"],
    ),
    "a weight is NaN": (lambda m: record(with_weight(torch.nan), TOKENS), NumbersBroke, ["logits", "weight"]),
    "a weight is infinite": (lambda m: record(with_weight(torch.inf), TOKENS), NumbersBroke, ["logits", "weight"]),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "names"), WHILE_IT_RUNS.values(), ids=WHILE_IT_RUNS.keys())
def test_what_shows_only_in_the_pass_is_found_when_it_shows(call, error, names, model, passes):
    check(lambda: call(model), error, names)
    assert passes, "the pass had begun"


def test_a_broken_edit_ends_the_pass_at_once(model):
    seen = []
    later = probe.edit("resid_pre", lambda value: seen.append("later") or value, layer=2)
    broken = probe.edit("z", lambda value: seen.append("broken"), layer=1)
    with pytest.raises(BadIntervention):
        record(model, TOKENS, interventions=[later, broken])
    assert seen == ["broken"]


def test_the_users_own_error_comes_through_unchanged(model):
    def function(value):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        edited(function)(model)


@pytest.fixture(scope="module")
def kept() -> Recording:
    """A recording of some values only."""
    return record(tiny_model("llama"), RAGGED, sites=["z", "embed"], layers=[0, 1], logits=False)


READS: dict[str, tuple[Callable[[Recording], Any], type[ProbeError], list[str]]] = {
    "layer not kept": (
        lambda r: r["z", 2],
        SiteNotRecorded, ["blocks.2.attn.hook_z", "kept: embed, z", "sites=['z'], layers=[2]"],
    ),
    "site not kept": (
        lambda r: r["pattern", 0],
        SiteNotRecorded, ["blocks.0.attn.hook_pattern", "sites=['pattern'], layers=[0]"],
    ),
    "logits not kept": (lambda r: r.logits, SiteNotRecorded, ["logits=False"]),
    "misspelt": (lambda r: r["blocks.0.attn.hook_zz"], UnknownName, ["blocks.0.attn.hook_z'"]),
    "no such layer": (lambda r: r["z", 3], OutOfRange, ["layer 3", "layers 0 to 2"]),
    "no layer named": (lambda r: r["z"], UnknownName, ["('z', 0)"]),
    "layer that is no number": (lambda r: r["z", "0"], OutOfRange, ["'0'", "integer"]),
    "number": (lambda r: r[0], UnknownName, ["site 0", "such as 'z'"]),
    "too much": (lambda r: r["z", 0, 1], UnknownName, ["('z', 0, 1)", "('z', 3)"]),
    "stack of what was not kept": (
        lambda r: r.stack("pattern"),
        SiteNotRecorded, ["hook_pattern", "sites=['pattern']"],
    ),
    "stack of what has no layers": (lambda r: r.stack("embed"), UnknownName, ["'embed'", "outside the layers"]),
    "layers of an unknown site": (lambda r: r.layers("zz"), UnknownName, ["'zz'", "'z'"]),
    "no such prompt": (lambda r: r.prompt(2), OutOfRange, ["prompt 2", "prompts 0 to 1"]),
}  # fmt: skip


@pytest.mark.parametrize(("read", "error", "names"), READS.values(), ids=READS.keys())
def test_reading_what_is_not_there_says_what_is(read, error, names, kept):
    check(lambda: read(kept), error, names)


def test_one_prompt_of_a_mean_over_prompts_does_not_exist(model):
    rec = record(model, RAGGED, sites=[], reduce={"z": "mean"}, logits=False)
    check(lambda: rec.prompt(0), SiteNotRecorded, ["z", "reduced over prompts"])


CONFIGS: dict[str, tuple[dict[str, Any], type[ProbeError], list[str]]] = {
    "no layers": (SIZES | {"n_layers": 0}, OutOfRange, ["n_layers 0", "at least 1"]),
    "half a head": (SIZES | {"n_heads": 2.5}, OutOfRange, ["n_heads=2.5", "expected an integer"]),
    "groups that do not divide": (SIZES | {"n_heads": 4, "n_kv_heads": 3}, BadShape, ["4 query heads", "3 key heads"]),
    "unknown norm": (SIZES | {"norm": "layr"}, UnknownName, ["'layr'", "did you mean 'layer'"]),
    "unknown activation": (SIZES | {"activation": "gelu_new"}, UnknownName, ["'gelu_new'", "gelu"]),
    "unknown positions": (SIZES | {"positions": "alibi"}, UnknownName, ["'alibi'", "learned, rotary"]),
    "odd rotary heads": (ROTARY | {"d_head": 3}, BadShape, ["d_head 3", "even"]),
    "scaling without rotation": (
        SIZES | {"rotary_scaling": RotaryScaling("linear", 2.0)},
        UnsupportedModel, ["learned"],
    ),
    "an odd part of each head": (ROTARY | {"rotary_dim": 3}, BadShape, ["rotary_dim 3", "even"]),
    "more than each head": (ROTARY | {"rotary_dim": 400}, BadShape, ["rotary_dim 400", "at most d_head"]),
    "a part of what does not turn": (SIZES | {"rotary_dim": 2}, UnsupportedModel, ["rotary_dim", "learned"]),
    "normalised queries with LayerNorm": (ROTARY | {"qk_norm": True}, UnsupportedModel, ["qk_norm", "RMSNorm"]),
    "normalised queries that do not turn": (SIZES | {"qk_norm": True}, UnsupportedModel, ["qk_norm", "learned"]),
    "LayerNorm after attention": (SIZES | {"post_norms": True}, UnsupportedModel, ["post_norms", "RMSNorm"]),
    "one norm for two streams": (SIZES | {"shared_norm": True}, UnsupportedModel, ["shared_norm", "same stream"]),
    "a cap of nothing": (SIZES | {"logit_soft_cap": 0.0}, OutOfRange, ["logit_soft_cap 0.0", "above 0"]),
    "an endless scale": (SIZES | {"embed_scale": float("inf")}, OutOfRange, ["embed_scale inf", "finite"]),
    "negative theta": (ROTARY | {"rotary_theta": -1.0}, OutOfRange, ["rotary_theta -1.0", "at least 1"]),
    "windows of too few layers": (SIZES | {"windows": ()}, BadShape, ["0 entries for 1 layers"]),
    "a window that sees nothing": (SIZES | {"windows": (0,)}, OutOfRange, ["window of 0", "at least 1"]),
    "negative epsilon": (SIZES | {"norm_eps": -1e-5}, OutOfRange, ["norm_eps -1e-05"]),
    "longrope of another width": (
        ROTARY | {"rotary_scaling": NARROW},
        BadShape, ["short_factor", "1 entries", "2 pairs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("values", "error", "names"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_shape_that_cannot_be_built_is_refused_by_its_config(values, error, names):
    check(lambda: GPTConfig(**values), error, names)


@pytest.mark.parametrize(
    ("values", "error", "names"),
    [
        ({"kind": "ntk"}, UnknownName, ["'ntk'", "linear, dynamic"]),
        ({"kind": "linear", "factor": 0.0}, OutOfRange, ["factor 0.0", "above 0"]),
        ({"kind": "yarn", "factor": 2.0}, UnsupportedModel, ["'yarn'", "original context"]),
        ({"kind": "longrope", "original_n_ctx": 8}, UnsupportedModel, ["short_factor and long_factor"]),
    ],
    ids=["unknown kind", "factor zero", "no original context", "no factors"],
)
def test_a_rotary_scaling_that_cannot_be_computed_is_refused(values, error, names):
    check(lambda: RotaryScaling(**values), error, names)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["save_file", "_write_synced", "os.fsync", "os.replace"])
def test_a_full_disk_leaves_nothing_half_written(step, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(f"probe.store.{step}", full_disk)
    check(lambda: kept.save(tmp_path / "rec"), NotSaved, [str(tmp_path / "rec"), "No space left", "nothing was left"])
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_not_overwritten(kept, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check(lambda: kept.save(tmp_path), NotSaved, [str(tmp_path), "not empty", "another folder"])
    check(lambda: kept.save(tmp_path / "notes.txt"), NotSaved, ["notes.txt", "not empty"])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(kept, tmp_path):
    (tmp_path / "file").write_text("")
    check(lambda: kept.save(tmp_path / "file" / "rec"), NotSaved, ["cannot write into", str(tmp_path / "file")])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_looked_into_is_named(kept, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("probe.store.Path.iterdir", refuse)
    check(lambda: kept.save(tmp_path), NotSaved, [str(tmp_path), "Permission denied"])


def change_manifest(folder, change: Callable[[dict[str, Any]], object]) -> None:
    """By somebody who writes new checksums too."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_checksums(folder)


def replace_manifest(folder, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    write_checksums(folder)


def write_checksums(folder) -> None:
    files = [path for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


DAMAGES: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), ["no manifest.json"]),
    "no tensors": (lambda folder: (folder / "tensors.safetensors").unlink(), ["no tensors.safetensors"]),
    "no checksums": (lambda folder: (folder / "SHA256SUMS").unlink(), ["no SHA256SUMS"]),
    "no checksums in their file": (lambda folder: (folder / "SHA256SUMS").write_text(""), ["SHA256SUMS", "expected"]),
    "checksums of binary": (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff"), ["SHA256SUMS", "read"]),
    "checksums of files elsewhere": (
        lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../../other"), ["SHA256SUMS", "file name"],
    ),
    "manifest cut off": (
        lambda folder: (folder / "manifest.json").write_text('{"kind":'), ["manifest.json", "checksum"],
    ),
    "manifest that is no JSON": (lambda folder: replace_manifest(folder, b"{"), ["manifest.json", "not valid JSON"]),
    "manifest of binary": (lambda folder: replace_manifest(folder, b"\xff\xfe\x00"), ["not valid JSON"]),
    "manifest of a list": (lambda folder: replace_manifest(folder, b"[]"), ["expected a JSON object, got list"]),
    "manifest nested a million deep": (lambda folder: replace_manifest(folder, b"[" * 10**6), ["not valid JSON"]),
    "tensors cut off": (
        lambda folder: (folder / "tensors.safetensors").write_bytes((folder / "tensors.safetensors").read_bytes()[:-1]),
        ["checksum"],
    ),
    "result of another kind": (
        lambda folder: change_manifest(folder, lambda m: m.update(kind="lens")),
        ["not a recording"],
    ),
    "manifest without names": (lambda folder: change_manifest(folder, lambda m: m.pop("names")), ["manifest", "names"]),
    "manifest with too many names": (
        lambda folder: change_manifest(folder, lambda m: m["names"].append("x")),
        ["manifest", "'x'"],
    ),
    "manifest without effects": (
        lambda folder: change_manifest(folder, lambda m: m.pop("effects")),
        ["manifest", "effects"],
    ),
    "manifest of a broken config": (
        lambda folder: change_manifest(folder, lambda m: m["config"].pop("n_layers")),
        ["manifest", "n_layers"],
    ),
    "manifest of an impossible config": (
        lambda folder: change_manifest(folder, lambda m: m["config"].update(n_layers=0)),
        ["n_layers 0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "names"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_recording_is_not_read(damage, names, kept, tmp_path):
    kept.save(tmp_path / "rec")
    damage(tmp_path / "rec")
    check(lambda: Recording.load(tmp_path / "rec"), BrokenFile, [str(tmp_path / "rec"), *names])


def test_a_recording_that_is_not_there_is_no_recording(tmp_path):
    check(lambda: Recording.load(tmp_path / "nowhere"), BrokenFile, ["nowhere", "manifest.json"])
