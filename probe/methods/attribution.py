"""Direct logit attribution: a logit as the sum of what each part of the model wrote towards it.

The residual stream is a sum (embedding, every head, every MLP), and with the final norm's scale frozen the logit is
linear in it, so each part's share is exact. It is the part's *direct* effect: what it does through later layers counts
as theirs. Source: Elhage et al., "A mathematical framework for transformer circuits" (2021); Wang et al. (2022).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.arguments import checked, several
from probe.errors import (
    BadIntervention,
    BadPrompt,
    BadShape,
    OutOfRange,
    SiteNotRecorded,
    as_integer,
    check_count,
    check_index,
)
from probe.gpt import GPT
from probe.linear import affine
from probe.methods._inputs import (
    check_not_reduced,
    check_same_model,
    column_of,
    manifest_of,
    texts_of,
    token_ids,
    token_texts,
)
from probe.recording import Recording
from probe.results import LongResult
from probe.shown import Summary, describe_prompts
from probe.sites import check_has_mlp, find_sites, post_scales

TOLERANCE = 1e-4
"""How far the parts may be from the logit, beside the rounding of the model's own sums."""


@dataclass(frozen=True)
class Part:
    """One summand of a logit."""

    name: str
    """'embed', 'L3H5', 'L3 attention bias', 'L3 MLP', 'final norm bias', ..."""
    kind: str
    """'embedding', 'head', 'attention bias', 'mlp' or 'bias'."""
    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True, eq=False)
