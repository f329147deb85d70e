"""Logit lens: the residual stream after every step of a pass, read as if it were the last.

Left out: the tuned lens, which learns a translation per layer.
Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.errors import OutOfRange, check_choice, check_index
from probe.gpt import GPT, at_least_float32
from probe.methods._inputs import check_not_reduced, check_same_model, manifest_of, texts_of, token_ids, token_texts
from probe.recording import PADDING, Recording
from probe.results import Result
from probe.sites import describe_site, full_name, split_name

if TYPE_CHECKING:
    import pandas

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""The sites that a lens reads. Of resid_pre only layer 0's: the others are the layer before's resid_post."""
LOGITS_AT_ONCE = 2**24
"""Logits held at a time (64 MB in float32), so that (place, batch, pos, d_vocab) never exists."""


@dataclass(frozen=True, eq=False)
class LensReadout(Result):
    """What each place in the residual stream would predict, at every position kept. Padding: NaN; -1 for ids and ranks.

    Rank 1 is the most likely token. Log-probabilities, entropies and divergences are in nats.
    """

    places: tuple[str, ...]
    """Full names of the sites read, in the order of the pass."""
    str_tokens: list[list[str]]
    """The text of each token of each prompt."""
    positions: Int[Tensor, "batch pos"]
    """The position in its prompt that each entry is about."""
    top_tokens: Int[Tensor, "place batch pos top"]
    """Ids of the most likely tokens, the likeliest first."""
    top_log_probs: Float[Tensor, "place batch pos top"]
    entropy: Float[Tensor, "place batch pos"]
    """Of each readout; log d_vocab where it has no idea."""
    kl_to_final: Float[Tensor, "place batch pos"]
    """KL(final || lens) = sum over tokens of p_final (log p_final - log p_lens): what stopping here would lose."""
    uniform_kl: Float[Tensor, "batch pos"]
    """KL(final || uniform) = log d_vocab - entropy of the final prediction: what knowing nothing would lose."""
    final_tokens: Int[Tensor, "batch pos"]
    """The token that the whole model finds most likely."""
    final_ranks: Int[Tensor, "place batch pos"]
    """The rank of that token at each place."""
    final_log_probs: Float[Tensor, "place batch pos"]
    watched: tuple[int, ...]
    """Ids of the tokens that were asked for."""
    watched_ranks: Int[Tensor, "place batch pos watched"]
    watched_log_probs: Float[Tensor, "place batch pos watched"]
    texts: Mapping[int, str]
    """The text of every token id in this result."""
    d_vocab: int
    """Tokens in the vocabulary: the largest rank."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    @property
    def worse_than_uniform(self) -> Bool[Tensor, "place batch pos"]:
        """Where the raw lens predicts worse than knowing nothing: there ranks still inform, probabilities do not."""
        return self.kl_to_final > self.uniform_kl

    def entry(self, prompt: int = 0, position: int = -1) -> tuple[int, int]:
        """The index of a prompt and of one of its kept positions (-1: the last), both counted from the front.

        Raises:
            OutOfRange: there is no such one.
        """
        prompt = check_index("prompt", prompt, len(self.positions), owner="this readout")
        kept = int((self.positions[prompt] != PADDING).sum())
        return prompt, check_index("position", position, kept, owner=f"prompt {prompt} of this readout")

    def to_dataframe(self) -> "pandas.DataFrame":
        """Long form: one row per place, prompt, position and token.

        `kind` is "top" or "watched" (a token that is both has two rows); ranks count from 1; numbers are in nats.
        """
        import pandas  # half a second that only tables need

        return pandas.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        worse = self.worse_than_uniform
        for prompt, column in (self.positions != PADDING).nonzero().tolist():
            position = int(self.positions[prompt, column])
            for index, place in enumerate(self.places):
                at = (index, prompt, column)
                shared = {
                    "place": place,
                    "layer": split_name(place)[0],
                    "prompt": prompt,
                    "position": position,
                    "after_token": self.str_tokens[prompt][position],
                    "entropy_nats": float(self.entropy[at]),
                    "kl_final_lens_nats": float(self.kl_to_final[at]),
                    "worse_than_uniform": bool(worse[at]),
                }
                for kind, token, rank, log_prob in self._tokens_at(at):
                    which = {"kind": kind, "token": self.texts[token], "token_id": token}
                    yield {**shared, **which, "rank": rank, "log_prob_nats": log_prob}

    def _tokens_at(self, at: tuple[int, int, int]) -> Iterator[tuple[str, int, int, float]]:
        best = zip(self.top_tokens[at].tolist(), self.top_log_probs[at].tolist(), strict=True)
        for rank, (token, log_prob) in enumerate(best, start=1):
            yield "top", token, rank, log_prob
        ranks, log_probs = self.watched_ranks[at].tolist(), self.watched_log_probs[at].tolist()
        for token, rank, log_prob in zip(self.watched, ranks, log_probs, strict=True):
            yield "watched", token, rank, log_prob


def logit_lens(
    model: GPT,
    recording: Recording,
    *,
    sites: Sequence[str] | None = None,
    watch: Sequence[str | int] = (),
    top: int = 5,
) -> LensReadout:
    """Read the residual stream after every step of a pass as a next-token prediction.

    Each place (batch, pos, d_model) goes through the model's own final norm, recomputed for that place, and through its
    unembedding. So the last place equals ``recording.logits``, unless an intervention changed the final norm itself.

    Args:
        sites: of "resid_pre", "resid_mid" and "resid_post". None: resid_post of every layer and, where the recording
            has them, resid_mid and the embedding (resid_pre of layer 0).
        watch: tokens to follow, as text (" Paris") or ids.
        top: how many of the most likely tokens to list.

    Returns:
        Ranks, log-probabilities, entropies and divergences (nats) per place and position; see LensReadout.

    Raises:
        DifferentModel: the recording is of another model.
        SiteNotRecorded: a place is missing; the message says how to record it.
        BadPrompt: a watched text is not one token of this model; the message shows its pieces.
        OutOfRange: a watched id, or `top`, outside the vocabulary.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    check_same_model(model, recording)
    d_vocab = model.config.d_vocab
    if not 1 <= top <= d_vocab:
        raise OutOfRange(f"top={top}: expected 1 to {d_vocab}, the size of the vocabulary")
    watched = token_ids(model, watch)
    places = _places(recording, sites)
    last = full_name(model.config, "resid_post", model.config.n_layers - 1)
    stream = {name: recording[name] for name in (*places, last)}
    positions = _positions_kept(recording)
    tables = _empty_tables(len(places), len(positions), positions.shape[1], top, len(watched))
    at_once = max(1, LOGITS_AT_ONCE // d_vocab)
    with torch.no_grad():
        for entries in (positions != PADDING).nonzero().split(at_once):
            prompt, column = entries.unbind(-1)
            final = _log_probs(model, [stream[last][prompt, column]])[0]
            best = final.argmax(-1)
            tables["final_tokens"][prompt, column] = best.cpu()
            tables["uniform_kl"][prompt, column] = (math.log(d_vocab) - _entropy(final)).float().cpu()
            for some in torch.arange(len(places)).split(max(1, at_once // len(entries))):
                here = _log_probs(model, [stream[places[index]][prompt, column] for index in some])
                for name, value in _read(here, final, best, watched, top).items():
                    tables[name][some[:, None], prompt, column] = value.to(tables[name])
    listed = [*tables["top_tokens"].unique().tolist(), *tables["final_tokens"].unique().tolist(), *watched]
    return LensReadout(
        places=places,
        str_tokens=texts_of(recording),
        positions=positions,
        **tables,
        watched=tuple(watched),
        texts=token_texts(model, (token for token in listed if token != PADDING)),
        d_vocab=d_vocab,
        manifest=manifest_of(recording, "logit lens", sites=sites, watch=list(watch), top=top),
    )


def _places(recording: Recording, sites: Sequence[str] | None) -> tuple[str, ...]:
    """Full names of what is read, in the order of the pass; all of them were recorded."""
    config, wanted = recording.config, [sites] if isinstance(sites, str) else sites
    for site in STREAM if wanted is None else wanted:
        check_choice("residual stream", site, STREAM)
        check_not_reduced(recording, site)
    stream = [full_name(config, "resid_pre", 0)]
    stream += [full_name(config, site, layer) for layer in range(config.n_layers) for site in STREAM[1:]]
    if wanted is None:
        chosen = [name for name in stream if name.endswith("resid_post") or name in recording]
    else:
        chosen = [name for name in stream if describe_site(name).short in wanted]
    for name in chosen:
        recording[name]  # raises SiteNotRecorded
    return tuple(chosen)


def _positions_kept(recording: Recording) -> Int[Tensor, "batch pos"]:
    """The position that each kept entry is about, -1 after the end of a shorter prompt."""
    if recording.positions is not None:
        return recording.positions
    position = torch.arange(int(recording.lengths.max()))
    return torch.where(position < recording.lengths[:, None], position, PADDING)


def _empty_tables(n_places: int, batch: int, pos: int, top: int, n_watched: int) -> dict[str, Tensor]:
    """Padding everywhere, by the names of LensReadout's fields."""
    at, per_place = (batch, pos), (n_places, batch, pos)
    numbers = {
        "top_log_probs": (*per_place, top), "entropy": per_place, "kl_to_final": per_place, "uniform_kl": at,
        "final_log_probs": per_place, "watched_log_probs": (*per_place, n_watched),
    }  # fmt: skip
    ids = {
        "top_tokens": (*per_place, top), "final_tokens": at, "final_ranks": per_place,
        "watched_ranks": (*per_place, n_watched),
    }  # fmt: skip
    return {name: torch.full(shape, torch.nan) for name, shape in numbers.items()} | {
        name: torch.full(shape, PADDING) for name, shape in ids.items()
    }


def _read(
    here: Float[Tensor, "place row d_vocab"],
    final: Float[Tensor, "row d_vocab"],
    best: Int[Tensor, " row"],
    watched: Sequence[int],
    top: int,
) -> dict[str, Tensor]:
    """What is kept of some places' log-probabilities, given the final ones and their most likely tokens."""
    likeliest = here.topk(top)
    of_best = here.gather(-1, best.expand(len(here), -1)[..., None])
    of_watched = here[..., list(watched)]
    probs = final.exp()
    return {
        "top_tokens": likeliest.indices,
        "top_log_probs": likeliest.values,
        "entropy": _entropy(here),
        # The two sums are the same numbers in the same order for the last place, whose divergence is exactly 0.
        "kl_to_final": ((probs * final).sum(-1) - (probs * here).sum(-1)).clamp(min=0.0),
        "final_log_probs": of_best[..., 0],
        "final_ranks": _ranks(here, of_best)[..., 0],
        "watched_log_probs": of_watched,
        "watched_ranks": _ranks(here, of_watched),
    }


def _log_probs(model: GPT, resids: Sequence[Float[Tensor, "row d_model"]]) -> Float[Tensor, "place row d_vocab"]:
    resid = torch.stack(list(resids)).to(model.device, model.dtype)
    return at_least_float32(model.read_out(resid)).log_softmax(-1)


def _entropy(log_probs: Float[Tensor, "*any d_vocab"]) -> Float[Tensor, "*any"]:
    """In nats."""
    return -(log_probs.exp() * log_probs).sum(-1)


def _ranks(log_probs: Float[Tensor, "*any d_vocab"], chosen: Float[Tensor, "*any token"]) -> Int[Tensor, "*any token"]:
    """1 + how many tokens are strictly likelier."""
    ranks = torch.empty_like(chosen, dtype=torch.long)
    for token in range(chosen.shape[-1]):  # one at a time: (..., token, d_vocab) would be large
        ranks[..., token] = (log_probs > chosen[..., token, None]).count_nonzero(-1) + 1
    return ranks
