"""Generation: predict, sample, append, repeat, and keep the whole story of every step.

A key/value cache makes each new token cost only itself. The passes are those of `record`: the same interventions, the
same checks, and nothing stays on the model.
"""

import dataclasses
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked, one_or_several
from probe.attention import KeyValueCache
from probe.distributions import entropy_of, log_probs_of, ranks_of
from probe.errors import BadIntervention, BadPrompt, OutOfRange, as_integer, check_index
from probe.gpt import GPT
from probe.interventions import Edits, Effect, Intervention, list_interventions, plan_edits
from probe.norms import at_least_float32
from probe.prompts import PromptBatch, Prompts, read_prompts, str_tokens, token_id
from probe.provenance import provenance
from probe.recording import run
from probe.request import read_request
from probe.results import Result
from probe.sampling import LISTED, Sampling, StepDistribution, describe_distribution
from probe.selection import as_list, select
from probe.shown import Shown, Summary, count
from probe.sites import site_names
from probe.tap import RecordingTap

if TYPE_CHECKING:
    import pandas

End = Literal["end token", "max tokens", "context full"]


@dataclass(frozen=True, eq=False)
class Step(Shown):
    """One token, and what the model said of it before it was chosen."""

    position: int
    """Where the token stands in the whole text, the prompt included."""
    token: int
    text: str
    probability: float
    """The probability with which it was chosen: after temperature, top k and top p. 1 at temperature 0."""
    model_probability: float
    """The model's own probability of it, at temperature 1."""
    rank: int
    """Its rank among all tokens; 1 is the likeliest, and ties share the better place."""
    entropy: float
    """Entropy of the model's own distribution, at temperature 1 (nats)."""
    drawn: float | None
    """The random number in [0, 1) that chose it, on the cumulative distribution with the likeliest token first; None
    at temperature 0."""
    distribution: StepDistribution
    """All alternatives, at any temperature."""

    def summary(self) -> Summary:
        """What was chosen, and what else was likely."""
        likeliest = f"{self.distribution.texts[0]!r} {float(self.distribution.probabilities()[0]):.3f}"
        return Summary(
            f"{self.text!r} at position {self.position}",
            {"model's probability": self.model_probability, "rank": self.rank, "entropy (nats)": self.entropy,
             "likeliest": likeliest},
        )  # fmt: skip

    @property
    def surprise(self) -> float:
        """-log of the model's own probability, in nats."""
        return float(-np.log(max(self.model_probability, np.finfo(np.float64).tiny)))


