"""What do attention, the key/value cache, all positions at once, and tokenisation cost and save?

Times are medians of alternating runs on this machine, so that what else it does falls on all of them.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import pandas
import torch
from _script import Answer, Say, main, origin

import probe
from probe.attention import KeyValueCache
from probe.errors import BadPrompt
from probe.figures.page import PageSection, Table
from probe.flop_count import attention_flops
from probe.prompts import read_prompts

QUESTION = "What does attention cost, what do caches and tokens save?"
LENGTHS = (64, 128, 256, 512, 1024, 2048)
QUICK_LENGTHS = (16, 32)
GENERATED = 48
"""Tokens made with and without a cache."""
TEXT = (
    "Once upon a time there was a small village at the foot of a mountain. The people who lived there kept sheep and "
    "grew apples, and in the long evenings of the winter they told one another stories about the old king, who had "
    "gone up the mountain one day to look for the source of the river and had never come back."
)
REPEATS = 5


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Four measurements, each of both sides in turn."""
    if model.tokenizer is None:
        raise BadPrompt(f"{model.name} has no tokenizer, and the analyses read text")
    lengths = [n for n in (QUICK_LENGTHS if quick else LENGTHS) if n <= model.config.n_ctx]
    repeats = 1 if quick else REPEATS
    with torch.inference_mode():
        say("longer and longer contexts")
        growth = _growth(model, lengths, repeats)
        say("with and without a key/value cache")
        caching = _caching(model, 8 if quick else GENERATED, repeats)
        say("all positions at once and one by one")
        parallel = _parallel(model, 16 if quick else 256, repeats)
        say("tokens and letters")
        letters = _letters(model, repeats)
    threads = torch.get_num_threads()
    return Answer(
        question=QUESTION,
        lead=[f"{model.name} on {model.device} with {threads} threads; medians of {repeats} alternating runs."],
        sections=[section for section, _ in (growth, caching, parallel, letters)],
        table=pandas.concat([table for _, table in (growth, caching, parallel, letters)]),
        manifest=origin(model, lengths=lengths, text=TEXT, repeats=repeats, threads=threads),
    )


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each, run in turn after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_, (name, run) in itertools.product(range(repeats + 1), runs.items()):
        begin = time.perf_counter()
        run()
        if round_:
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def pattern_bytes(config: probe.GPTConfig, n: int) -> int:
    """Bytes of all heads' patterns in float32."""
    return config.n_layers * config.n_heads * n * n * 4


def _growth(model: probe.GPT, lengths: list[int], repeats: int) -> tuple[PageSection, pandas.DataFrame]:
    """Time, share of attention in the products, and size of the patterns, by length."""
    prompts = {str(n): _random(model, n) for n in lengths}
    fused = medians({name: lambda ids=ids: model(ids) for name, ids in prompts.items()}, repeats)
    rows = []
    for n in lengths:
        share = attention_flops(model.config, n) / probe.plan_recording(model, prompts[str(n)]).flops
        rows.append({
            "length": n, "seconds": fused[str(n)], "ms_per_token": fused[str(n)] / n * 1e3,
            "attention_share": share, "pattern_mb": pattern_bytes(model.config, n) / 1e6,
        })  # fmt: skip
    table = pandas.DataFrame(rows)
    lines = [
        (f"{row.length:,}", f"{row.seconds:.3f}", f"{row.ms_per_token:.3f}", f"{row.attention_share:.1%}",
         f"{row.pattern_mb:,.1f}") for row in table.itertuples()
    ]  # fmt: skip
    of_one = attention_flops(model.config, 1)
    crossing = (probe.plan_recording(model, _random(model, 1)).flops - of_one) / of_one
    words = (
        "Scores and patterns grow with the square of the length, every other product with the length itself. Share of "
        "attention in all multiplications, if masked entries are computed too; it would be one half at "
        f"{crossing:,.0f} tokens. The patterns of all heads, where they are kept (float32):"
    )
    columns = ("tokens", "seconds", "ms per token", "attention's share", "patterns, MB")
    section = PageSection("Attention's cost", "quadratic in context", [words], table=Table(columns, lines))
    return section, table.assign(about="growth")


