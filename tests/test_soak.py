"""Ten thousand calls of every kind, mistakes among them: memory stays flat, and so do the numbers, in threads too."""

import gc
import itertools
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

import probe
from probe.errors import BadIntervention, ProbeError
from tests.tiny import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_users_run_it")]

PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]
EQUAL, CORRUPTED = [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 9, 3, 4], [5, 10, 7, 8]]
CALLS, THREADS = 10_000, 6


def jobs_on(folder: Path) -> list[tuple[int, Callable[[], Any]]]:
    """(how often, a function of nothing that always gives the same numbers)."""
    model = tiny_model("llama")
    metric = probe.logit_difference(1, 2)
    lens = probe.fit_tuned_lens(model, n_tokens=256, progress=False)
    vector = torch.linspace(-1, 1, 32)
    number = itertools.count()
    swept: dict[str, Any] = {"metric": metric, "progress": False}

    def record(**arguments: Any) -> Callable[[], Any]:
        return lambda: list(probe.record(model, PROMPTS, **arguments).values.values())

    def of_recording() -> Any:
        rec = probe.record(model, PROMPTS, interventions=probe.zero("z", layer=1, heads=0))
        readout = probe.logit_lens(model, rec, tuned=lens)
        found = probe.direct_logit_attribution(model, probe.record(model, EQUAL), token=3)
        return [readout.kl_to_final, found.contributions, probe.read_pattern(rec, 1, 1).pattern]

    def generate() -> Any:
        return probe.generate(model, [1, 2], max_tokens=3, seed=0, interventions=probe.scale("z", 0.5)).run().ids

    def sweep() -> Any:
        return [probe.ablation_sweep(model, EQUAL, layers=[1], **swept).effects]

    def patch() -> Any:
        return [probe.activation_patching(model, EQUAL, CORRUPTED, "z", layers=[1], **swept).patched]

    def in_pieces() -> Any:
        place = folder / f"pieces-{next(number)}"
        found = probe.ablation_sweep(model, EQUAL, layers=[0], value="zero", folder=place, **swept).effects
        shutil.rmtree(place)
        return [found]

    def save_and_load() -> Any:
        place = folder / f"recording-{next(number)}"
        probe.record(model, PROMPTS, sites=["z"]).save(place)
        found = list(probe.Recording.load(place).values.values())
        shutil.rmtree(place)
        return found

    def gradient() -> Any:
        rec = probe.record(model, PROMPTS, sites=["z"], grad=True)
        return list(torch.autograd.grad(rec.logits[0, -1, 3], [rec["z", 0]]))

    def mistake(error: type[Exception], **arguments: Any) -> Callable[[], Any]:
        def call() -> Any:
            with pytest.raises(error):
                probe.record(model, PROMPTS, **arguments)
            return []

        return call

    return [
        (20, record(sites=["resid_post"], positions=-1)),
        (10, record()),
        (10, record(interventions=[probe.add("resid_mid", vector, layer=0), probe.zero("z", heads=[1])])),
        (10, record(sites=[], reduce={"z": "mean", "pattern": "mean per position"}, dtype="bfloat16")),
        (10, record(stop_after_layer=1, interventions=probe.project_out("resid_post", vector, layer=0))),
        (5, gradient),
        (5, of_recording),
        (3, generate),
        (2, sweep),
        (2, patch),
        (1, in_pieces),
        (3, save_and_load),
        (5, mistake(ProbeError, sites=["nonsense"])),
        (5, mistake(BadIntervention, interventions=probe.edit("z", lambda value: value * torch.nan, layer=1))),
        (5, mistake(ZeroDivisionError, interventions=probe.edit("z", lambda value: 1 // 0, layer=1))),
        (5, mistake(ProbeError, positions="x")),
    ]


def bits(values: Any) -> list[Any]:
    """Equal only if every bit is, NaN included."""
    return [
        one.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() if isinstance(one, Tensor) else one
        for one in values
    ]


@pytest.fixture
def jobs(tmp_path):
    """As often as they are to be called; all with one of torch's own threads, so that sums round alike everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield [job for times, job in jobs_on(tmp_path) for _ in range(times)]
    torch.set_num_threads(before)


def alive() -> tuple[int, int, float]:
    """Tensors, objects and megabytes."""
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(one), Tensor) for one in objects)
    return tensors, len(objects), psutil.Process().memory_info().rss / 1e6


def test_ten_thousand_calls_leave_no_tensor_and_no_memory_behind(jobs, tmp_path):
    expected = {job: bits(job()) for job in dict.fromkeys(jobs)}
    rng = random.Random(0)
    for job in rng.choices(jobs, k=500):  # caches and the allocator's pools fill up
        job()
    tensors, objects, megabytes = alive()
    for count, job in enumerate(rng.choices(jobs, k=CALLS)):
        found = bits(job())
        assert count % 10 or found == expected[job], "the same call gives the same numbers"
        del found
    after = alive()
    assert after[0] == tensors
    assert after[1] - objects < 200, "objects do not pile up: less than one for fifty calls"
    assert after[2] - megabytes < 20, f"{after[2] - megabytes:.1f} MB more after {CALLS:,} calls"
    assert not list(tmp_path.iterdir())


def test_calls_of_every_kind_in_threads_give_the_numbers_of_calls_one_by_one(jobs):
    expected = {job: bits(job()) for job in dict.fromkeys(jobs)}
    order = random.Random(1).choices(jobs, k=1_500)

    def work(mine: list[Callable[[], Any]]) -> list[Callable[[], Any]]:
        return [job for job in mine if bits(job()) != expected[job]]

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [job for found in pool.map(work, (order[i::THREADS] for i in range(THREADS))) for job in found]
    assert not wrong
