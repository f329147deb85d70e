"""Logits -> numbers, each with its unit and sign: what ablation and patching are measured by.

A `Metric` says which positions and tokens it reads, so that nothing else need be computed, and becomes a `Measure` when
it meets a model and prompts. Metrics are made by the functions here, or of any function of logits by `custom_metric`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import brief, checked, several
from probe.errors import BadPrompt, BadShape, NumbersBroke, OutOfRange, UnknownName, as_integer, check_index
from probe.gpt import GPT
from probe.norms import at_least_float32
from probe.prompts import PromptBatch, Prompts, check_predicted, read_prompts, token_id

Tokens = str | int | Sequence[str] | Sequence[int]
"""One token for all prompts, or one for each: text (" Mary") or ids."""
LEAST_SHARE = 0.02
"""A change worth naming, of metrics in logits: this share of the clean value."""
LEAST_NATS = 0.02
"""A change worth naming, of metrics in nats: a probability that changes by 2 %."""


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric on the prompts of one call."""

    positions: Int[Tensor, "prompt kept"]
    """Positions whose logits are read; on the CPU."""
    tokens: Int[Tensor, "prompt token"] | None
    """The only tokens whose logits are read. None: all that can be predicted."""
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(logits, clean logits, prompts) -> values: (row, kept, token) twice and the prompt of each row -> (row,)."""

    def __call__(
        self,
        logits: Float[Tensor, "row kept token"],
        clean: Float[Tensor, "row kept token"],
        prompts: Int[Tensor, " row"],
    ) -> Float[Tensor, " row"]:
        """One number for each row."""
        return self.function(logits, clean, prompts)


@dataclass(frozen=True, eq=False)
class Metric:
    """A number that says how well the model does, and what a difference in it means."""

    name: str
    """How results call it: "' Mary' - ' John'"."""
    unit: str
    """Unit of its values: 'logits', 'nats', 'place'."""
    meaning: str
    """What is measured, and what more of it means: one line."""
    signed: bool
    """Whether a change can go either way, so that flipping its sign makes sense as a test."""
    least: float | None
    """The smallest change worth naming, in the unit. None: 2 % of the clean value."""
    bind: Callable[[GPT, PromptBatch], Measure]
    """Meet the prompts of a call; raises what does not fit them."""
    compares: bool = False
    """Whether it compares with the run in which nothing is changed."""

    def smallest_effect(self, clean: float) -> float:
        """The smallest change worth naming, by default, where the clean value is this."""
        return LEAST_SHARE * abs(clean) if self.least is None else self.least


AnyMetric = Metric | Callable[..., Tensor]
"""A metric, or a function of logits (row, 1, d_vocab_out)."""


@checked
def logit_difference(target: Tokens, against: Tokens, *, position: int = -1) -> Metric:
    """Logit of `target` minus that of `against`, after one position; above 0 the target is likelier.

    Roughly linear in what components write, and the usual choice. In logits.
    """

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        pair = torch.tensor([_ids(model, batch, which, "logit difference") for which in (target, against)]).T
        if (pair[:, 0] == pair[:, 1]).any():
            row = int((pair[:, 0] == pair[:, 1]).nonzero()[0])
            raise BadPrompt(f"logit difference: target and against of prompt {row} are the same token")
        return Measure(_at(batch, position), pair, lambda logits, clean, prompts: logits[:, 0, 0] - logits[:, 0, 1])

    name = f"{_named(target, 'target')} - {_named(against, 'other')}"
    return Metric(name, "logits", "logit difference; above 0 the first is likelier", True, None, bind)


@checked
def log_probability(target: Tokens, *, position: int = -1) -> Metric:
    """Natural logarithm of the probability of `target` after one position; 0 is certainty. In nats."""

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        ids = torch.tensor(_ids(model, batch, target, "log-probability"))

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            wanted = ids.to(prompts.device)[prompts]
            return _log_softmax(logits[:, 0]).gather(-1, wanted[:, None])[:, 0]

        return Measure(_at(batch, position), None, function)

    name = f"log p({_named(target, 'target')})"
    return Metric(name, "nats", "log-probability of the token; 0 is certainty", True, LEAST_NATS, bind)


@checked
def kl_to_clean(*, position: int | None = -1) -> Metric:
    """KL(clean || changed) of the next token, after one position, or the mean over all (None). In nats; never below 0.

    How much changes, whatever it is. Its sign cannot be flipped, so no sign-flip test is made of it.
    """

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        positions = _everywhere(batch) if position is None else _at(batch, position)
        weights = _weights(batch, positions, last=True)

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            before, after = _log_softmax(clean), _log_softmax(logits)
            divergence = (before.exp() * (before - after)).sum(-1)
            return (divergence * weights.to(divergence)[prompts]).sum(-1)

        return Measure(positions, None, function)

    return Metric("KL to clean", "nats", "KL(clean || changed); 0 is no change", False, LEAST_NATS, bind, True)


def mean_loss() -> Metric:
    """Surprise at every token but the first, mean over the positions of each prompt. In nats; less is better."""

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        if min(batch.lengths) < 2:
            raise BadPrompt("loss needs at least two tokens: one to predict from, one to predict")
        check_predicted(model.config, batch.ids)
        positions = _everywhere(batch)[:, :-1]
        weights = _weights(batch, positions, last=False)
        following = batch.tokens(padding=0)[:, 1:]

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            surprise = surprise_of(logits, following.to(prompts.device)[prompts])
            return (surprise * weights.to(surprise)[prompts]).sum(-1)

        return Measure(positions, None, function)

    return Metric("loss", "nats", "mean surprise per token; less is better", True, LEAST_NATS, bind)


@checked
def token_rank(target: Tokens, *, position: int = -1) -> Metric:
    """How many tokens are likelier than `target`, plus one: 1 is the best place; ties share the better one."""

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        ids = torch.tensor(_ids(model, batch, target, "rank"))

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            own = logits[:, 0].gather(-1, ids.to(prompts.device)[prompts][:, None])
            return 1.0 + (logits[:, 0] > own).sum(-1).float()

        return Measure(_at(batch, position), None, function)

    return Metric(f"rank of {_named(target, 'target')}", "places", "place of the token; 1 is the best", True, 1.0, bind)


@checked
def custom_metric(
    function: Callable[..., Tensor],
    *,
    name: str = "",
    unit: str = "",
    signed: bool = True,
    least: float | None = None,
    position: int | None = -1,
    takes_prompts: bool = False,
) -> Metric:
    """A metric of your own: a function of logits (row, kept, d_vocab_out) that gives one number for each row.

    Args:
        position: after which position the logits are read (kept is 1 then). None: after every one; of shorter prompts
            what follows their end is no use.
        takes_prompts: whether the function also gets the number of each row's prompt, (row,), as its second argument.
        least: the smallest change worth naming, in the unit. None: 2 % of the clean value.

    Raises:
        UnknownName: not a function.
    """
    if not callable(function):
        raise UnknownName(f"metric {function!r}: expected a function of logits, or logit_difference(...) and the like")
    what = name or getattr(function, "__name__", "metric").replace("<lambda>", "your metric")

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        positions = _everywhere(batch) if position is None else _at(batch, position)

        def call(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            return function(logits, prompts) if takes_prompts else function(logits)

        return Measure(positions, None, call)

    return Metric(what, unit or "no unit given", "your function of the logits", signed, least, bind)


def as_metric(metric: Any) -> Metric:
    """A metric, or a function of logits made one.

    Raises:
        UnknownName: neither.
    """
    return metric if isinstance(metric, Metric) else custom_metric(metric)


def check_measured(metric: Metric, values: object, prompts: Sequence[int]) -> Float[Tensor, " row"]:
    """What a metric gave for rows of these prompts, or a word on what is wrong with it.

    Raises:
        BadShape: no tensor of one number for each row.
        NumbersBroke: NaN or infinite.
    """
    if not isinstance(values, Tensor) or values.shape != (len(prompts),):
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise BadShape(f"metric {metric.name!r} returned {got}, expected ({len(prompts)},): one number for each row")
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise NumbersBroke(f"metric {metric.name!r} is {float(values[row])} on prompt {prompts[row]}")
    return values


@checked
def loss(model: GPT, prompts: Prompts, *, document_start: bool = False) -> Float[Tensor, "batch pos_less_one"]:
    """Surprise of every token but the first, in nats: -log of the probability that the model gave it.

    Entry i of a row is about token i + 1, predicted from the tokens up to i. NaN after the end of a shorter prompt.
    Gradients are kept, so ``loss(model, text).nanmean().backward()`` trains.

    Raises:
        ProbeError: prompts that the model cannot run (see `probe.record`), or of one token only.
    """
    batch = read_prompts(model.config, model.tokenizer, prompts, document_start=document_start)
    if max(batch.lengths) < 2:
        raise BadPrompt("loss needs at least two tokens: one to predict from, one to predict")
    check_predicted(model.config, batch.ids)
    tokens = batch.tokens(padding=0).to(model.device)
    surprise = surprise_of(model(tokens)[:, :-1], tokens[:, 1:])
    lengths = torch.tensor(batch.lengths, device=tokens.device)
    padding = torch.arange(1, tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return surprise.masked_fill(padding, torch.nan)


def surprise_of(
    logits: Float[Tensor, "batch pos d_vocab_out"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """-log p(token) in nats, at every position."""
    flat = torch.nn.functional.cross_entropy(at_least_float32(logits).flatten(0, 1), tokens.flatten(), reduction="none")
    return flat.view(tokens.shape)


def _log_softmax(logits: Tensor) -> Tensor:
    return at_least_float32(logits).log_softmax(-1)


def _ids(model: GPT, batch: PromptBatch, tokens: Tokens, what: str) -> list[int]:
    """One id for each prompt."""
    if isinstance(tokens, str) or as_integer(tokens) is not None:
        return [token_id(model.config, model.tokenizer, tokens)] * len(batch.ids)  # type: ignore[arg-type]
    given = several(what, tokens)
    if len(given) != len(batch.ids):
        raise OutOfRange(f"{what}: {len(given)} tokens for {len(batch.ids)} prompts; give one for all or one for each")
    known: dict[str | int, int] = {}
    for token in given:
        if not isinstance(token, str) and as_integer(token) is None:
            raise OutOfRange(f"{what}: {brief(token)} is no token; expected texts or ids")
        if token not in known:
            known[token] = token_id(model.config, model.tokenizer, token)
    return [known[token] for token in given]


def _named(tokens: Tokens, otherwise: str) -> str:
    """How a metric calls its token: itself, or what it is for where each prompt has another."""
    single = tokens if isinstance(tokens, str) else as_integer(tokens)
    return otherwise if single is None else repr(single)


def _at(batch: PromptBatch, position: int) -> Int[Tensor, "prompt one"]:
    rows = [
        check_index("position", position, length, owner=f"prompt {row}") for row, length in enumerate(batch.lengths)
    ]
    return torch.tensor(rows)[:, None]


def _everywhere(batch: PromptBatch) -> Int[Tensor, "prompt pos"]:
    return torch.arange(max(batch.lengths)).expand(len(batch.ids), -1)


def _weights(batch: PromptBatch, positions: Tensor, *, last: bool) -> Float[Tensor, "prompt kept"]:
    """Weights of a mean over the positions of each prompt that exist (and, without `last`, have a next token)."""
    if positions.shape[1] == 1 and last:
        return torch.ones(positions.shape)
    ends = torch.tensor(batch.lengths)[:, None] - (0 if last else 1)
    real = (positions < ends).float()
    return real / real.sum(-1, keepdim=True)
