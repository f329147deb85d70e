"""One contrast along the whole path: embedding, residual stream after every layer, unembedding.

Nothing is chosen on the data that is reported: every place is shown, and `p_adjusted` compares each with the best place
of every permutation. On pure noise over 12 layers the best "held-out" area averages 0.83 to 0.92 with 8 pairs, so the
best layer of a profile, reported with its own p, means nothing. To report one layer, choose it on some pairs and
evaluate it on others (`fit_direction`, `evaluate_direction`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.arguments import checked
from probe.contexts import Read, WordsInContext, check_templates, read_words
from probe.errors import BadPrompt, OutOfRange, check_choice
from probe.gpt import GPT
from probe.methods._direction import ESTIMATORS, Estimator, OnMissing, Pairs, check_pairs, fit_one
from probe.methods._evidence import FEWEST, Split, accuracy_estimate, auroc_estimate, folds, score
from probe.provenance import provenance
from probe.results import Result
from probe.shown import Summary, count
from probe.statistics import Estimate, bootstrap, check_permutations, cohens_d, p_value, sign_flips
from probe.word_lists import WordPairs
from probe.words import word_vectors

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Place:
    """One stop on the path."""

    name: str
    """'embedding', 'layer 0', ..., 'unembedding'."""
    layer: int | None
    n: int
    """Pairs scored here: in the embedding and the unembedding those of which both words are tokens of their own."""
    auroc: Estimate
    """AUROC out of sample, cross-validated over pairs."""
    accuracy: Estimate
    """The share of pairs whose positive member scores higher, out of sample."""
    effect_size: Estimate
    """Cohen's d, out of sample: still grows where the AUROC is 1."""
    p: float
    """Permutation p of this place by itself."""
    p_adjusted: float
    """Permutation p against the best place of every permutation."""
    twin: Estimate | None
    """AUROC in the untrained twin."""


