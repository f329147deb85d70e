"""What every attention head does, as scores of its patterns: previous token, duplicate token, induction, and others.

Every score stands beside its chance level, what attention spread evenly over the visible tokens would get on the same
queries. Position 0 is an attention sink: it is left out of entropy and distance, and its share is a score of its own.
Source: Olsson et al., "In-context learning and induction heads" (2022); Elhage et al. (2021).
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from probe.arguments import checked
from probe.errors import BadIntervention, BadPrompt, OutOfRange, SiteNotRecorded, check_choice, check_count
from probe.gpt import GPT
from probe.interventions import Intervention, list_interventions
from probe.methods._inputs import check_not_reduced, manifest_of
from probe.pieces import Pieces
from probe.prompts import Prompts, read_prompts
from probe.provenance import fingerprint, provenance
from probe.recording import Recording, record
from probe.results import LongResult
from probe.shown import Summary, count
from probe.sites import full_name
from probe.tasks import ordinary_tokens, repeated_random_tokens

Score = Literal["previous token", "duplicate token", "induction", "first token", "entropy", "distance"]
SCORES: tuple[Score, ...] = get_args(Score)
Source = Literal["text", "random"]
LENGTH = 48
"""Different tokens of a random prompt, where the context holds them twice."""


@dataclass(frozen=True, eq=False)
class HeadScores(LongResult):
    """Six scores of every head, on the user's texts, on repeated random tokens, or on both.

    Each is a mean over the query positions for which it is defined; NaN where there was none.

    * previous token, duplicate token, induction, first token: attention weight, 0 to 1, on the token before; on earlier
      occurrences of the same token; on the tokens right after those; on position 0.
    * entropy: of the weights on all tokens but position 0, as a share of log(how many of them the query sees), 0 to 1.
    * distance: mean number of tokens back, of the same weights.
    """

    sources: tuple[Source, ...]
    values: Float[Tensor, "source score layer head"]
    """Scores in the order of `SCORES`."""
    standard_error: Float[Tensor, "source score layer head"]
    """Standard error of each mean over prompts; NaN where fewer than two prompts have the score."""
    chance: Float[Tensor, "source score"]
    """What even attention over all tokens up to the query would score on the same queries; a layer with a window sees
    fewer where a prompt is longer."""
    n_queries: Int[Tensor, "source score"]
    """How many query positions each mean is over."""
    n_prompts: Int[Tensor, " source"]
    manifest: Mapping[str, Any]
    """Model, prompts as ids, seed."""

    def of(self, score: Score, source: Source | None = None) -> Float[Tensor, "layer head"]:
        """One score of all heads. `source` None: random tokens where they were run, else the texts.

        Raises:
            UnknownName: no such score, or a source that was not run.
        """
        return self.values[self._index(score, source)]

    @checked
    def top(
        self, score: Score, n: int = 5, *, source: Source | None = None, largest: bool = True
    ) -> list[tuple[int, int, float]]:
        """(layer, head, value) of the n heads that score highest (or lowest).

        Raises:
            UnknownName: as `of`.
        """
        check_count("n", n)
        table = self.of(score, source)
        flat = table.flatten()
        known = flat.isnan().logical_not().nonzero()[:, 0]  # NaN: of no prompt, such as induction without repeats
        order = known[flat[known].argsort(descending=largest, stable=True)[:n]].tolist()
        places = [divmod(place, table.shape[1]) for place in order]
        return [(layer, head, float(table[layer, head])) for layer, head in places]

    def chance_of(self, score: Score, source: Source | None = None) -> float:
        """The chance level of a score.

        Raises:
            UnknownName: as `of`.
        """
        return float(self.chance[self._index(score, source)])

    @property
    def n_rows(self) -> int:
        """How many rows the table has."""
        return self.values.numel()

    def summary(self) -> Summary:
        """The two heads that score highest in each score of attention, beside chance."""
        weights = ("previous token", "duplicate token", "induction", "first token")
        best = {
            score: ", ".join(f"{layer}.{head} {value:.2f}" for layer, head, value in self.top(score, 2))
            + f" (chance {self.chance_of(score):.2g})"
            for score in weights
        }
        n = ", ".join(
            f"{count(int(n), 'prompt')} ({kind})" for kind, n in zip(self.sources, self.n_prompts, strict=True)
        )
        heads = self.values.shape[2] * self.values.shape[3]
        return Summary(f"{len(SCORES)} scores of {heads} heads, on {n}", best, self.manifest["model"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per source, score, layer and head."""
        _, _, n_layers, n_heads = self.values.shape
        for source, kind in enumerate(self.sources):
            for score, name in enumerate(SCORES):
                about = {"source": kind, "score": name}
                evidence = {
                    "chance": float(self.chance[source, score]), "n_queries": int(self.n_queries[source, score]),
                    "n_prompts": int(self.n_prompts[source]),
                }  # fmt: skip
                for layer in range(n_layers):
                    for head in range(n_heads):
                        at = (source, score, layer, head)
                        numbers = {"value": float(self.values[at]), "standard_error": float(self.standard_error[at])}
                        yield {**about, "layer": layer, "head": head, **numbers, **evidence}

    def _index(self, score: Score, source: Source | None) -> tuple[int, int]:
        check_choice("score", score, SCORES)
        chosen = self.sources[-1] if source is None else source
        check_choice("source", chosen, self.sources)
        return self.sources.index(chosen), SCORES.index(score)


