"""What a sweep over all heads costs, against a loop of TransformerLens `run_with_hooks` passes on the same weights.

    python tests/benchmarks/ablation.py [--model NAME_OR_PATH] [--json FILE] [--blocks N] [--threads N] [--quick]

First it is checked that both give the same logit differences, for every head; then both sides are timed alternately,
the loop on a sample of heads that is spread over all layers. Memory is the growth of the process over a sweep.
"""

import ctypes
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here already

import psutil
import torch
from _measure import Measured, compare, hardware, read_options, write_json

import probe

PROMPT = "When Mary and John went to the store, John gave a drink to"
LONG = 256
SAMPLED = 30
"""Heads that the loop is timed on; all of them are compared."""


def main() -> None:
    """Measure and print; write JSON if asked."""
    arguments = read_options(
        __doc__.splitlines()[0],
        lambda parser: parser.add_argument("--blocks", type=int, default=3, help="of A B B A; left out: 3"),
    )
    blocks, long = (2, 32) if arguments.quick else (arguments.blocks, LONG)
    model = probe.load_model(arguments.model)
    bridge = as_bridge(model)
    print(f"{model.name} on {hardware()}", flush=True)
    found = []
    for length, bar in ((None, 1 / 8), (long, 1 / 2.5)):
        ids = prompt_of(model, length)
        pairs = blocks if length is None else 2  # half a minute for each sweep
        found += case(model, bridge, ids, pairs, bar, sampled=6 if arguments.quick else SAMPLED)
    write_json(arguments.json, model.name, found)


def case(model: probe.GPT, bridge, ids: list[int], blocks: int, bar: float, *, sampled: int) -> list[Measured]:
    """One prompt: the same numbers, then times, then memory."""
    target, against = (model.tokenizer.token_id(text) for text in (" Mary", " John"))
    heads = [(layer, head) for layer in range(model.config.n_layers) for head in range(model.config.n_heads)]
    spread = heads[:: len(heads) // sampled]

    def ours():
        return probe.ablation_sweep(
            model, ids, metric=probe.logit_difference(target, against), value="zero", progress=False
        )

    def loop(some):
        return [edited_pass(bridge, ids, layer, head, target, against) for layer, head in some]

    sweep, every = ours(), heads if len(ids) < 64 else spread
    theirs = torch.tensor(loop(every)) - loop_clean(bridge, ids, target, against)
    mine = sweep.effects[[heads.index(head) for head in every], 0]
    worst = float((mine - theirs).abs().max())
    print(f"{len(ids)} tokens, {len(every)} heads compared: largest difference {worst:.1e} logits", flush=True)
    one = compare(f"sweep / loop over {len(spread)} heads", ours, lambda: loop(spread), pairs=blocks)
    share = len(heads) / len(spread)
    scaled = Measured(
        f"all {len(heads)} heads, {len(ids)} tokens: probe / TransformerLens", one.value / share, one.low / share,
        one.high / share, "ratio", f"{1 / (one.value / share):.1f} times faster; {one.detail}; worst {worst:.1e}", bar,
    )  # fmt: skip
    print(scaled, flush=True)
    budget = 200_000_000
    plan = probe.plan_ablation(model, ids, metric=probe.logit_difference(target, against), value="zero", memory=budget)
    grown = growth(
        lambda: probe.ablation_sweep(
            model, ids, metric=probe.logit_difference(target, against), value="zero", memory=budget, progress=False
        )
    )
    name = f"{len(ids)} tokens: memory of a sweep, budget {budget / 1e6:.0f} MB"
    memory = Measured(name, grown / 1e6, grown / 1e6, grown / 1e6, "MB", f"planned {plan.bytes / 1e6:.0f} MB", 200.0)
    print(memory, flush=True)
    return [scaled, memory]


def as_bridge(model: probe.GPT):
    """The same weights in TransformerLens, with its hooks."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(Path(folder) / "model")
        return TransformerBridge.boot_transformers(str(Path(folder) / "model"), dtype=torch.float32)


def prompt_of(model: probe.GPT, length: int | None) -> list[int]:
    """The indirect-object prompt, at the end of so many tokens."""
    ids = model.tokenizer.encode(PROMPT)
    if length is None:
        return ids
    filler = model.tokenizer.encode(" The people of the town went about their work, as they did on every other day.")
    before = (filler * (length // len(filler) + 1))[: length - len(ids)]
    return [*before, *ids]


@torch.inference_mode()
def edited_pass(bridge, ids: list[int], layer: int, head: int, target: int, against: int) -> float:
    """One head's z set to zero after the first position, through hooks."""

    def zero(z, hook):
        z[:, 1:, head] = 0.0
        return z

    logits = bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
    return float(logits[0, -1, target] - logits[0, -1, against])


@torch.inference_mode()
def loop_clean(bridge, ids: list[int], target: int, against: int) -> float:
    """Nothing replaced."""
    logits = bridge(torch.tensor([ids]))
    return float(logits[0, -1, target] - logits[0, -1, against])


def growth(call: Callable) -> float:
    """Bytes by which the process grows at most while the call runs."""
    process, done, most = psutil.Process(), threading.Event(), []

    def watch() -> None:
        while not done.is_set():
            most.append(process.memory_info().rss)
            time.sleep(0.002)

    ctypes.CDLL(None).malloc_trim(0)  # what was freed before goes back, or the call would grow into it unseen
    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return max(most) - before


if __name__ == "__main__":
    main()