class LogitAttribution(LongResult):
    """A logit, or a difference of two, of each prompt as a sum of parts. Everything is in logits."""

    parts: tuple[Part, ...]
    """The summands, in the order of the pass."""
    contributions: Float[Tensor, "part batch"]
    logit: Float[Tensor, " batch"]
    """What the model said: the logit of `tokens`, minus that of `against` if given. Where a model caps its logits, as
    they are before the cap: after it they are no sum of parts."""
    tokens: Int[Tensor, " batch"]
    against: Int[Tensor, " batch"] | None
    before_cap: bool
    """Whether the model caps its logits, so that `logit` is before the cap."""
    positions: Int[Tensor, " batch"]
    """The position in each prompt whose prediction is taken apart."""
    neurons: Int[Tensor, "layer batch neuron"]
    """The neurons of each MLP that contribute most, by size; parts of their MLP, not further summands."""
    neuron_contributions: Float[Tensor, "layer batch neuron"]
    str_tokens: list[list[str]]
    """The text of each token of each prompt."""
    texts: Mapping[int, str]
    """The text of `tokens` and `against`."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum of all parts: the logit, to rounding."""
        return self.contributions.double().sum(0).float()

    @property
    def error(self) -> Float[Tensor, " batch"]:
        """How far the sum of all parts is from the logit (logits)."""
        return (self.total - self.logit).abs()

    @property
    def mean(self) -> Float[Tensor, " part"]:
        """Mean contribution of each part over prompts (logits)."""
        return self.contributions.mean(-1)

    @property
    def standard_error(self) -> Float[Tensor, " part"]:
        """Standard error of the mean over prompts (logits); NaN for one prompt."""
        n = self.contributions.shape[-1]
        if n == 1:
            return torch.full_like(self.mean, torch.nan)
        return self.contributions.std(-1) / n**0.5

    @checked
    def top(self, n: int, *, prompt: int | None = None) -> list[tuple[str, float]]:
        """Names and contributions of the n largest parts by size, of one prompt or (None) of the mean."""
        check_count("n", n)
        if prompt is not None:
            prompt = check_index("prompt", prompt, self.contributions.shape[1], owner="this attribution")
        values = self.mean if prompt is None else self.contributions[:, prompt]
        order = values.abs().argsort(descending=True, stable=True)[:n].tolist()
        return [(self.parts[index].name, float(values[index])) for index in order]

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        return self.contributions.numel() + self.neurons.numel()

    def summary(self) -> Summary:
        """The logit and its largest parts."""
        token = self._named(self.tokens)
        against = "" if self.against is None else f" minus that of {self._named(self.against)}"
        several = len(self.tokens) > 1
        return Summary(
            f"the logit of {token}{against} as a sum of {len(self.parts):,} parts, in "
            f"{describe_prompts(self.str_tokens)}",
            {
                "mean logit" if several else "logit": float(self.logit.mean()),
                "largest parts" + (" (means)" if several else ""):
                    ", ".join(f"{name} {value:+.3g}" for name, value in self.top(4)),
                "sum of parts off by": float(self.error.abs().max()),
            },
            self.manifest["model"], self.str_tokens,
            ("The logit is the one before the model’s soft cap.",) if self.before_cap else (),
        )  # fmt: skip

    def _named(self, tokens: Int[Tensor, " batch"]) -> str:
        ids = dict.fromkeys(tokens.tolist())
        return repr(self.texts[next(iter(ids))]) + (" and others" if len(ids) > 1 else "")

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per prompt and part, and per neuron listed (kind "neuron": part of its MLP)."""
        for prompt in range(len(self.tokens)):
            token = self.texts[int(self.tokens[prompt])]
            against = None if self.against is None else self.texts[int(self.against[prompt])]
            about = {"prompt": prompt, "position": int(self.positions[prompt]), "token": token, "against": against}
            for part, value in zip(self.parts, self.contributions[:, prompt].tolist(), strict=True):
                where = {"part": part.name, "kind": part.kind, "layer": part.layer, "head": part.head, "neuron": None}
                yield {**about, **where, "contribution_logits": value}
            for layer in range(len(self.neurons)):
                ids, values = self.neurons[layer, prompt].tolist(), self.neuron_contributions[layer, prompt].tolist()
                for neuron, value in zip(ids, values, strict=True):
                    name = f"L{layer}N{neuron}"
                    where = {"part": name, "kind": "neuron", "layer": layer, "head": None, "neuron": neuron}
                    yield {**about, **where, "contribution_logits": value}


@checked
def attribution_sites(model: GPT, *, neurons: bool = False) -> list[str]:
    """The sites that `direct_logit_attribution` reads, for `record`; one position is enough: ``positions=-1``."""
    learned = ["pos_embed"] if model.config.positions == "learned" else []
    scales = post_scales(model.config)[: 2 if neurons else 1]
    capped = ["ln_final.normalized"] if model.config.logit_soft_cap is not None else []
    mlps = ["mlp_out"] if model.config.d_mlp else []
    return ["embed", *learned, "z", *scales, *(["post"] if neurons else []), *mlps, "ln_final.scale", *capped]


@checked
@torch.no_grad()
def direct_logit_attribution(
    model: GPT,
    recording: Recording,
    *,
    token: str | int | Sequence[str | int] | None = None,
    against: str | int | Sequence[str | int] | None = None,
    position: int = -1,
    neurons: int = 0,
) -> LogitAttribution:
    """Take apart the logit of `token`, or how far it is above that of `against`, at one position of every prompt.

    Args:
        token: text (" Paris") or id, or one for each prompt. None: what the model finds most likely.
        against: likewise; the result is then a logit difference, to which what raises both tokens adds nothing.
        position: in each prompt; -1 is its own last token.
        neurons: so many of each MLP's neurons are listed as well, those that contribute most.

    Returns:
        The parts in logits; they sum to the logit, which is checked. See LogitAttribution.

    Raises:
        DifferentModel: the recording is of another model.
        SiteNotRecorded: a site is missing; record with ``sites=probe.attribution_sites(model)``.
        BadPrompt, OutOfRange: a token or position that does not exist; a token compared with itself.
        BadIntervention: an intervention changed the residual stream itself, so its parts no longer make the logit.

    Source: Elhage et al., "A mathematical framework for transformer circuits" (2021).
    """
    check_same_model(model, recording)
    _check_recorded(model, recording, neurons)
    batch = len(recording.lengths)
    columns = [column_of(recording, prompt, position) for prompt in range(batch)]
    places = (torch.arange(batch), torch.tensor(columns))
    logits = _logits(model, recording, places).detach().double()
    tokens = logits.argmax(-1).cpu() if token is None else _one_each(model, "token", token, batch)
    other = None if against is None else _one_each(model, "against", against, batch)
    if other is not None and (other == tokens).any():
        row = int((other == tokens).nonzero()[0])
        raise BadPrompt(f"token and against of prompt {row} are the same: id {int(other[row])}")
    logit = _chosen(logits, tokens) - (0.0 if other is None else _chosen(logits, other))

    unembedding = _columns(model, tokens) - (0.0 if other is None else _columns(model, other))
    direction = _through(model, model.ln_final, unembedding, recording["ln_final.scale"][places])
    offset = None
    if model.config.unembed_bias:
        offset = _bias(model, tokens) - (0.0 if other is None else _bias(model, other))
    found = _contributions(model, recording, places, direction, unembedding, offset)
    parts, contributions = zip(*found, strict=True)
    values = torch.stack(contributions)
    _check_sum(recording, values, logit)
    ids, of_neurons = _neurons(model, recording, places, direction, neurons)
    last = recording.lengths if position < 0 else torch.zeros_like(recording.lengths)
    named = [*tokens.tolist(), *([] if other is None else other.tolist())]
    return LogitAttribution(
        parts=parts,
        contributions=values.float().cpu(),
        logit=logit.float().cpu(),
        tokens=tokens,
        against=other,
        before_cap=model.config.logit_soft_cap is not None,
        positions=last + position,
        neurons=ids,
        neuron_contributions=of_neurons.float().cpu(),
        str_tokens=texts_of(recording),
        texts=token_texts(model, named),
        manifest=manifest_of(
            recording, "direct logit attribution", token=tokens.tolist(),
            against=None if other is None else other.tolist(), position=position, neurons=neurons,
        ),
    )  # fmt: skip


def _check_recorded(model: GPT, recording: Recording, neurons: int) -> None:
    """Everything that will be read is there."""
    d_mlp = model.config.d_mlp
    if neurons:
        check_has_mlp(model.config, f"neurons={neurons}")
    if not 0 <= neurons <= d_mlp:
        raise OutOfRange(f"neurons={neurons}: expected 0 to {d_mlp}, the neurons of an MLP")
    for site in attribution_sites(model, neurons=neurons > 0):
        check_not_reduced(recording, site)
        for name in find_sites(model.config, [site]):
            recording[name]  # raises SiteNotRecorded
    if recording.manifest["arguments"]["heads"] is not None:
        raise SiteNotRecorded("'z' was kept of some heads only; every head is a part: record it with heads=None")


def _one_each(model: GPT, what: str, given: str | int | Sequence[str | int], batch: int) -> Int[Tensor, " batch"]:
    if isinstance(given, str) or as_integer(given) is not None:
        return torch.tensor(token_ids(model, [given]) * batch)  # type: ignore[list-item]
    ids = token_ids(model, several(what, given))
    if len(ids) != batch:
        raise BadShape(f"{what}: {len(ids)} tokens for {batch} prompts; expected one, or one for each")
    return torch.tensor(ids)


def _logits(model: GPT, recording: Recording, places: tuple[Tensor, Tensor]) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits at these places, as they were before the model capped them, where it does."""
    if model.config.logit_soft_cap is None:
        return recording["logits"][places]
    with torch.no_grad():
        normalized = recording["ln_final.normalized"][places].to(model.device, model.dtype)
        b_U = model.unembed.b_U
        return affine(model.ln_final.stretch(normalized), model.W_U, b_U)  # type: ignore[operator]