class Generation(Result):
    """A continuation of one prompt. It is made while it is iterated over, a `Step` at a time, and kept.

    A second iteration begins with the kept steps. What interrupts it (Ctrl-C, an error) loses nothing: the next
    iteration goes on, with the same numbers. `Generation.run` makes the rest at once. Not to be iterated by two threads
    at a time; any number of generations share one model.
    """

    def __init__(self, model: GPT, prompt: Sequence[int], settings: "Settings"):
        self._model, self._settings = model, settings
        self._steps: list[Step] = []
        self._cache: KeyValueCache | None = None
        self._effects: list[dict[int, Effect]] = []
        self.prompt: tuple[int, ...] = tuple(prompt)
        """Token ids, the document start included."""
        self.ended: End | None = None
        """Why it is complete; None while it is not."""
        self._request = read_request(model, [list(prompt)], sites=[], positions=-1)

    def __iter__(self) -> Iterator[Step]:
        """The steps made so far, then those still to be made."""
        number = 0
        while number < len(self._steps) or self._make_step():
            yield self._steps[number]
            number += 1

    def run(self) -> "Generation":
        """Make every step that is missing."""
        for _ in self:
            pass
        return self

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step that has been made so far."""
        return tuple(self._steps)

    @property
    def ids(self) -> list[int]:
        """Prompt and continuation so far."""
        return [*self.prompt, *(step.token for step in self._steps)]

    @property
    def str_tokens(self) -> list[str]:
        """The text of each token of prompt and continuation so far."""
        return str_tokens(self._model.tokenizer, self.ids)

    @property
    def text(self) -> str:
        """The continuation so far, without the end token."""
        tokens = [step.token for step in self._steps if step.token not in self._settings.stop]
        if self._model.tokenizer is None:
            return "".join(str_tokens(None, tokens))
        return self._model.tokenizer.decode(tokens)

    @property
    def effects(self) -> tuple[Effect, ...]:
        """How often each intervention took effect so far, over all steps."""
        return tuple(self._effect(number, one) for number, one in enumerate(self._settings.interventions))

    def _effect(self, number: int, one: Intervention) -> Effect:
        """What one intervention did, over those passes that ran tokens it means."""
        found = [of_pass[number] for of_pass in self._effects if number in of_pass]
        sites = dict.fromkeys(site for effect in found for site in effect.sites)
        return Effect(str(one), tuple(sites), sum(effect.entries for effect in found))

    @property
    def manifest(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Model, prompt, settings and seed: what is needed to repeat it; and what came of it."""
        arguments = dataclasses.asdict(dataclasses.replace(self._settings, interventions=()))
        arguments["interventions"] = [str(one) for one in self._settings.interventions]
        return {
            **provenance(self._model),
            "method": "generate",
            "prompts": [list(self.prompt)],
            "method_arguments": arguments,
            "generated": [step.token for step in self._steps],
            "ended": self.ended,
        }

    @checked
    def branch(
        self, step: int, token: str | int, *, seed: int | None = None, max_tokens: int | None = None
    ) -> "Generation":
        """Another continuation: the same up to a step, then this token in its place, then new ones.

        Its prompt is this one's with the shared tokens and the new one; settings and, unless given, seed are the same.

        Raises:
            OutOfRange: no such step, or token id.
            BadPrompt: a text that is not one token.
        """
        step = check_index("step", step, len(self._steps), owner="this generation, so far,")
        put = token_id(self._model.config, self._model.tokenizer, token, predicted=False)
        prompt = [*self.ids[: len(self.prompt) + step], put]
        settings = self._settings
        changed = dataclasses.replace(
            settings,
            seed=settings.seed if seed is None else _check_seed(seed),
            max_tokens=settings.max_tokens if max_tokens is None else _check_max_tokens(max_tokens),
        )
        _check_room(self._model, prompt)
        _check_interventions(self._model, changed, len(prompt))
        return Generation(self._model, prompt, changed)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per step: what was chosen, how likely it was, how sure the model was."""
        import pandas  # half a second that only tables need

        columns = (
            "step", "position", "token", "token_id", "probability", "model_probability", "surprise_nats", "rank",
            "entropy_nats", "drawn",
        )  # fmt: skip
        rows = [
            (
                number, step.position, step.text, step.token, step.probability, step.model_probability, step.surprise,
                step.rank, step.entropy, step.drawn,
            )
            for number, step in enumerate(self._steps)
        ]  # fmt: skip
        return pandas.DataFrame(rows, columns=list(columns))

    def alternatives(self) -> "pandas.DataFrame":
        """One row per step and listed token: rank, raw logit, the model's own probability."""
        import pandas

        parts = []
        for number, step in enumerate(self._steps):
            table = step.distribution.to_dataframe().rename(columns={"probability": "model_probability"})
            table.insert(0, "step", number)
            parts.append(table)
        return pandas.concat(parts) if parts else pandas.DataFrame()

    def files(self) -> dict[str, str]:
        """Steps, alternatives and manifest, by file name."""
        table = self.alternatives().to_csv(index=False, lineterminator="\n")
        return {**super().files(), "alternatives.csv": table}

    def summary(self) -> Summary:
        """How far the generation is, and its text."""
        state = f"ended: {self.ended}" if self.ended else "not complete: iterate, or .run()"
        return Summary(
            f"{count(len(self._steps), 'token')} after {len(self.prompt):,}, {state}",
            {"text": self.text, "temperature": self._settings.sampling.temperature, "seed": self._settings.seed},
            self._model.name, [self.str_tokens],
        )  # fmt: skip

    def _make_step(self) -> bool:
        """Append one step, unless it is complete."""
        if self.ended is None:
            self.ended = self._end()
        if self.ended is not None:
            self._cache = None  # as large as the text: of no more use
            return False
        logits = self._next_logits()
        self._steps.append(self._settings.choose(self._model, logits, self._steps, len(self.ids)))
        return True

    def _end(self) -> End | None:
        if self._steps and self._steps[-1].token in self._settings.stop:
            return "end token"
        if len(self._steps) == self._settings.max_tokens:
            return "max tokens"
        return "context full" if len(self.ids) == self._model.config.n_ctx else None

    def _next_logits(self) -> Float[Tensor, " d_vocab_out"]:
        """Run what the cache has not seen: the prompt first, then one token each time."""
        scaling = self._model.config.rotary_scaling
        if self._cache is not None and scaling is not None and scaling.differs(self._cache.length, len(self.ids)):
            self._cache, self._effects = None, []  # with one token more, all turn by other angles: begin again
        if self._cache is None:
            room = len(self.prompt) + self._settings.max_tokens
            self._cache = KeyValueCache(min(room, self._model.config.n_ctx))
        new, seen = tuple(self.ids[self._cache.length :]), self._cache.length
        here = _within(self._settings.interventions, len(new), seen, len(self.prompt))
        request = dataclasses.replace(
            self._request,
            lengths=(len(new),),
            batch=PromptBatch((new,)),
            positions=select((len(new),), positions=-1),
            edits=_plan(self._model, here.values(), len(new), seen),
        )
        tap = RecordingTap(request)
        with torch.no_grad():
            run(self._model, request, tap, self._cache)
        self._effects.append(dict(zip(here, request.edits.effects(), strict=True)))
        return at_least_float32(tap.values["logits"][0, -1]).cpu()


