"""Everything that a tour shows, measured on one prompt."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from probe.catalogue import known_models
from probe.errors import BadPrompt
from probe.gpt import GPT
from probe.methods.attention import HeadFocus, HeadLook, HeadPattern, find_focus, read_look, read_pattern
from probe.methods.distribution import NextTokens, next_tokens
from probe.methods.lens import LensReadout, logit_lens
from probe.plan import RecordingPlan, plan_recording
from probe.recording import Recording, record
from probe.sites import residual_sites

PROMPT = "When Mary and John went to the store, John gave a drink to"
WATCHED = (" Mary", " John")
"""What to follow in this prompt; in another, the likeliest candidates."""
SITES = ("q", "k", "v", "attn_scores", "pattern")
"""Sites recorded beside the residual stream."""
MOST_BYTES = 2_000_000_000
"""A tour that would keep more is refused: its page could not be read anyway."""
HEADS_SHOWN = 6


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes, measured."""

    load_seconds: float | None
    """Reading the weights; None where the model was in memory."""
    plain_seconds: float
    """A pass that keeps nothing; the best of three."""
    record_seconds: float
    """The pass that kept what the tour shows; the best of three."""
    lens_seconds: float
    weight_bytes: int
    kept_bytes: int
    peak_bytes: int | None
    """The most memory that this process has held; None where the system does not say."""


@dataclass(frozen=True)
class Tour:
    """One prompt through one model."""

    model: GPT
    description: str | None
    """What the catalogue says of the model."""
    prompt: str
    document_start: str | None
    """The token that was put first; None: the tokenizer names none."""
    ids: list[int]
    recording: Recording
    plan: RecordingPlan
    following: NextTokens
    lens: LensReadout
    focus: HeadFocus | None
    """None: the prompt has one token, which can look at itself only."""
    patterns: list[HeadPattern]
    """Patterns of the most telling heads."""
    look: HeadLook | None
    """One of these heads in detail."""
    costs: Costs

    @property
    def str_tokens(self) -> list[str]:
        """The text of each token."""
        assert self.recording.str_tokens is not None, "a tour starts from text"
        return self.recording.str_tokens[0]


def take_tour(
    model: GPT,
    prompt: str,
    *,
    watch: Sequence[str] | None = None,
    load_seconds: float | None = None,
    say: Callable[[str], object] = lambda message: None,
) -> Tour:
    """Run the prompt once, and look. `say` hears what is being done.

    Raises:
        BadPrompt: a model without tokenizer, an empty prompt, or one whose values would not fit.
        ProbeError: what `record` and `logit_lens` raise.
    """
    start = _document_start(model)
    arguments: dict[str, Any] = {"sites": [*residual_sites(model.config), *SITES], "document_start": start is not None}
    plan = plan_recording(model, prompt, **arguments)
    if plan.bytes > MOST_BYTES:
        raise BadPrompt(
            f"a tour of this prompt would keep {plan.bytes / 1e9:.1f} GB, more than {MOST_BYTES / 1e9:.0f}; "
            "give a shorter one, or choose what to keep with `probe record`"
        )
    say("running the prompt")
    recording, record_seconds = _best_of_three(lambda: record(model, prompt, **arguments))
    following = next_tokens(model, recording)
    ids = _ids(recording)
    _, plain_seconds = _best_of_three(lambda: _plain(model, ids))
    say("reading every layer")
    begin = time.perf_counter()
    lens = logit_lens(model, recording, watch=_watched(model, prompt, watch, following))
    lens_seconds = time.perf_counter() - begin
    focus = find_focus(recording) if len(ids) > 1 else None
    chosen = [] if focus is None else focus.most_telling(HEADS_SHOWN, one_per_token=True)
    return Tour(
        model=model,
        description=_description(model),
        prompt=prompt,
        document_start=start,
        ids=ids,
        recording=recording,
        plan=plan,
        following=following,
        lens=lens,
        focus=focus,
        patterns=[read_pattern(recording, layer, head) for layer, head in chosen],
        look=_look(recording, chosen),
        costs=Costs(
            load_seconds=load_seconds,
            plain_seconds=plain_seconds,
            record_seconds=record_seconds,
            lens_seconds=lens_seconds,
            weight_bytes=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
            kept_bytes=plan.bytes,
            peak_bytes=_peak_bytes(),
        ),
    )


def tour_as_json(tour: Tour) -> dict[str, Any]:
    """The numbers of a tour, for programs. Positions and ranks: see LensReadout, HeadFocus, NextTokens."""
    prompt, column = tour.lens.entry()
    ranks = tour.lens.watched_ranks[:, prompt, column].tolist()
    return {
        "model": tour.model.name,
        "fingerprint": tour.recording.manifest["fingerprint"],
        "description": tour.description,
        "prompt": tour.prompt,
        "document_start": tour.document_start,
        "tokens": tour.ids,
        "str_tokens": tour.str_tokens,
        "next_tokens": tour.following.to_dataframe().to_dict("records"),
        "lens": {
            "watched": [tour.lens.texts[token] for token in tour.lens.watched_at(prompt, column)],
            "ranks": dict(zip(tour.lens.places, ranks, strict=True)),
            "kl_final_lens_nats": tour.lens.kl_to_final[:, prompt, column].tolist(),
            "worse_than_uniform": tour.lens.worse_than_uniform[:, prompt, column].tolist(),
        },
        "heads": [] if tour.focus is None else tour.focus.to_dataframe().to_dict("records"),
        "telling_heads": [{"layer": head.layer, "head": head.head} for head in tour.patterns],
        "costs": dataclasses.asdict(tour.costs),
    }


def _document_start(model: GPT) -> str | None:
    """The token to put first, if the model's files name one."""
    if model.tokenizer is None:
        raise BadPrompt(
            f"{model.name} has no tokenizer, and a tour starts from text; probe.record in Python takes token ids"
        )
    return None if model.tokenizer.document_start_id is None else model.tokenizer.document_start


def _watched(model: GPT, prompt: str, watch: Sequence[str] | None, following: NextTokens) -> list[str] | list[int]:
    """What was asked for; the two names of our own prompt, where they are tokens; or the likeliest three."""
    if watch:
        return list(watch)
    if prompt == PROMPT and all(_is_token(model, word) for word in WATCHED):
        return list(WATCHED)
    return following.tokens[:3].tolist()


def _is_token(model: GPT, word: str) -> bool:
    assert model.tokenizer is not None, "checked by _document_start"
    try:
        return model.tokenizer.token_id(word) >= 0
    except BadPrompt:
        return False


def _description(model: GPT) -> str | None:
    """What the catalogue says of this model, loaded by name or by its file."""
    for known in known_models():
        if model.name in (known.name, *(file.name.removesuffix(".gguf") for file in known.wheel.files)):
            return known.description
    return None


def _look(recording: Recording, chosen: Sequence[tuple[int, int]]) -> HeadLook | None:
    """The strongest of the chosen heads that looks at another token than itself; else the strongest."""
    looks = [read_look(recording, layer, head) for layer, head in chosen]
    elsewhere = [look for look in looks if int(look.weights[1:].argmax()) + 1 != look.query_pos]
    return next(iter([*elsewhere, *looks]), None)


def _ids(recording: Recording) -> list[int]:
    assert recording.tokens is not None, "a tour starts from text"
    return recording.tokens[0].tolist()


def _plain(model: GPT, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids], device=model.device))


def _best_of_three(run: Callable[[], Any]) -> tuple[Any, float]:
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return result, best


def _peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