@dataclass(frozen=True, eq=False)
class LayerProfile(Result):
    """How well one contrast is told apart at every place of a model."""

    direction: str
    model: str
    places: tuple[Place, ...]
    directions: Float[Tensor, "place d"]
    """Unit vectors, each fitted on all pairs of its place."""
    pairs: tuple[tuple[str, str], ...]
    manifest: Mapping[str, Any]

    @property
    def cosines(self) -> Float[Tensor, "place place"]:
        """Cosines between the directions of every two places."""
        return self.directions @ self.directions.T

    def summary(self) -> Summary:
        """Where the contrast is told apart best."""
        best = max(self.places, key=lambda place: place.effect_size.value)
        return Summary(
            f"{self.direction} at {count(len(self.places), 'place')}, {count(len(self.pairs), 'pair')}",
            {"largest effect size at": best.name, "Cohen's d": best.effect_size, "AUROC": best.auroc,
             "p (best of all places)": best.p_adjusted},
            self.model,
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per place."""
        import pandas

        nan = Estimate(float("nan"), float("nan"), float("nan"))
        return pandas.DataFrame(
            {"place": one.name, "layer": one.layer, "n": one.n,
             "auroc": one.auroc.value, "auroc_low": one.auroc.low, "auroc_high": one.auroc.high,
             "accuracy": one.accuracy.value, "effect_size": one.effect_size.value,
             "effect_size_low": one.effect_size.low, "effect_size_high": one.effect_size.high,
             "p": one.p, "p_adjusted": one.p_adjusted,
             "twin_auroc": (one.twin or nan).value, "twin_low": (one.twin or nan).low,
             "twin_high": (one.twin or nan).high}
            for one in self.places
        )  # fmt: skip


@checked
def layer_profile(
    model: GPT,
    pairs: WordPairs | Iterable[Sequence[str]],
    *,
    templates: str | Sequence[str] | None = None,
    read: Read = "word",
    document_start: bool | None = None,
    estimator: Estimator = "mean difference",
    n_permutations: int = 1000,
    twin: bool = True,
    on_missing: OnMissing = "error",
    seed: int = 0,
    progress: bool = True,
) -> LayerProfile:
    """Fit and cross-validate a direction in the embedding, after every layer, and in the unembedding.

    Args:
        pairs: (positive, negative) words; of a word list all of them.
        templates: sentences with {} in which the words are read in the residual stream. None: the word list's own.
        read: the word's last token, or the last of the template.
        document_start: put the model's document separator first. None: if its files name one.
        twin: the same in the untrained twin.

    Raises:
        OutOfRange: fewer than 4 pairs, or fewer than 19 permutations.
        BadPrompt: no templates, or one that cannot be read.
        UnknownName, BadShape: as `fit_direction`.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    check_permutations(n_permutations)
    name = None
    if isinstance(pairs, WordPairs):
        templates = pairs.templates if templates is None else templates
        name, pairs = f"{pairs.positive} - {pairs.negative}", pairs.all
    if templates is None:
        raise BadPrompt("no templates: sentences with {} in which the words are read, such as 'I looked at the {}'")
    texts, start = check_templates(model, templates, read=read, document_start=document_start)
    first = WordsInContext(model, "blocks.0.hook_resid_post", texts, read, start)
    names, dropped = check_pairs(first.missing, pairs, on_missing)
    if len(names) < FEWEST:
        raise OutOfRange(f"{len(names)} pairs: a layer profile needs {FEWEST}")
    stops = _path(model, names, texts, read, start, progress)
    twins = _path(first.twin(seed).model, names, texts, read, start, progress) if twin else None
    signs = sign_flips(len(names), n_permutations, seed=seed).signs
    scored = [_score(estimator, stop, names, signs) for stop in stops]
    best = torch.stack([null for _, _, null in scored]).amax(0)
    places = []
    for number, (stop, (up, down, null)) in enumerate(zip(stops, scored, strict=True)):
        area = auroc_estimate(up, down, seed)
        other = None if twins is None else _twin_area(estimator, twins[number], seed)
        places.append(
            Place(
                stop.name, stop.layer, len(stop.pairs), area, accuracy_estimate(up, down, seed),
                _effect_size(up, down, seed), p_value(area.value, null), p_value(area.value, best), other,
            )
        )  # fmt: skip
    arguments = {
        "pairs": names, "dropped": dropped, "templates": list(texts), "read": read, "document_start": start,
        "estimator": estimator,
        "n_permutations": n_permutations, "twin": twin, "seed": seed,
    }  # fmt: skip
    return LayerProfile(
        direction=name or f"{' - '.join(names[0])} and {len(names) - 1} more", model=model.name, places=tuple(places),
        directions=torch.stack([fit_one(estimator, stop.pairs) for stop in stops]), pairs=names,
        manifest={**provenance(model), "method": "layer profile", "method_arguments": arguments},
    )  # fmt: skip


@dataclass(frozen=True)
class _Stop:
    """The pairs' vectors at one place."""

    name: str
    layer: int | None
    pairs: Pairs


def _path(
    model: GPT, names: Sequence[tuple[str, str]], templates: Sequence[str], read: Read, start: bool, progress: bool
) -> list[_Stop]:
    words = [word for pair in names for word in pair]
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(model.config.n_layers)]
    stream = read_words(
        model, words, sites, templates=templates, read=read, document_start=start, progress=progress
    ).double()
    stops = [_Stop(f"layer {layer}", layer, _pairs(names, values)) for layer, values in enumerate(stream)]
    ends = []
    for own, name in ((word_vectors(model, "embed"), "embedding"), (word_vectors(model, "unembed"), "unembedding")):
        kept = [pair for pair in names if pair[0] in own and pair[1] in own]
        if len(kept) >= FEWEST:
            vectors = own.vectors_of([word for pair in kept for word in pair]).double()
            ends.append(_Stop(name, None, _pairs(kept, vectors)))
    return [*ends[:1], *stops, *ends[1:]]


def _pairs(names: Sequence[tuple[str, str]], vectors: Float[Tensor, "word d"]) -> Pairs:
    return Pairs(tuple(names), {}, vectors[0::2], vectors[1::2])


def _score(
    estimator: Estimator, stop: _Stop, names: Sequence[tuple[str, str]], signs: Float[Tensor, "flip pair"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Out-of-sample scores of both sides, and the AUROC of every permutation; the same pairs are swapped everywhere."""
    splits = folds(stop.pairs.words)
    place_of = {pair: place for place, pair in enumerate(names)}
    columns = [place_of[pair] for pair in stop.pairs.words]
    observed = score(estimator, stop.pairs, torch.ones(1, len(columns)).double(), splits)
    null = score(estimator, stop.pairs, signs[:, columns], splits).auroc
    return observed.positive[0], observed.negative[0], null


def _effect_size(up: Tensor, down: Tensor, seed: int) -> Estimate:
    return bootstrap(lambda draws: cohens_d(up[draws], down[draws]).nan_to_num(), len(up), seed=seed)


def _twin_area(estimator: Estimator, stop: _Stop, seed: int) -> Estimate:
    splits: list[Split] = folds(stop.pairs.words)
    scores = score(estimator, stop.pairs, torch.ones(1, len(stop.pairs)).double(), splits)
    return auroc_estimate(scores.positive[0], scores.negative[0], seed)
