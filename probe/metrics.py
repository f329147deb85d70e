"""Logits -> numbers, each with its unit and sign: what ablation and patching are measured by.

A `Metric` says which positions and tokens it reads, so that nothing else need be computed, and becomes a `Measure` when
it meets a model and prompts. Metrics are made by the functions here, or of any function of logits by `custom_metric`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import brief, checked, several
from probe.digests import digest_of
from probe.distributions import kl_divergence, log_probs_of, ranks_of, surprise_of
from probe.errors import BadPrompt, BadShape, NumbersBroke, OutOfRange, UnknownName, as_integer, check_index
from probe.gpt import GPT
from probe.prompts import PromptBatch, Prompts, check_lengths_together, check_predicted, read_prompts, token_id

Tokens = str | int | Sequence[str] | Sequence[int]
"""One token for all prompts, or one for each: text (" Mary") or ids."""
Listed = str | int | list[str | int]
"""The same as JSON values."""
LEAST_SHARE = 0.02
"""A change worth naming: this share of the clean value, or of what there is to recover between two runs."""
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
    """Unit of its values: 'logits', 'nats', 'places'."""
    meaning: str
    """What is measured, and what more of it means: one line."""
    signed: bool
    """Whether a change can go either way, so that flipping its sign makes sense as a test."""
    least: float | None
    """The smallest change worth naming, in the unit. None: 2 % of the clean value."""
    bind: Callable[[GPT, PromptBatch], Measure]
    """Meet the prompts of a call; raises what does not fit them."""
    arguments: Mapping[str, Any]
    """What it was made with, as JSON values: for manifests, and to tell it from others of the same name."""
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
    what = "logit difference"
    first, second = _listed(what, target), _listed(what, against)

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        pair = torch.tensor([_ids(model, batch, which, what) for which in (first, second)]).T
        if (pair[:, 0] == pair[:, 1]).any():
            row = int((pair[:, 0] == pair[:, 1]).nonzero()[0])
            raise BadPrompt(f"logit difference: target and against of prompt {row} are the same token")
        return Measure(_at(batch, position), pair, lambda logits, clean, prompts: logits[:, 0, 0] - logits[:, 0, 1])

    name = f"{_named(first, 'target')} - {_named(second, 'other')}"
    asked = {"target": first, "against": second, "position": position}
    return Metric(name, "logits", "logit difference; above 0 the first is likelier", True, None, bind, asked)


@checked
def log_probability(target: Tokens, *, position: int = -1) -> Metric:
    """Natural logarithm of the probability of `target` after one position; 0 is certainty. In nats."""
    asked: dict[str, Any] = {"target": _listed("log-probability", target), "position": position}

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        ids = torch.tensor(_ids(model, batch, asked["target"], "log-probability"))

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            wanted = ids.to(prompts.device)[prompts]
            return log_probs_of(logits[:, 0]).gather(-1, wanted[:, None])[:, 0]

        return Measure(_at(batch, position), None, function)

    name = f"log p({_named(asked['target'], 'target')})"
    return Metric(name, "nats", "log-probability of the token; 0 is certainty", True, LEAST_NATS, bind, asked)


@checked
def kl_to_clean(*, position: int | None = -1) -> Metric:
    """KL(clean || changed) of the next token, after one position, or the mean over all (None). In nats; never below 0.

    How much changes, whatever it is. Its sign cannot be flipped, so no sign-flip test is made of it.
    """

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        positions = _everywhere(batch) if position is None else _at(batch, position)
        weights = _weights(batch, positions, last=True)

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            divergence = kl_divergence(log_probs_of(clean), log_probs_of(logits))
            return (divergence * weights.to(divergence)[prompts]).sum(-1)

        return Measure(positions, None, function)

    meaning, asked = "KL(clean || changed); 0 is no change", {"position": position}
    return Metric("KL to clean", "nats", meaning, False, LEAST_NATS, bind, asked, compares=True)


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

    return Metric("loss", "nats", "mean surprise per token; less is better", True, LEAST_NATS, bind, {})


@checked
def token_rank(target: Tokens, *, position: int = -1) -> Metric:
    """How many tokens are likelier than `target`, plus one: 1 is the best place; ties share the better one."""
    asked: dict[str, Any] = {"target": _listed("rank", target), "position": position}

    def bind(model: GPT, batch: PromptBatch) -> Measure:
        ids = torch.tensor(_ids(model, batch, asked["target"], "rank"))

        def function(logits: Tensor, clean: Tensor, prompts: Tensor) -> Tensor:
            own = logits[:, 0].gather(-1, ids.to(prompts.device)[prompts][:, None])
            return ranks_of(logits[:, 0], own)[:, 0].float()

        return Measure(_at(batch, position), None, function)

    name = f"rank of {_named(asked['target'], 'target')}"
    return Metric(name, "places", "place of the token; 1 is the best", True, 1.0, bind, asked)


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

    Where a call keeps its work in a folder, the function is known again by its code, its defaults and what it closes
    over, not by what it reads from its module; if something of that cannot be pickled, by nothing: the call does not
    go on in that folder.

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

    asked = {"function": digest_of(function), "position": position, "takes_prompts": takes_prompts}
    return Metric(what, unit or "no unit given", "your function of the logits", signed, least, bind, asked)


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
    check_lengths_together(model.config, batch.lengths)
    tokens = batch.tokens(padding=0).to(model.device)
    surprise = surprise_of(model(tokens)[:, :-1], tokens[:, 1:])
    lengths = torch.tensor(batch.lengths, device=tokens.device)
    padding = torch.arange(1, tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return surprise.masked_fill(padding, torch.nan)


def _ids(model: GPT, batch: PromptBatch, tokens: Listed, what: str) -> list[int]:
    """One id for each prompt."""
    if not isinstance(tokens, list):
        return [token_id(model.config, model.tokenizer, tokens)] * len(batch.ids)
    if len(tokens) != len(batch.ids):
        raise OutOfRange(f"{what}: {len(tokens)} tokens for {len(batch.ids)} prompts; give one for all or one for each")
    known: dict[str | int, int] = {}
    for token in tokens:
        if not isinstance(token, str) and as_integer(token) is None:
            raise OutOfRange(f"{what}: {brief(token)} is no token; expected texts or ids")
        if token not in known:
            known[token] = token_id(model.config, model.tokenizer, token)
    return [known[token] for token in tokens]


def _listed(what: str, tokens: Tokens) -> Listed:
    """One token, or a list of them, as JSON values; `_ids` says what is none."""
    if isinstance(tokens, str):
        return tokens
    single = as_integer(tokens)
    if single is not None:
        return single
    return [one if (number := as_integer(one)) is None else number for one in several(what, tokens)]


def _named(tokens: Listed, otherwise: str) -> str:
    """How a metric calls its token: itself, or what it is for where each prompt has another."""
    return otherwise if isinstance(tokens, list) else repr(tokens)


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