def _chosen(logits: Float[Tensor, "batch d_vocab_out"], tokens: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return logits.gather(-1, tokens.to(logits.device)[:, None])[:, 0]


def _columns(model: GPT, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_model"]:
    """The output directions of these tokens."""
    return model.W_U.detach()[:, tokens.to(model.device)].T.double()


def _bias(model: GPT, tokens: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return model.b_U.detach()[tokens.to(model.device)].double()


def _through(
    model: GPT, norm: torch.nn.Module, direction: Float[Tensor, "batch d_model"], scale: Float[Tensor, "batch one"]
) -> Float[Tensor, "batch d_model"]:
    """The direction before a norm, its scale as it was: the product of a vector with it is that of the normed vector
    with the direction after it."""
    direction = direction * norm.gain.detach().double()  # type: ignore[operator]
    if model.config.norm == "layer":  # it subtracts the mean of its input: linear, so it may be done to the direction
        direction = direction - direction.mean(-1, keepdim=True)
    return direction / scale.detach().to(direction)


def _contributions(
    model: GPT,
    recording: Recording,
    places: tuple[Tensor, Tensor],
    direction: Float[Tensor, "batch d_model"],
    unembedding: Float[Tensor, "batch d_model"],
    offset: Float[Tensor, " batch"] | None,
) -> Iterator[tuple[Part, Float[Tensor, " batch"]]]:
    def read(site: str, layer: int | None = None) -> Tensor:
        value = recording[site] if layer is None else recording[site, layer]
        return value[places].detach().to(direction)

    yield Part("embed", "embedding"), (read("embed") * direction).sum(-1)
    if model.config.positions == "learned":
        yield Part("pos_embed", "embedding"), (read("pos_embed") * direction).sum(-1)
    for layer in range(model.config.n_layers):
        before_norm = direction
        if model.config.post_norms:
            before_norm = _through(model, model.blocks[layer].ln1_post, direction, read("ln1_post.scale", layer))
        written = torch.einsum("hem,bm->bhe", model.W_O[layer].detach().double(), before_norm)
        of_heads = (read("z", layer) * written).sum(-1)
        for head in range(model.config.n_heads):
            yield Part(f"L{layer}H{head}", "head", layer, head), of_heads[:, head]
        if model.blocks[layer].attn.b_O is not None:
            yield (
                Part(f"L{layer} attention bias", "attention bias", layer),
                before_norm @ model.b_O[layer].detach().double(),
            )
        if model.config.d_mlp:
            yield Part(f"L{layer} MLP", "mlp", layer), (read("mlp_out", layer) * direction).sum(-1)
    if model.config.norm == "layer":
        yield Part("final norm bias", "bias"), unembedding @ model.ln_final.b.detach().double()  # type: ignore[operator]
    if offset is not None:
        yield Part("unembedding bias", "bias"), offset


def _check_sum(recording: Recording, values: Float[Tensor, "part batch"], logit: Float[Tensor, " batch"]) -> None:
    eps = torch.finfo(recording["logits"].dtype).eps
    error = (values.sum(0) - logit).abs()
    allowed = TOLERANCE + 8 * eps * values.abs().sum(0)
    if bool((error <= allowed).all()):
        return
    edits = ", ".join(recording.manifest["arguments"]["interventions"])
    if edits:
        raise BadIntervention(
            f"the parts differ from the logit by {float(error.max()):.2g}: an intervention ({edits}) changed the "
            "residual stream itself; edit what is written into it instead (embed, z, mlp_out, or anything before them)"
        )
    raise BadIntervention(
        f"the parts differ from the logit by {float(error.max()):.2g}, rounding explains {float(allowed.max()):.2g}: "
        "the recording was kept in a lower precision than the model's; record it with dtype=None"
    )


def _neurons(
    model: GPT, recording: Recording, places: tuple[Tensor, Tensor], direction: Float[Tensor, "batch d_model"], n: int
) -> tuple[Int[Tensor, "layer batch neuron"], Float[Tensor, "layer batch neuron"]]:
    """The n of each MLP that contribute most by size."""
    ids, values = [], []
    for layer in range(model.config.n_layers if n else 0):
        before_norm = direction
        if model.config.post_norms:
            scale = recording["ln2_post.scale", layer][places]
            before_norm = _through(model, model.blocks[layer].ln2_post, direction, scale)
        written = before_norm @ model.W_out[layer].detach().double().T
        each = recording["post", layer][places].detach().to(direction) * written
        largest = each.abs().topk(n).indices
        ids.append(largest.cpu())
        values.append(each.gather(-1, largest))
    if not ids:
        return torch.empty(0, len(direction), 0, dtype=torch.long), torch.empty(0, len(direction), 0)
    return torch.stack(ids), torch.stack(values)