@checked
def head_scores(
    model: GPT,
    prompts: Prompts | None = None,
    *,
    document_start: bool = False,
    n_random: int = 8,
    random_length: int | None = None,
    seed: int = 0,
    interventions: Intervention | Iterable[Intervention] = (),
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> HeadScores:
    """Score every head on texts, and on random tokens that are repeated once (where only induction can predict).

    Patterns are scored layer by layer as they are made, one prompt at a time, and never kept.

    Args:
        prompts: texts or token ids, of three tokens or more each. None: random tokens only.
        document_start: put the model's document separator first, in texts and random prompts.
        n_random: how many random prompts; 0: texts only. Each is `random_length` different tokens, no special ones,
            twice in a row. None: 48, or what the context holds.
        seed: of the random tokens.
        interventions: as in `record`, in every pass.
        folder: keep each prompt's scores there, so that the same call goes on after an interruption. Without one,
            Ctrl-C returns the scores of the prompts that are done (`n_prompts` says how many).
        progress: show in a terminal (stderr) how far it is, if it takes longer than a second.

    Returns:
        Scores with chance levels, numbers of queries and standard errors; see HeadScores.

    Raises:
        BadPrompt: neither texts nor random prompts; a text of fewer than three tokens; a prompt that does not fit.
        OutOfRange: a negative number; more different tokens than the vocabulary has.
        BadIntervention: one that does not fit; or any with a folder, which cannot tell whether it is the same again.
        NotSaved: the folder holds the pieces of another call.

    Source: Olsson et al. (2022).
    """
    batches: dict[Source, list[tuple[int, ...]]] = {}
    if prompts is not None:
        batch = read_prompts(model.config, model.tokenizer, prompts, document_start=document_start)
        _check_lengths(batch.lengths)
        batches["text"] = list(batch.ids)
    if n_random < 0:
        raise OutOfRange(f"n_random={n_random}: expected 0 or more prompts")
    length = min(LENGTH, (model.config.n_ctx - 1) // 2) if random_length is None else random_length
    if n_random:
        _check_random_length(model, length, chosen=random_length is not None)
        drawn = repeated_random_tokens(model, n_random, length, seed=seed)
        batches["random"] = list(read_prompts(model.config, model.tokenizer, drawn, document_start=document_start).ids)
    if not batches:
        raise BadPrompt("no prompts: give texts, or n_random above 0")
    changes = list_interventions(interventions)
    if changes and folder is not None:
        raise BadIntervention("head_scores with interventions keeps no folder: what they do cannot be compared later")
    done, tallies = _score_all(model, batches, changes, folder, progress)
    summaries = [_summary(of_source) for of_source in tallies.values()]
    return HeadScores(
        sources=tuple(tallies),
        **{name: torch.stack([summary[name] for summary in summaries]) for name in summaries[0]},
        n_prompts=torch.tensor([len(of_source) for of_source in tallies.values()]),
        manifest={
            **provenance(model), "method": "head scores", "complete": done,
            "prompts": {source: [list(ids) for ids in rows] for source, rows in batches.items()},
            "method_arguments": {
                "document_start": document_start, "n_random": n_random, "random_length": length, "seed": seed,
                "interventions": [str(one) for one in changes],
            },
        },
    )  # fmt: skip


@dataclass(frozen=True)
class _Tally:
    """Scores of one prompt: sums over its queries, and how many there were."""

    sums: Float[Tensor, "score layer head"]
    counts: Float[Tensor, "score layer head"]
    chance: Float[Tensor, " score"]
    """Means."""


@checked
def read_head_scores(recording: Recording) -> HeadScores:
    """The scores of `head_scores`, from patterns that are recorded already, without another pass.

    Args:
        recording: of prompts of three tokens or more, with "pattern" of every layer, head and position.

    Returns:
        As `head_scores` with these texts alone: their source is "text".

    Raises:
        SiteNotRecorded: some of the patterns are missing, or were reduced.
        BadPrompt: a prompt of fewer than three tokens, or a pass that began without tokens.

    Source: Olsson et al. (2022).
    """
    if recording.tokens is None:
        raise BadPrompt("this pass began with a residual stream: without tokens nothing is known to be repeated")
    lengths = recording.lengths.tolist()
    _check_lengths(lengths)
    check_not_reduced(recording, "pattern")
    patterns = [recording["pattern", layer] for layer in range(recording.config.n_layers)]
    if recording.positions is not None or patterns[0].shape[1] != recording.config.n_heads:
        raise SiteNotRecorded(
            "scores need every head at every position; record 'pattern' with positions=None, heads=None"
        )
    tallies = []
    for row, (ids, n) in enumerate(zip(recording.tokens, lengths, strict=True)):
        wanted = _Wanted.of(ids[:n].to(patterns[0].device))
        windows = map(recording.config.window_of_layer, range(len(patterns)))
        sums = [wanted.sums(pattern[row, :, :n, :n], window) for pattern, window in zip(patterns, windows, strict=True)]
        tallies.append(_tally(wanted, sums))
    return HeadScores(
        sources=("text",), **{name: value[None] for name, value in _summary(tallies).items()},
        n_prompts=torch.tensor([len(tallies)]), manifest=manifest_of(recording, "head scores"),
    )  # fmt: skip


def _score_all(
    model: GPT,
    batches: Mapping[Source, list[tuple[int, ...]]],
    changes: Sequence[Intervention],
    folder: str | os.PathLike[str] | None,
    progress: bool,
) -> tuple[bool, dict[Source, list[_Tally]]]:
    """Whether every prompt was scored, and the tallies by source, prompt by prompt."""
    pieces = Pieces(folder, {"fingerprint": fingerprint(model), "prompts": batches})
    work: list[tuple[Source, int, tuple[int, ...]]] = [
        (source, number, ids) for source, rows in batches.items() for number, ids in enumerate(rows)
    ]
    found: dict[Source, list[_Tally]] = {}
    try:
        for source, number, ids in tqdm(
            work, desc="scoring heads", disable=None if progress else True, delay=1.0, leave=False
        ):
            name = f"{source}-{number:05}"
            if name not in pieces:
                pieces.put(name, dataclasses.asdict(_score(model, ids, changes)))
            found.setdefault(source, []).append(_Tally(**pieces.get(name)))
    except KeyboardInterrupt:
        if folder is not None or not found:
            raise
        return False, found
    return True, found


def _score(model: GPT, ids: Sequence[int], changes: Sequence[Intervention]) -> _Tally:
    wanted = _Wanted.of(torch.tensor(ids, device=model.device))

    def summed(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
        window = model.config.window_of_layer(layer)
        return lambda pattern, _: wanted.sums(pattern[0], window)

    sums = {full_name(model.config, "pattern", layer): summed(layer) for layer in range(model.config.n_layers)}
    recording = record(model, [list(ids)], sites=[], reduce=sums, logits=False, interventions=changes)
    return _tally(wanted, recording.stack("pattern").unbind())


def _tally(wanted: "_Wanted", of_layers: Sequence[Float[Tensor, "two score head"]]) -> "_Tally":
    both = torch.stack(list(of_layers)).cpu()  # (layer, sums or counts, score, head)
    return _Tally(both[:, 0].movedim(0, 1), both[:, 1].movedim(0, 1), wanted.chance().cpu())


def _check_random_length(model: GPT, length: int, *, chosen: bool) -> None:
    if length < 2 and not chosen:
        raise BadPrompt(
            f"random prompts are tokens and the same again, of which a context of {model.config.n_ctx} holds too few; "
            "give texts or ids, and n_random=0"
        )
    most = len(ordinary_tokens(model))
    if not 2 <= length <= most:
        raise OutOfRange(f"random_length={length}: expected 2 to {most}, the ordinary tokens of this model")


def _check_lengths(lengths: Iterable[int]) -> None:
    if (shortest := min(lengths)) < 3:
        raise BadPrompt(f"a prompt of {shortest} tokens: scores need at least 3, for something to choose")


@dataclass(frozen=True)
class _Wanted:
    """Which weights of a pattern each score of attention sums, for one prompt."""

    masks: Bool[Tensor, "score query_pos key_pos"]
    """Previous token, duplicate token, induction, first token."""
    visible: Bool[Tensor, "query_pos key_pos"]

    @classmethod
    def of(cls, ids: Int[Tensor, " pos"]) -> "_Wanted":
        place = torch.arange(len(ids), device=ids.device)
        back = place[:, None] - place  # how many tokens back each key is
        same = ids[:, None] == ids
        after_same = torch.nn.functional.pad(same[:, :-1], (1, 0))  # the token before this key is the query's
        not_sink = place > 0
        masks = [
            (back == 1) & not_sink,
            same & (back > 0) & not_sink,
            after_same & (back > 0),
            (place == 0) & (back > 0),
        ]
        return cls(torch.stack(masks), back >= 0)

    def sums(
        self, pattern: Float[Tensor, "head query_pos key_pos"], window: int | None = None
    ) -> Float[Tensor, "two score head"]:
        """Sums over queries of every score, and over how many queries of each head, in a layer of this window."""
        weights = torch.einsum("hqk,sqk->shq", pattern.float(), self.masks.float())
        n_heads = len(pattern)
        counts = self.masks.any(-1).sum(-1)[:, None].expand(-1, n_heads)
        entropy, distance, defined = self._without_sink(pattern.float(), window)
        n = defined.sum(-1)
        sums = torch.cat([weights.sum(-1), entropy.sum(-1)[None], distance.sum(-1)[None]])
        return torch.stack([sums, torch.cat([counts, n[None], n[None]]).float()])

    def chance(self) -> Float[Tensor, " score"]:
        """Means over queries of what even attention gets."""
        even = self.visible / self.visible.sum(-1, keepdim=True)
        sums, counts = self.sums(even[None])[..., 0]
        return sums / counts.clamp(min=1.0)

    def _without_sink(
        self, pattern: Float[Tensor, "head query_pos key_pos"], window: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Relative entropy and distance of each query's weights on all but position 0, and whether it has any.

        Queries that see fewer than two such tokens have no choice, and none is defined for them.
        """
        n = pattern.shape[-1]
        rest = pattern[:, 2:, 1:]
        total = rest.sum(-1, keepdim=True)
        share = rest / total.clamp(min=torch.finfo(rest.dtype).tiny)
        query = torch.arange(2, n, device=pattern.device)
        seen = query if window is None else query.clamp(max=window)  # tokens beside position 0
        defined = (total[..., 0] > 0) & (seen > 1)
        entropy = -torch.xlogy(share, share).sum(-1) / seen.clamp(min=2).log()
        back = query[:, None] - torch.arange(1, n, device=pattern.device)
        return entropy, (share * back.clamp(min=0)).sum(-1), defined


def _summary(tallies: Sequence[_Tally]) -> dict[str, Tensor]:
    """By the names of HeadScores' fields."""
    sums, counts = torch.stack([t.sums for t in tallies]), torch.stack([t.counts for t in tallies])
    chances = torch.stack([t.chance for t in tallies])
    by_prompt = sums / counts  # NaN where a prompt has no such query
    n_defined = (counts > 0).sum(0)
    squares = (by_prompt - by_prompt.nanmean(0)).square().nansum(0)
    error = (squares / (n_defined - 1).clamp(min=1) / n_defined.clamp(min=1)).sqrt()
    of_any_head = counts.amax((2, 3))  # (prompt, score)
    return {
        "values": sums.sum(0) / counts.sum(0),
        "standard_error": error.masked_fill(n_defined < 2, torch.nan),
        "chance": (chances * of_any_head).sum(0) / of_any_head.sum(0),
        "n_queries": of_any_head.sum(0).long(),
    }
