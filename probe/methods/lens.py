"""Logit lens: the residual stream after every step of a pass, read as if it were the last.

A tuned lens, which learns a translation per place, is fitted in `tuned_lens.py` and handed over here.
Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.arguments import checked
from probe.distributions import entropy_of, kl_divergence, ranks_of
from probe.errors import BadShape, as_integer, check_index
from probe.gpt import GPT
from probe.methods._inputs import check_same_model, manifest_of, texts_of, token_ids, token_texts
from probe.methods._stream import (
    Gathered,
    Piece,
    Translator,
    check_top,
    choose_places,
    positions_kept,
    read_pieces,
    uniform_divergence,
)
from probe.recording import PADDING, Recording
from probe.results import LongResult
from probe.shown import Summary, count, describe_prompts
from probe.sites import split_name


@dataclass(frozen=True, eq=False)
class LensReadout(LongResult):
    """What each place in the residual stream would predict, at every position kept. Padding: NaN; -1 for ids and ranks.

    Rank 1 is the most likely token, and ties share the better rank. Log-probabilities, entropies and divergences are in
    nats.
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
    """Entropy of each place's prediction (nats); log d_vocab where it has no idea."""
    kl_to_final: Float[Tensor, "place batch pos"]
    """KL(final || lens) = sum over tokens of p_final (log p_final - log p_lens): what stopping here would lose."""
    uniform_kl: Float[Tensor, "batch pos"]
    """KL(final || uniform) = log d_vocab - entropy of the final prediction: what knowing nothing would lose."""
    final_tokens: Int[Tensor, "batch pos"]
    """The token that the whole model finds most likely."""
    final_ranks: Int[Tensor, "place batch pos"]
    """The rank of that token at each place."""
    final_log_probs: Float[Tensor, "place batch pos"]
    watched: Int[Tensor, "batch pos watched"]
    """Ids of the tokens that are followed at each position: those asked for, or every token that is first at some
    place, in the order of the pass (then each position has its own, and -1 fills up)."""
    watched_ranks: Int[Tensor, "place batch pos watched"]
    watched_log_probs: Float[Tensor, "place batch pos watched"]
    texts: Mapping[int, str]
    """The text of every token id in this result."""
    d_vocab: int
    """Tokens that the model can predict (its `config.n_outputs`): the largest rank."""
    tuned: bool
    """Whether a tuned lens translated each place."""
    manifest: Mapping[str, Any]
    """Where the numbers come from."""

    @property
    def worse_than_uniform(self) -> Bool[Tensor, "place batch pos"]:
        """Where the lens predicts worse than knowing nothing: there ranks still inform, probabilities do not."""
        return self.kl_to_final > self.uniform_kl

    def entry(self, prompt: int = 0, position: int = -1) -> tuple[int, int]:
        """The index of a prompt and of one of its kept positions (-1: the last), both counted from the front.

        Raises:
            OutOfRange: there is no such one.
        """
        prompt = check_index("prompt", prompt, len(self.positions), owner="this readout")
        kept = int((self.positions[prompt] != PADDING).sum())
        return prompt, check_index("position", position, kept, owner=f"prompt {prompt} of this readout")

    def watched_at(self, prompt: int, column: int) -> list[int]:
        """Ids of the tokens that are followed at one kept position."""
        n_prompts, n_kept = self.watched.shape[:2]
        prompt = check_index("prompt", prompt, n_prompts, owner="this readout")
        column = check_index("column", column, n_kept, owner="this readout")
        return [token for token in self.watched[prompt, column].tolist() if token != PADDING]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per place, prompt, position and token.

        `kind` is "top" or "watched" (a token that is both has two rows); ranks count from 1; numbers are in nats.
        """
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

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        kept, followed = (int((entries != PADDING).sum()) for entries in (self.positions, self.watched))
        return len(self.places) * (self.top_tokens.shape[-1] * kept + followed)

    def summary(self) -> Summary:
        """What the first prompt ends in, and how far the lens can be believed."""
        at = self.entry()
        likeliest = self.texts[int(self.final_tokens[at])]
        first = (self.final_ranks[:, *at] == 1).nonzero()[:, 0].tolist()
        worse, real = self.worse_than_uniform, self.positions != PADDING
        return Summary(
            f"{'tuned' if self.tuned else 'raw'} lens at {count(len(self.places), 'place')} in "
            f"{describe_prompts(self.str_tokens)}",
            {
                "the end of prompt 0 is continued by": repr(likeliest),
                "its rank, first to last place": " → ".join(
                    f"{int(self.final_ranks[place, *at]):,}" for place in _some(self.places)
                ),
                "first there": self.places[first[0]] if first else None,
                "worse than uniform at": f"{int(worse[:, real].sum()):,} of {worse[:, real].numel():,}",
            },
            self.manifest["model"],
            self.str_tokens,
        )

    def _tokens_at(self, at: tuple[int, int, int]) -> Iterator[tuple[str, int, int, float]]:
        best = zip(self.top_tokens[at].tolist(), self.top_log_probs[at].tolist(), strict=True)
        for rank, (token, log_prob) in enumerate(best, start=1):
            yield "top", token, rank, log_prob
        followed = self.watched_at(*at[1:])
        ranks, log_probs = self.watched_ranks[at].tolist(), self.watched_log_probs[at].tolist()
        for token, rank, log_prob in zip(followed, ranks, log_probs, strict=False):
            yield "watched", token, rank, log_prob


@dataclass(frozen=True, eq=False)
class LensDifference(LongResult):
    """Two runs of the same prompts under one lens: what the second says otherwise, place by place."""

    before: LensReadout
    after: LensReadout
    """Both follow the same tokens: those asked for, or every one that is first somewhere in either run."""
    divergence: Float[Tensor, "place batch pos"]
    """KL(before || after) of the two readouts of a place, in nats; NaN for padding."""
    raised_tokens: Int[Tensor, "place batch pos top"]
    """Ids of the tokens whose probability grew most, the most first."""
    raised_by: Float[Tensor, "place batch pos top"]
    """Probability after minus probability before, of the raised tokens."""
    lowered_tokens: Int[Tensor, "place batch pos top"]
    lowered_by: Float[Tensor, "place batch pos top"]
    """Probability after minus probability before, of the lowered tokens: negative, the largest loss first."""
    texts: Mapping[int, str]
    """The text of every token id in these two."""
    manifest: Mapping[str, Any]
    """The second run's, with the first run's under "before"."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per place, prompt, position and followed token, before and after side by side."""
        columns = {(p, int(at)): c for p, row in enumerate(self.after.positions.tolist()) for c, at in enumerate(row)}
        place = {name: index for index, name in enumerate(self.after.places)}
        for old, new in zip(self.before.rows(), self.after.rows(), strict=True):
            if new["kind"] == "watched":
                assert all(old[name] == new[name] for name in _KEYS), "both follow the same tokens in the same order"
                column = columns[new["prompt"], new["position"]]
                yield {
                    **{name: new[name] for name in _KEYS},
                    **{f"{name}_before": old[name] for name in _NUMBERS},
                    **{f"{name}_after": new[name] for name in _NUMBERS},
                    "kl_before_after_nats": float(self.divergence[place[new["place"]], new["prompt"], column]),
                }

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        return len(self.after.places) * int((self.after.watched != PADDING).sum())

    def summary(self) -> Summary:
        """What changed at the end of the first prompt."""
        prompt, column = self.after.entry()
        at = (-1, prompt, column)
        raised, lowered = (
            f"{self.texts[int(tokens[at][0])]!r} {float(by[at][0]):+.3f}"
            for tokens, by in ((self.raised_tokens, self.raised_by), (self.lowered_tokens, self.lowered_by))
        )
        return Summary(
            f"two runs, read at {count(len(self.after.places), 'place')} in {describe_prompts(self.after.str_tokens)}",
            {
                "KL(before || after) at the end of prompt 0": f"{float(self.divergence[at]):.3g} nats",
                "probability gained": raised,
                "lost": lowered,
            },
            self.manifest["model"],
            self.after.str_tokens,
        )