def _caching(model: probe.GPT, n_new: int, repeats: int) -> tuple[PageSection, pandas.DataFrame]:
    """One greedy continuation with a cache and without."""
    prompt = list(read_prompts(model.config, model.tokenizer, TEXT).ids[0])
    assert _continue_cached(model, prompt, n_new) == _continue_anew(model, prompt, n_new), "the cache changed the text"
    seconds = medians(
        {
            "cached": lambda: _continue_cached(model, prompt, n_new),
            "anew": lambda: _continue_anew(model, prompt, n_new),
        },
        repeats,
    )
    table = pandas.DataFrame([{"way": way, "seconds": value} for way, value in seconds.items()])
    words = (
        f"{n_new} tokens after {len(prompt)}, always the likeliest: {seconds['cached']:.2f} s with the keys and values "
        f"of earlier tokens kept, {seconds['anew']:.2f} s with the whole text run again for each: "
        f"{seconds['anew'] / seconds['cached']:.1f} times as long. Both say the same."
    )
    return PageSection("What the cache saves", "key/value cache", [words]), table.assign(about="cache")


def _continue_cached(model: probe.GPT, prompt: list[int], n_new: int) -> list[int]:
    cache, ids = KeyValueCache(len(prompt) + n_new), list(prompt)
    new = ids
    for _ in range(n_new):
        new = [int(model(torch.tensor([new], device=model.device), cache=cache)[0, -1].argmax())]
        ids += new
    return ids


def _continue_anew(model: probe.GPT, prompt: list[int], n_new: int) -> list[int]:
    ids = list(prompt)
    for _ in range(n_new):
        ids.append(int(model(torch.tensor([ids], device=model.device))[0, -1].argmax()))
    return ids


def _parallel(model: probe.GPT, n: int, repeats: int) -> tuple[PageSection, pandas.DataFrame]:
    """One pass over n tokens, against n passes over one each (with a cache, so that both do the same sums)."""
    ids = _random(model, n)

    def one_by_one() -> None:
        cache = KeyValueCache(n)
        for position in range(n):
            model(ids[:, position : position + 1], cache=cache)

    seconds = medians({"at once": lambda: model(ids), "one by one": one_by_one}, repeats)
    table = pandas.DataFrame([{"way": way, "seconds": value} for way, value in seconds.items()])
    words = (
        f"{n} tokens at once: {seconds['at once']:.3f} s. The same tokens one by one, with a cache: "
        f"{seconds['one by one']:.2f} s, {seconds['one by one'] / seconds['at once']:.1f} times as long: each weight "
        "is then fetched from memory for one vector instead of for all."
    )
    return PageSection("All positions at once", "parallelism", [words]), table.assign(about="parallel")


def _letters(model: probe.GPT, repeats: int) -> tuple[PageSection, pandas.DataFrame]:
    """The text as the model's tokens, and as many tokens as it has letters."""
    n_tokens, n_letters = len(read_prompts(model.config, model.tokenizer, TEXT).ids[0]), len(TEXT)
    by_tokens, by_letters = _random(model, n_tokens), _random(model, n_letters)
    seconds = medians({"tokens": lambda: model(by_tokens), "letters": lambda: model(by_letters)}, repeats)
    table = pandas.DataFrame([{"way": way, "seconds": value} for way, value in seconds.items()])
    words = (
        f"A text of {n_letters} letters is {n_tokens} tokens, {n_letters / n_tokens:.1f} letters each: "
        f"{seconds['tokens']:.3f} s. As many tokens as letters take {seconds['letters']:.3f} s, "
        f"{seconds['letters'] / seconds['tokens']:.1f} times as long, and the context of {model.config.n_ctx:,} would "
        f"hold {n_letters / n_tokens:.1f} times less text."
    )
    return PageSection("What tokens save", "tokenisation", [words]), table.assign(about="letters")


def _random(model: probe.GPT, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(model.config.d_vocab, (1, n), generator=generator).to(model.device)


if __name__ == "__main__":
    main(QUESTION, ask)
