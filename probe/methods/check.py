"""Identities that hold for any GPT, measured on a model: does this one compute what it should?

Prompts are random tokens, so that nothing depends on a tokenizer. Source: the algebra of the forward pass in `gpt.py`;
Elhage et al., "A mathematical framework for transformer circuits" (2021), for sums over heads.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import NumbersBroke, UnsupportedModel
from probe.gpt import GPT
from probe.provenance import provenance
from probe.recording import record
from probe.shown import Shown, Summary
from probe.sites import post_scales

if TYPE_CHECKING:
    import pandas

STEP = 16
"""Tolerance of what one step of a pass computes, in units of the dtype's rounding error (2^-23 in float32). A sum of n
products of rounded numbers is off by about sqrt(n) / 4 of these at most, and kernels sum in blocks. Seen on the default
model: 3.3 in float32, 1.6 in bfloat16."""
PASS = 64
"""Tolerance of two passes through all layers, in the same units: every layer's rounding goes on through the next ones.
Seen on the default model, 30 layers: 19 in float32, 5 in bfloat16 and float16. A mistake shows as about 1, whatever the
dtype, so the tolerance is below it even in bfloat16 (0.5)."""
LENGTHS = (12, 9, 5)
"""Tokens of the three prompts."""


@dataclass(frozen=True)
class CheckedIdentity:
    """One identity on one model."""

    identity: str
    measured: float
    """The largest difference of the two sides over all vectors, each relative to the size (root mean square) of what is
    compared; NaN: the sides could not be computed."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.measured <= self.tolerance