_KEYS = ("place", "layer", "prompt", "position", "after_token", "token", "token_id")
_NUMBERS = ("rank", "log_prob_nats", "entropy_nats", "kl_final_lens_nats")


def _some(places: Sequence[str]) -> list[int]:
    """Indices of about five, first and last among them."""
    last = len(places) - 1
    return sorted({round(last * share / 4) for share in range(5)})


@checked
def logit_lens(
    model: GPT,
    recording: Recording,
    *,
    sites: Sequence[str] | None = None,
    watch: Sequence[str | int] | None = None,
    top: int = 5,
    tuned: Translator | None = None,
) -> LensReadout:
    """Read the residual stream after every step of a pass as a next-token prediction.

    Each place (batch, pos, d_model) goes through the model's own final norm, recomputed for that place, and through its
    unembedding. So the last place equals ``recording.logits``, unless an intervention changed the final norm itself.

    Args:
        sites: of "resid_pre", "resid_mid" and "resid_post". None: resid_post of every layer and, where the recording
            has them, resid_mid and the embedding (resid_pre of layer 0).
        watch: tokens to follow at every position, as text (" Paris") or ids. None: at each position every token that
            is first at some place there.
        top: how many of the most likely tokens to list.
        tuned: a tuned lens (`probe.load_tuned_lens`), to translate each place first. None: the raw lens.

    Returns:
        Ranks, log-probabilities, entropies and divergences (nats) per place and position; see LensReadout.

    Raises:
        DifferentModel: the recording, or the tuned lens, is of another model.
        SiteNotRecorded: a place is missing; the message says how to record it.
        BadPrompt: a watched text is not one token of this model; the message shows its pieces.
        OutOfRange: a watched id, or `top`, outside the vocabulary.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    places, watched = _check(model, [recording], sites, watch, top, tuned)
    found = Gathered(positions_kept(recording))
    with torch.no_grad():
        for piece in read_pieces(model, recording, places, tuned):
            _add(found, piece, _followed([piece], watched), top)
    return _readout(model, recording, places, found, _arguments(sites, watch, top, tuned))


@checked
def lens_difference(
    model: GPT,
    before: Recording,
    after: Recording,
    *,
    sites: Sequence[str] | None = None,
    watch: Sequence[str | int] | None = None,
    top: int = 5,
    tuned: Translator | None = None,
) -> LensDifference:
    """Read two runs of the same prompts, such as one without and one with an intervention, under one lens.

    Arguments and errors are those of `logit_lens`.

    Returns:
        Both readouts, and per place and position KL(before || after) (nats) and the tokens whose probability changed
        most; see LensDifference.

    Raises:
        BadShape: the two recordings differ in prompts, positions or places.
    """
    places, watched = _check(model, [before, after], sites, watch, top, tuned)
    positions = positions_kept(before)
    found = [Gathered(positions), Gathered(positions)]
    change = Gathered(positions)
    with torch.no_grad():
        runs = [read_pieces(model, recording, places, tuned) for recording in (before, after)]
        for one, other in zip(*runs, strict=True):
            followed = _followed([one, other], watched)
            _add(found[0], one, followed, top)
            _add(found[1], other, followed, top)
            change.add(one, at_places=_change(one, other, top))
    arguments = _arguments(sites, watch, top, tuned)
    readouts = [
        _readout(model, run, places, of_run, arguments) for run, of_run in zip((before, after), found, strict=True)
    ]
    changes = change.whole()
    return LensDifference(
        before=readouts[0],
        after=readouts[1],
        **changes,
        texts=_texts(model, changes["raised_tokens"], changes["lowered_tokens"]),
        manifest={**readouts[1].manifest, "method": "lens difference", "before": readouts[0].manifest},
    )


def _check(
    model: GPT,
    recordings: Sequence[Recording],
    sites: Sequence[str] | None,
    watch: Sequence[str | int] | None,
    top: int,
    tuned: Translator | None,
) -> tuple[tuple[str, ...], list[int] | None]:
    """The places to read and the ids to follow, once everything has been found to fit."""
    for recording in recordings:
        check_same_model(model, recording)
    check_top(top, model.config.n_outputs)
    watched = None if watch is None else token_ids(model, watch)
    places = [choose_places(recording, sites) for recording in recordings]
    if places[0] != places[-1]:
        raise BadShape("the two recordings kept different sites of the residual stream; name those to read with sites=")
    _check_same_prompts(recordings[0], recordings[-1])
    if tuned is not None:
        tuned.check(model, places[0])
    return places[0], watched


def _check_same_prompts(before: Recording, after: Recording) -> None:
    same = torch.equal(before.lengths, after.lengths) and torch.equal(positions_kept(before), positions_kept(after))
    if not same:
        raise BadShape("the two recordings kept different positions, or prompts of different lengths: nothing to pair")
    if before.tokens is not None and after.tokens is not None and not torch.equal(before.tokens, after.tokens):
        raise BadShape("the two recordings are of different prompts; a difference is between two runs of the same ones")


def _followed(pieces: Sequence[Piece], watched: Sequence[int] | None) -> Int[Tensor, "row watched"]:
    """The tokens asked for; or at each row those that are first at some place of some run, in the order of the pass."""
    rows = len(pieces[0].prompt)
    if watched is not None:
        return torch.tensor(list(watched), dtype=torch.long).expand(rows, -1)
    firsts = torch.stack([piece.places.argmax(-1) for piece in pieces], dim=1).flatten(0, 1).T.tolist()
    of_rows = [list(dict.fromkeys(row)) for row in firsts]
    most = max(map(len, of_rows))
    return torch.tensor([row + [PADDING] * (most - len(row)) for row in of_rows])


def _add(found: Gathered, piece: Piece, followed: Int[Tensor, "row watched"], top: int) -> None:
    """Keep of a piece what LensReadout holds, by the names of its fields."""
    here, final = piece.places, piece.final
    best = final.argmax(-1)
    likeliest = here.topk(top)
    asked = followed.to(here.device)
    nobody = asked == PADDING
    of_followed = here.gather(-1, asked.clamp(min=0).expand(len(here), -1, -1))
    of_best = here.gather(-1, best.expand(len(here), -1)[..., None])
    found.add(
        piece,
        at_places={
            "top_tokens": likeliest.indices,
            "top_log_probs": likeliest.values,
            "entropy": entropy_of(here),
            "kl_to_final": kl_divergence(final, here),
            "final_ranks": ranks_of(here, of_best)[..., 0],
            "final_log_probs": of_best[..., 0],
            "watched_ranks": ranks_of(here, of_followed).masked_fill(nobody, PADDING),
            "watched_log_probs": of_followed.masked_fill(nobody, torch.nan),
        },
        at_positions={"uniform_kl": uniform_divergence(final), "final_tokens": best, "watched": followed},
    )


def _change(before: Piece, after: Piece, top: int) -> dict[str, Tensor]:
    """By the names of LensDifference's fields."""
    change = after.places.exp() - before.places.exp()
    raised, lowered = change.topk(top), change.topk(top, largest=False)
    return {
        "divergence": kl_divergence(before.places, after.places),
        "raised_tokens": raised.indices,
        "raised_by": raised.values,
        "lowered_tokens": lowered.indices,
        "lowered_by": lowered.values,
    }


def _readout(
    model: GPT, recording: Recording, places: tuple[str, ...], found: Gathered, arguments: Mapping[str, Any]
) -> LensReadout:
    tables = found.whole()
    return LensReadout(
        places=places,
        str_tokens=texts_of(recording),
        positions=positions_kept(recording),
        **tables,
        texts=_texts(model, *(tables[name] for name in ("top_tokens", "final_tokens", "watched"))),
        d_vocab=model.config.n_outputs,
        tuned=arguments["tuned"] is not None,
        manifest=manifest_of(recording, "logit lens", **arguments),
    )


def _texts(model: GPT, *ids: Int[Tensor, "..."]) -> dict[int, str]:
    listed = {token for tensor in ids for token in tensor.unique().tolist()}
    return token_texts(model, listed - {PADDING})


def _arguments(
    sites: Sequence[str] | None, watch: Sequence[str | int] | None, top: int, tuned: Translator | None
) -> dict[str, Any]:
    return {
        "sites": sites,
        "watch": None if watch is None else [one if isinstance(one, str) else as_integer(one) for one in watch],
        "top": top,
        "tuned": None if tuned is None else dict(tuned.manifest),
    }
