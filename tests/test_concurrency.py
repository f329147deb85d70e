"""Any number of threads use one model at once; no call leaves anything behind, however it ends."""

import gc
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

import probe
from probe.errors import BadIntervention
from probe.gpt import GPT
from tests.tiny import CONFIGS, tiny_model, tiny_tokens

THREADS, CALLS = 8, 500
ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("as_users_run_it")  # checks of annotations would take most of the time


@pytest.fixture(params=CONFIGS)
def model(request) -> GPT:
    return tiny_model(request.param).eval()


@pytest.fixture(autouse=True)
def one_torch_thread_each():
    """A sum split over another number of torch's own threads rounds otherwise. What is tested is whether calls meet,
    so every call, serial or not, gets one of them: then equal means equal bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def jobs_on(model: GPT, prompts: list[list[int]]) -> list[Callable[[], dict[str, Tensor]]]:
    """One of each kind of call. All are functions of nothing, so the same job always has the same result."""
    last = model.config.n_layers - 1
    middle = last // 2 + 1
    tokens = torch.tensor(prompts[:1])
    resid = probe.record(model, tokens, sites="resid_pre", logits=False)["resid_pre", middle]
    vector = torch.linspace(-1, 1, model.config.d_model)

    def recorded(prompts, **arguments) -> Callable[[], dict[str, Tensor]]:
        return lambda: dict(probe.record(model, prompts, **arguments).values)

    def plain() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"logits": model(tokens)}

    def gradient() -> dict[str, Tensor]:
        rec = probe.record(model, prompts, sites=["z"], grad=True)
        of = [rec["z", layer] for layer in (0, last)]
        return dict(zip(("first", "last"), torch.autograd.grad(rec.logits[0, -1, 3], of), strict=True))

    def halved(value: Tensor) -> Tensor:
        value *= 0.5  # in place: it must be a copy that nobody else sees
        return value

    return [
        plain,
        gradient,
        recorded(tokens),
        recorded(prompts),
        recorded(prompts, sites=["resid_post"], positions=-1),
        recorded(tokens, sites=["pattern", "k"], layers=[0, last], heads=0),
        recorded(tokens, sites=["z"], stop_after_layer=0),
        recorded(prompts, sites=["resid_post"], stop_after_layer=middle),
        recorded(resid, start_at_layer=middle),
        recorded(resid, start_at_layer=middle, interventions=probe.zero("z", layer=last)),
        recorded(prompts, sites=[], reduce={"resid_post": "mean", "pattern": "mean per position"}),
        recorded(tokens, sites=[], reduce={"z": lambda value, real: value.square().sum((0, 1))}),
        recorded(tokens, interventions=[probe.zero("z", heads=[h]) for h in range(2)]),
        recorded(prompts, sites=["z", "resid_post"], interventions=probe.zero("mlp_out", positions=-1)),
        recorded(prompts, interventions=probe.edit("pattern", halved, layer=middle)),
        recorded(tokens, sites=["resid_post"], interventions=probe.add("resid_mid", vector, layer=0)),
        recorded(tokens, sites=[], interventions=probe.project_out("resid_post", vector)),
        recorded(tokens, sites=["attn_out"], interventions=probe.scale("attn_out", -1.0), dtype=torch.bfloat16),
    ]


def bits(values: dict[str, Tensor]) -> dict[str, bytes]:
    """Equal only if every bit is, NaN included."""
    return {name: value.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, value in values.items()}


def test_calls_of_eight_threads_equal_the_serial_ones_bit_for_bit(model):
    run_in_threads(model, [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]], calls=CALLS)


@pytest.mark.slow
@pytest.mark.model
def test_calls_of_eight_threads_equal_the_serial_ones_on_the_default_model(default_model):
    run_in_threads(default_model, [[0, 504, 3575, 282, 4649, 314], [0, 1780, 5345]], calls=CALLS)


def run_in_threads(model: GPT, prompts: list[list[int]], *, calls: int) -> None:
    jobs = jobs_on(model, prompts)
    serial = [bits(job()) for job in jobs]
    assert len({tuple(result.items()) for result in serial}) == len(jobs), "two jobs that cannot be told apart"
    order = random.Random(0).choices(range(len(jobs)), k=calls)
    start = threading.Barrier(THREADS)

    def work(numbers: list[int]) -> list[int]:
        assert torch.get_num_threads() == 1
        start.wait()
        return [number for number in numbers if bits(jobs[number]()) != serial[number]]

    before = state_of(model)
    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [number for found in pool.map(work, (order[i::THREADS] for i in range(THREADS))) for number in found]
    assert not wrong, f"{len(wrong)} of {calls} calls differ from the serial ones: jobs {sorted(set(wrong))}"
    assert state_of(model) == before


def state_of(model: GPT) -> dict[str, object]:
    """All that hangs on a model: attributes, hooks, buffers and weights (their memory, how often it was written)."""
    state: dict[str, object] = {}
    for name, module in model.named_modules():
        state[name] = {key: repr(value) for key, value in vars(module).items() if not isinstance(value, Tensor)}
        state[f"{name} buffers"] = list(module._buffers)
    for name, weight in model.named_parameters():
        state[f"{name} weight"] = (id(weight), weight.data_ptr(), weight._version, weight.requires_grad, weight.grad)
    return state


def test_no_call_changes_the_model(model):
    before, weights = state_of(model), {name: weight.clone() for name, weight in model.state_dict().items()}
    for job in jobs_on(model, [[1, 2, 3, 4], [5, 6]]):
        job()
    for fail in failures_on(model):
        fail()
    assert state_of(model) == before
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_no_tensor_of_a_call_outlives_its_result(model):
    jobs = jobs_on(model, [[1, 2, 3, 4], [5, 6]])
    for job in [*jobs, *failures_on(model)]:
        job()  # the first time, torch keeps some constants of its own
        with new_tensors() as survivors:
            job()
            assert not survivors(), "freed at once, not when the garbage collector comes by"


def test_no_tensor_of_many_threads_outlives_its_call(model):
    jobs = [*jobs_on(model, [[1, 2, 3, 4], [5, 6]]), *failures_on(model)]

    def work(numbers: list[int]) -> None:
        for number in numbers:
            jobs[number]()

    def run() -> None:
        order = random.Random(1).choices(range(len(jobs)), k=80)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, (order[i::THREADS] for i in range(THREADS))))

    run()
    with new_tensors() as survivors:
        run()
        assert not survivors()


@contextmanager
def new_tensors() -> Iterator[Callable[[], list[tuple[int, ...]]]]:
    """A function that lists the shapes of all tensors made since, and still alive. The garbage collector rests
    meanwhile: what only it would free stays for as long as it pleases, and a recording can take gigabytes."""
    gc.collect()
    gc.freeze()  # what is there already is out of `get_objects`
    gc.disable()
    try:
        yield lambda: [tuple(thing.shape) for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    finally:
        gc.enable()
        gc.unfreeze()


def failures_on(model: GPT) -> list[Callable[[], None]]:
    """Calls that fail in the middle of a pass, each in its own way."""
    tokens = tiny_tokens()

    class UsersOwnError(Exception):
        pass

    def raises(value: Tensor) -> Tensor:
        raise UsersOwnError

    def failing(error: type[Exception], function: Callable[[Tensor], object], **arguments) -> Callable[[], None]:
        def call() -> None:
            with pytest.raises(error):
                probe.record(model, tokens, interventions=probe.edit("z", function, layer=1), **arguments)

        return call

    return [
        failing(UsersOwnError, raises),
        failing(UsersOwnError, raises, grad=True),
        failing(BadIntervention, lambda value: value * torch.nan),
        failing(BadIntervention, lambda value: value[:, :1]),
        failing(BadIntervention, lambda value: value * torch.inf, reduce={"z": "mean"}),
        failing(BadIntervention, lambda value: None),
    ]


def test_a_call_after_a_failed_one_is_as_if_nothing_had_happened(model):
    def first_and_last() -> list[dict[str, bytes]]:
        return [bits(job()) for job in jobs_on(model, [[1, 2, 3, 4], [5, 6]])[:4]]

    before = first_and_last()
    for fail in failures_on(model):
        fail()
        assert torch.is_grad_enabled(), "a failed call leaves torch's own switch as it was"
        assert first_and_last() == before


def test_a_failing_call_in_one_thread_disturbs_no_other(model):
    jobs = jobs_on(model, [[1, 2, 3, 4], [5, 6]])
    serial = [bits(job()) for job in jobs]
    fails = failures_on(model)

    def work(thread: int) -> bool:
        if thread % 2:
            for fail in fails * 3:
                fail()
            return True
        return all(bits(job()) == expected for job, expected in zip(jobs, serial, strict=True))

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


def test_an_edit_may_record_the_same_model_itself(model):
    tokens = tiny_tokens()
    inner = []

    def look_twice(value: Tensor) -> Tensor:
        inner.append(probe.record(model, tokens, sites=["z"], interventions=probe.zero("z", layer=0)))
        return value

    rec = probe.record(model, tokens, interventions=probe.edit("z", look_twice, layer=1))
    expected = probe.record(model, tokens)
    assert bits(dict(rec.values)) == bits(dict(expected.values))
    assert not inner[0]["z", 0].any()


GRAPHS_AND_PASSES = """
import threading, time
import torch
import probe
from tests.tiny import tiny_model, tiny_tokens

torch.set_num_threads(1)
model, tokens, end = tiny_model("llama"), tiny_tokens(), time.monotonic() + 6

def passes():
    while time.monotonic() < end:
        with torch.no_grad():
            model(tokens)

def graphs():
    while time.monotonic() < end:
        model.W_O[1, 1].double().mul(2.0).sum()
        torch.randn(64, 64) @ torch.randn(64, 64)

threads = [threading.Thread(target=work) for work in (passes, passes, graphs) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_a_thread_that_begins_graphs_does_not_bring_the_others_to_a_stop():
    """In another process, since threads that wait for each other for ever cannot be stopped: see probe/linear.py."""
    subprocess.run([sys.executable, "-c", GRAPHS_AND_PASSES], check=True, timeout=120, cwd=ROOT)
