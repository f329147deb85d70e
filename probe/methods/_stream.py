"""The residual stream place by place, read as predictions a few positions at a time: what every lens shares."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from probe.config import GPTConfig
from probe.distributions import entropy_of, log_probs_of
from probe.errors import OutOfRange, check_choice
from probe.gpt import GPT
from probe.methods._inputs import check_not_reduced
from probe.recording import PADDING, Recording
from probe.sites import RESIDUAL, describe_site, find_sites, full_name, residual_sites

LOGITS_AT_ONCE = 2**23
"""Logits held at a time (32 MB in float32), or those of one position at every place if that is more: so
(place, batch, pos, d_vocab_out) never exists. With more, the allocator fetches fresh pages for every tensor and gives
them back, which took half of the time; with fewer, the product with W_U waits for memory."""


@runtime_checkable
class Translator(Protocol):
    """What a lens may put before the final norm: a residual stream at a place -> what the last layer would have."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """How it came about."""
        ...

    def check(self, model: GPT, places: Sequence[str]) -> None:
        """Raise unless it belongs to this model and covers these places."""
        ...

    def __call__(self, place: str, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]: ...


@dataclass(frozen=True)
class Piece:
    """A few positions, read at every place."""

    prompt: Int[Tensor, " row"]
    column: Int[Tensor, " row"]
    """Where each row stands among the kept positions of its prompt."""
    places: Float[Tensor, "place row d_vocab_out"]
    """Log-probabilities (nats)."""
    final: Float[Tensor, "row d_vocab_out"]
    """The model's own log-probabilities, at the end (nats)."""


def stream_places(config: GPTConfig) -> list[str]:
    """Full names of what a lens reads, in the order of the pass: the embedding, and every resid_mid and resid_post.

    Of resid_pre only layer 0's: the others are the layer before's resid_post.
    """
    inside = [full_name(config, site, n) for n in range(config.n_layers) for site in residual_sites(config)[1:]]
    return [full_name(config, "resid_pre", 0), *inside]


def choose_places(recording: Recording, sites: Sequence[str] | None) -> tuple[str, ...]:
    """The places of these sites; None: the end of every layer, and of the others those that were recorded.

    Raises:
        OutOfRange: no site.
        UnknownName: a site that is no residual stream, or not there in this model.
        SiteNotRecorded: a place is missing.
    """
    wanted = [sites] if isinstance(sites, str) else sites
    if wanted is not None and not len(wanted):
        raise OutOfRange("sites: the list is empty; name residual streams, or leave sites out")
    for site in residual_sites(recording.config) if wanted is None else wanted:
        check_choice("residual stream", site, RESIDUAL)
        check_not_reduced(recording, site)
        find_sites(recording.config, [site])  # raises if a model has no resid_mid
    stream = stream_places(recording.config)
    if wanted is None:
        chosen = [name for name in stream if name.endswith("resid_post") or name in recording]
    else:
        chosen = [name for name in stream if describe_site(name).short in wanted]
    for name in chosen:
        recording[name]  # raises SiteNotRecorded
    return tuple(chosen)


def positions_kept(recording: Recording) -> Int[Tensor, "batch pos"]:
    """The position that each kept entry is about, -1 after the end of a shorter prompt."""
    if recording.positions is not None:
        return recording.positions
    position = torch.arange(int(recording.lengths.max()))
    return torch.where(position < recording.lengths[:, None], position, PADDING)


def check_top(top: int, d_vocab: int) -> None:
    """Raise OutOfRange unless so many tokens can be listed."""
    if not 1 <= top <= d_vocab:
        raise OutOfRange(f"top={top}: expected 1 to {d_vocab}, the tokens that this model predicts")


def read_pieces(
    model: GPT, recording: Recording, places: Sequence[str], translator: Translator | None = None
) -> Iterator[Piece]:
    """Every kept position of every prompt, a few at a time, at all places at once. Where someone watches, a bar shows
    how far it is if it takes longer than two seconds."""
    config = model.config
    last = full_name(config, "resid_post", config.n_layers - 1)
    stream = {name: recording[name] for name in (*places, last)}
    rows_at_once = max(1, LOGITS_AT_ONCE // (config.n_outputs * len(places)))
    pieces = (positions_kept(recording) != PADDING).nonzero().split(rows_at_once)
    for entries in tqdm(
        pieces, desc="reading places", delay=2.0, leave=False, disable=None
    ):  # None: in a terminal only
        prompt, column = entries.unbind(-1)
        resids = {name: stream[name][prompt, column].to(model.device, model.dtype) for name in stream}
        here = [resids[name] if translator is None else translator(name, resids[name]) for name in places]
        read = _log_probs(model, here)
        final = read[-1] if here[-1] is resids[last] else _log_probs(model, [resids[last]])[0]
        yield Piece(prompt, column, read, final)


class Gathered:
    """What was found in each piece, in tables over all positions: padding where a prompt has no position.

    The tables are there from the first piece on. Small tensors kept from every piece would settle between the large
    ones that come and go, and memory would grow with the prompt: 2.5 MB a position, measured.
    """

    def __init__(self, positions: Int[Tensor, "batch pos"]):
        self._shape = tuple(positions.shape)
        self._tables: dict[str, Tensor] = {}

    def add(
        self, piece: Piece, *, at_places: Mapping[str, Tensor], at_positions: Mapping[str, Tensor] | None = None
    ) -> None:
        """Values by name: (place, row, ...) and (row, ...)."""
        self._of_places = tuple(at_places)
        rows_first = {name: value.movedim(1, 0) for name, value in at_places.items()} | dict(at_positions or {})
        for name, value in rows_first.items():
            table = self._tables[name] = self._table(self._tables.get(name), value)
            table[(piece.prompt, piece.column, *(slice(0, size) for size in value.shape[1:]))] = value.to(table.device)

    def whole(self) -> dict[str, Tensor]:
        """(place, batch, pos, ...) and (batch, pos, ...); NaN for padding, -1 of ids and ranks."""
        return {name: table.movedim(2, 0) if name in self._of_places else table for name, table in self._tables.items()}

    def _table(self, known: Tensor | None, value: Tensor) -> Tensor:
        """The table so far, made wider if this value does not fit: pieces may follow different numbers of tokens."""
        sizes = list(value.shape[1:])
        if known is not None:
            sizes = [max(pair) for pair in zip(sizes, known.shape[2:], strict=True)]
            if sizes == list(known.shape[2:]):
                return known
        fill = torch.nan if value.is_floating_point() else PADDING
        table = torch.full((*self._shape, *sizes), fill, dtype=value.dtype)
        if known is not None:
            table[tuple(slice(0, size) for size in known.shape)] = known
        return table


def uniform_divergence(final: Float[Tensor, "row d_vocab_out"]) -> Float[Tensor, " row"]:
    """KL(final || uniform) = log d_vocab_out - entropy, in nats: what knowing nothing would lose."""
    return math.log(final.shape[-1]) - entropy_of(final)


def _log_probs(model: GPT, resids: Sequence[Float[Tensor, "row d_model"]]) -> Float[Tensor, "place row d_vocab_out"]:
    return log_probs_of(model.read_out(torch.stack(list(resids))))