@dataclass(frozen=True)
class Settings:
    """What a generation needs besides model and prompt; checked."""

    sampling: Sampling
    max_tokens: int
    seed: int
    listed: int | None
    """Tokens that each step lists; None: all."""
    stop: tuple[int, ...]
    """Token ids after which it ends."""
    interventions: tuple[Intervention, ...]

    def choose(self, model: GPT, logits: Float[Tensor, " d_vocab_out"], steps: Sequence[Step], position: int) -> Step:
        """The next step. Its random number depends on the seed and the number of the step alone."""
        log_probs = log_probs_of(logits.double())
        if self.sampling.temperature == 0:
            token, drawn, probability = int(logits.argmax()), None, 1.0
        else:
            drawn = float(np.random.default_rng((self.seed, len(steps))).random())
            ordered = logits.sort(descending=True, stable=True)
            place = self.sampling.choose(ordered.values, drawn)
            token = int(ordered.indices[place])
            probability = float(self.sampling.probabilities(ordered.values)[place])
        return Step(
            position=position,
            token=token,
            text=str_tokens(model.tokenizer, [token])[0],
            probability=probability,
            model_probability=float(log_probs[token].exp()),
            rank=int(ranks_of(logits, logits[[token]])),
            entropy=float(entropy_of(log_probs)),
            drawn=drawn,
            distribution=describe_distribution(logits, partial(str_tokens, model.tokenizer), listed=self.listed),
        )


@checked
def generate(
    model: GPT,
    prompt: Prompts,
    *,
    max_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    interventions: Intervention | Iterable[Intervention] = (),
    document_start: bool = False,
    listed: int | Literal["all"] = LISTED,
    stop: str | Sequence[str | int] | None = None,
) -> Generation:
    """Continue a prompt token by token, keeping the whole distribution behind every one.

    Nothing runs yet: ``for step in probe.generate(...)`` makes a token at a time, ``.run()`` all of them.

    Args:
        prompt: one text, or the token ids of one.
        temperature: 0 (always the likeliest token) to 5. Logits are divided by it.
        top_k, top_p: choose only among so many of the likeliest tokens, or among the fewest that together have at least
            this probability (after temperature and top k).
        seed: makes it repeatable, on any device, given the same logits (another device or number of threads rounds
            otherwise, and a story can part from there). None: one is drawn, and kept in the manifest.
        interventions: as in `record`, at every step. Positions count in the whole text from its front, and take effect
            when that token is run; -1 is the newest token of every step; None is every token.
        listed: how many tokens each step lists with their logit; the others are counted in a histogram. "all": every
            one (4 bytes a token and step).
        stop: tokens after which it ends, as text or ids. None: the end token and the document separator of the model's
            tokenizer.

    Raises:
        OutOfRange, BadPrompt, BadIntervention, UnknownName: an argument that does not fit the model, or a prompt that
            leaves no room in the context, before anything runs.
    """
    batch = read_prompts(model.config, model.tokenizer, prompt, document_start=document_start)
    if len(batch.ids) != 1:
        raise BadPrompt(f"{len(batch.ids)} prompts: a generation continues one; call generate for each")
    settings = Settings(
        sampling=Sampling(temperature, top_k, top_p),
        max_tokens=_check_max_tokens(max_tokens),
        seed=secrets.randbits(32) if seed is None else _check_seed(seed),
        listed=None if listed == "all" else _check_listed(model, listed),
        stop=_stop_tokens(model, stop),
        interventions=tuple(list_interventions(interventions)),
    )
    _check_room(model, batch.ids[0])
    _check_interventions(model, settings, len(batch.ids[0]))
    return Generation(model, batch.ids[0], settings)