@dataclass(frozen=True)
class CheckReport(Shown):
    """What `check_model` measured."""

    model: str
    rows: tuple[CheckedIdentity, ...]
    notes: tuple[str, ...]
    """What was left out, and why."""
    manifest: dict[str, Any]
    """Where the numbers come from."""

    @property
    def passed(self) -> bool:
        """Whether every identity holds."""
        return all(row.passed for row in self.rows)

    def summary(self) -> Summary:
        """How many identities hold."""
        failed = [row.identity for row in self.rows if not row.passed]
        facts = {"do not hold": "; ".join(failed)} if failed else {}
        return Summary(f"{len(self.rows) - len(failed)} of {len(self.rows)} identities hold", facts, self.model)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per identity."""
        import pandas  # half a second that only tables need

        rows = [(row.identity, row.measured, row.tolerance, row.passed) for row in self.rows]
        return pandas.DataFrame(rows, columns=["identity", "measured", "tolerance", "passed"])


def check_model(
    model: GPT, *, source: Any = None, seed: int = 0, say: Callable[[str], object] = lambda message: None
) -> CheckReport:
    """Measure the identities; with `source`, what `load_model` was given, also the same files through Hugging Face.

    `say` hears what is being done (Hugging Face takes seconds).

    Raises:
        ProbeError: files that Hugging Face should read and cannot.
    """
    eps = float(torch.finfo(model.dtype).eps)
    prompts = _random_prompts(model, seed)
    rows, notes = [], []
    for identity, (measure, units) in IDENTITIES.items():
        say(f"checking: {identity}")
        rows.append(CheckedIdentity(identity, _measured(measure, model, prompts), units * eps))
    if source is not None:
        measured, note = _against_hugging_face(model, source, prompts, say)
        rows += [] if measured is None else [CheckedIdentity("logits = those of Hugging Face", measured, PASS * eps)]
        notes += [note] if note else []
    manifest = {**provenance(model), "method": "check", "arguments": {"seed": seed, "lengths": list(map(len, prompts))}}
    return CheckReport(model.name, tuple(rows), tuple(notes), manifest)


def relative_difference(
    ours: Float[Tensor, "*any d"], theirs: Float[Tensor, "*any d"], size: Float[Tensor, "*any"] | None = None
) -> float:
    """The largest, over all vectors, of rms(ours - theirs) / size; size None: rms(theirs). 0 where both are equal."""
    difference = _rms(ours.double() - theirs.double())
    relative = difference / (_rms(theirs.double()) if size is None else size.double())
    return float(torch.where(difference == 0, 0.0, relative).max())  # max of NaN is NaN


def _rms(x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any"]:
    return x.square().mean(-1).sqrt()


def _measured(measure: Callable[[GPT, list[list[int]]], float], model: GPT, prompts: list[list[int]]) -> float:
    try:
        with torch.no_grad():
            return measure(model, prompts)
    except NumbersBroke:  # a model whose pass ends in NaN fails every identity
        return float("nan")


def _random_prompts(model: GPT, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = [min(length, model.config.n_ctx) for length in LENGTHS]
    return [torch.randint(model.config.d_vocab, (length,), generator=generator).tolist() for length in lengths]


def _stream_is_a_sum(model: GPT, prompts: list[list[int]]) -> float:
    """Relative to the longest vector on the way: what is added and taken away again leaves rounding of its own size.
    (The first token's vector is a hundred times longer in the middle of some models than at the end.)"""
    rec = record(model, prompts[0], logits=False)
    parts = [rec[name].double() for name in rec.names if name.endswith(("embed", "attn_out", "mlp_out"))]
    longest = _rms(rec.stack("resid_post").double()).amax(0)
    return relative_difference(torch.stack(parts).sum(0), rec["resid_post", -1], longest)


def _heads_sum_to_attention(model: GPT, prompts: list[list[int]]) -> float:
    """Relative to the longest result of a head, since heads may cancel."""
    scales = post_scales(model.config)[:1]
    rec, worst = record(model, prompts[0], sites=["z", "attn_out", *scales], logits=False), []
    for layer in range(model.config.n_layers):
        results = torch.einsum("bphd,hdm->hbpm", rec["z", layer].double(), model.W_O[layer].double())
        bias = model.b_O[layer].double() if model.config.attn_out_bias else torch.zeros(())
        if scales:  # a norm after attention: linear too, for what it divided by
            stretch = model.blocks[layer].ln1_post.gain.double() / rec["ln1_post.scale", layer].double()  # type: ignore[union-attr]
            results, bias = results * stretch, bias * stretch
        longest = torch.maximum(_rms(results).amax(0), _rms(rec["attn_out", layer].double()))
        worst.append(relative_difference(results.sum(0) + bias, rec["attn_out", layer], longest))
    return _largest(worst)


def _pattern_rows_sum_to_one(model: GPT, prompts: list[list[int]]) -> float:
    patterns = record(model, prompts[0], sites=["pattern"], logits=False).stack("pattern").double()
    return float((patterns.sum(-1) - 1).abs().max())


def _no_token_looks_ahead(model: GPT, prompts: list[list[int]]) -> float:
    patterns = record(model, prompts[0], sites=["pattern"], logits=False).stack("pattern")
    return float(patterns.triu(1).abs().max())


def _last_stream_gives_logits(model: GPT, prompts: list[list[int]]) -> float:
    rec = record(model, prompts[0], sites=["resid_post"])
    return relative_difference(model.read_out(rec["resid_post", -1]), rec.logits)


def _fused_is_step_by_step(model: GPT, prompts: list[list[int]]) -> float:
    fused = model(torch.tensor(prompts[:1], device=model.device))
    return relative_difference(record(model, prompts[0], sites=["pattern"]).logits, fused)


def _batch_is_its_rows(model: GPT, prompts: list[list[int]]) -> float:
    return _rows_alone(model, [prompt[: len(prompts[-1])] for prompt in prompts])


def _padded_row_is_its_prompt(model: GPT, prompts: list[list[int]]) -> float:
    return _rows_alone(model, prompts)


def _rows_alone(model: GPT, prompts: list[list[int]]) -> float:
    together = record(model, prompts, sites=["resid_post"], logits=False)
    worst = []
    for row, prompt in enumerate(prompts):
        alone, of_batch = record(model, prompt, sites=["resid_post"], logits=False), together.prompt(row)
        for name in alone.values:
            worst.append(relative_difference(of_batch[name], alone[name]))
    return _largest(worst)


def _middle_reproduces_the_rest(model: GPT, prompts: list[list[int]]) -> float:
    middle = model.config.n_layers // 2
    whole = record(model, prompts[0], sites=["resid_pre", "resid_post"])
    rest = record(model, whole["resid_pre", middle], start_at_layer=middle, sites=["resid_post"])
    return _largest([relative_difference(rest[name], whole[name]) for name in rest.values])


def _largest(numbers: Sequence[float]) -> float:
    return float(torch.tensor(numbers, dtype=torch.float64).max())  # unlike max(), NaN if one is


def _against_hugging_face(
    model: GPT, source: Any, prompts: list[list[int]], say: Callable[[str], object]
) -> tuple[float | None, str | None]:
    """The difference, or why there is none."""
    if importlib.util.find_spec("transformers") is None:
        return None, "Not compared with Hugging Face: transformers is not installed."
    from probe.weights.parity import huggingface_logits

    say("checking: the same files through Hugging Face (this takes a while)")
    tokens = torch.tensor(prompts[:1])
    try:
        theirs = huggingface_logits(source, tokens, dtype=model.dtype)
    except UnsupportedModel as error:
        return None, f"Not compared with Hugging Face: {error}"
    with torch.no_grad():
        return relative_difference(model(tokens.to(model.device)).cpu(), theirs), None


IDENTITIES: dict[str, tuple[Callable[[GPT, list[list[int]]], float], int]] = {
    "embedding + all attn_out + all mlp_out = last resid_post": (_stream_is_a_sum, STEP),
    "sum over heads of z W_O, + b_O = attn_out": (_heads_sum_to_attention, STEP),
    "pattern rows sum to 1": (_pattern_rows_sum_to_one, STEP),
    "no token looks ahead": (_no_token_looks_ahead, 0),
    "unembedded last resid_post = logits": (_last_stream_gives_logits, STEP),
    "fused attention = step by step": (_fused_is_step_by_step, PASS),
    "batch of 3 = 3 batches of 1": (_batch_is_its_rows, PASS),
    "row of a padded batch = the prompt alone": (_padded_row_is_its_prompt, PASS),
    "from a middle layer on = the rest of the pass": (_middle_reproduces_the_rest, PASS),
}
"""Each with how it is measured, and its tolerance in rounding errors."""