def _plan(model: GPT, interventions: Iterable[Intervention], n_new: int, seen: int) -> Edits:
    """The interventions of one pass over `n_new` tokens after those in the cache."""
    return plan_edits(model.config, interventions, lengths=(n_new,), run=site_names(model.config), seen=seen)


def _within(interventions: Sequence[Intervention], n_new: int, seen: int, n_prompt: int) -> dict[int, Intervention]:
    """Those that mean one of the new tokens, by number; their positions counted from the first of these."""
    found, newest = {}, range(max(n_prompt - 1 - seen, 0), n_new)  # several where earlier tokens are run again
    for number, one in enumerate(interventions):
        positions = _positions(one)
        if positions is None:
            found[number] = one
            continue
        named = {position - seen for position in positions if position != -1}
        local = named.intersection(range(n_new)).union(newest if -1 in positions else ())
        if local:
            found[number] = dataclasses.replace(one, where={**one.where, "positions": sorted(local)})
    return found


def _positions(one: Intervention) -> list[int] | None:
    positions = one.where.get("positions")
    return None if positions is None else as_list("positions", positions)


def _check_interventions(model: GPT, settings: Settings, n_prompt: int) -> None:
    """Raise before the first pass: plans the prompt's, and those of every token that an intervention names."""
    n_run = min(n_prompt + settings.max_tokens, model.config.n_ctx) - 1  # the last token of all is not run
    for one in settings.interventions:
        for position in _positions(one) or ():
            if position < -1:
                raise BadIntervention(
                    f"{one}: position {position} is run once and not again while tokens are generated; count it from "
                    "the front, or use -1, the newest token of every step"
                )
            if position >= n_run:
                raise OutOfRange(f"{one}: position {position}: prompt and continuation run at most {n_run} tokens")
    later = {position for one in settings.interventions for position in _positions(one) or () if position >= n_prompt}
    steps = sorted(later | {n_prompt}) if n_run > n_prompt else []
    for n_new, seen in [(n_prompt, 0), *((1, position) for position in steps)]:
        _plan(model, _within(settings.interventions, n_new, seen, n_prompt).values(), n_new, seen)


def _check_room(model: GPT, prompt: Sequence[int]) -> None:
    n_ctx = model.config.n_ctx
    if len(prompt) >= n_ctx:
        raise BadPrompt(
            f"prompt of {len(prompt)} tokens: this model's context holds {n_ctx}, so there is no room for more"
        )


def _check_max_tokens(max_tokens: int) -> int:
    if max_tokens < 1:
        raise OutOfRange(f"max_tokens={max_tokens}: expected 1 or more")
    return max_tokens


def _check_seed(seed: int) -> int:
    if seed < 0:
        raise OutOfRange(f"seed={seed}: expected an integer of 0 or more")
    return seed


def _check_listed(model: GPT, value: object) -> int:
    number, d_vocab = as_integer(value), model.config.n_outputs
    if number is None or number < 1:
        raise OutOfRange(f"listed={value!r}: expected 1 to {d_vocab} tokens, or 'all'")
    return min(number, d_vocab)


def _stop_tokens(model: GPT, stop: str | Sequence[str | int] | None) -> tuple[int, ...]:
    if stop is not None:
        return tuple(token_id(model.config, model.tokenizer, token) for token in one_or_several("stop", stop))
    marks = (getattr(model.tokenizer, name, None) for name in ("eos_id", "document_start_id"))
    return tuple(dict.fromkeys(mark for mark in marks if mark is not None))
