"""Does the model use a direction? Add it (sufficiency), take it out (necessity), and count what else breaks (damage).

Each effect stands beside that of random directions: of the same length when added, taken out in the same way when
erased. They are isotropic, or have the covariance of unrelated words with the fitted direction projected out; drawn
from the pairs themselves they would hold the very contrast that they are compared with.
Sources: Turner et al., "Activation addition" (2023); Belrose et al., "LEACE: perfect linear concept erasure in closed
form" (2023); Elazar et al., "Amnesic probing" (2021).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from probe.arguments import brief, checked, several
from probe.contexts import WordsInContext
from probe.distributions import kl_divergence, log_probs_of
from probe.errors import BadPrompt, BadShape, DifferentModel, OutOfRange, check_choice, check_index
from probe.geometry import unit, without
from probe.gpt import GPT
from probe.interventions import Intervention, add, edit, project_out
from probe.methods._direction import Direction
from probe.methods._evidence import N_UNRELATED, covariance_matched, isotropic
from probe.methods._inputs import token_ids, token_texts
from probe.methods._joining import check_joined, join_tensors
from probe.prompts import read_prompts
from probe.provenance import fingerprint, provenance
from probe.recording import record
from probe.results import Result
from probe.shown import Summary, count
from probe.sites import RESIDUAL, describe_site, full_name, split_name
from probe.statistics import SIGNIFICANT, Estimate, bootstrap, p_value
from probe.words import WordVectors

if TYPE_CHECKING:
    import pandas

Positions = Literal["last", "all"]
RandomKind = Literal["isotropic", "covariance-matched"]
DOSES = (-0.4, -0.2, -0.1, 0.1, 0.2, 0.4)
"""Doses by default, in norms of the residual stream."""
USED = (
    "used: at the dose nearest to one gap the contrast moves that way, with its whole 95 % interval, and further than "
    "by all but 5 % of the random directions"
)
"""How the verdict comes about."""
UNRELATED = (
    "The recipe calls for two cups of flour, a pinch of salt and enough water to make a soft dough.",
    "In 1911 the expedition reached the coast again after four months on the ice.",
    "To compute the area of a circle, multiply the square of its radius by pi.",
    "It rained all night, and in the morning the road to the valley was closed.",
)
"""Texts that have nothing to do with the contrast: what changes there is damage."""
_TOKENS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class DoseCurve(Result):
    """What adding a direction does to a logit contrast, dose by dose, beside random directions of the same length."""

    direction: str
    model: str
    site: str
    """Full name of the site it was added at."""
    positions: Positions
    """The last position of each prompt, or all but position 0."""
    contrast: str
    """"' are' - ' is'": whose logits are compared, after the last token."""
    prompts: tuple[str, ...]
    doses: tuple[float, ...]
    """The doses added, in norms of the residual stream at the site."""
    norm: float
    """The mean norm of the residual stream at this site, over all positions of the prompts but position 0."""
    gap: float
    """How far apart the two groups of words are along the direction, in the same unit of norms: one natural dose."""
    clean: Float[Tensor, " prompt"]
    """The contrast without any dose (logits)."""
    effects: Float[Tensor, "dose prompt"]
    """How far each dose moves the contrast (logits)."""
    random_effects: Float[Tensor, "random dose prompt"]
    """How far each dose of random directions moves the contrast (logits)."""
    random_kind: RandomKind
    damage: Float[Tensor, "dose text"]
    """KL(clean || dosed) of the next token, mean over the positions of each unrelated text (nats)."""
    random_damage: Float[Tensor, "few dose text"]
    """KL(clean || dosed), as `damage`, for the first three random directions (nats)."""
    seed: int
    manifest: Mapping[str, Any]

    @checked
    def effect(self, dose: float) -> Estimate:
        """How far a dose moves the contrast (logits): mean over prompts with its 95 % interval.

        Raises:
            OutOfRange: a dose that was not given.
        """
        values = self.effects[self._index(dose)]
        return bootstrap(lambda draws: values[draws].mean(-1), len(values), seed=self.seed)

    @checked
    def p(self, dose: float) -> float:
        """The share of random directions that move the contrast at least as far, either way.

        Raises:
            OutOfRange: a dose that was not given.
        """
        index = self._index(dose)
        own, others = self.effects[index].mean().abs(), self.random_effects[:, index].mean(-1).abs()
        return p_value(own, others)

    @property
    def natural_dose(self) -> float:
        """The dose given that is nearest to one gap towards the positive words; away from them if none is positive."""
        towards = [dose for dose in self.doses if dose > 0]
        return min(towards or self.doses, key=lambda dose: abs(abs(dose) - self.gap))

    @property
    def used(self) -> bool:
        """Whether the model uses the direction, by `USED`."""
        found = self.effect(self.natural_dose)
        moved = found.low > 0 if self.natural_dose > 0 else found.high < 0
        return moved and self.p(self.natural_dose) <= SIGNIFICANT

    def summary(self) -> Summary:
        """What the natural dose does, beside random directions."""
        dose = self.natural_dose
        return Summary(
            f"{self.direction} added at {self.site} ({self.positions} positions), {count(len(self.doses), 'dose')}, "
            f"{count(len(self.prompts), 'prompt')}: logit of {self.contrast}",
            {
                f"at dose {dose:+.3g}": self.effect(dose), "p": self.p(dose), "used": self.used,
                "random directions": f"{len(self.random_effects)} {self.random_kind}",
            },
            self.model,
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per dose and direction."""
        import pandas

        rows = []
        for index, dose in enumerate(self.doses):
            found = self.effect(dose)
            rows.append(
                {"direction": self.direction, "dose": dose, "effect": found.value, "low": found.low,
                 "high": found.high, "p": self.p(dose), "damage_nats": float(self.damage[index].mean())}
            )  # fmt: skip
            for number, effect in enumerate(self.random_effects[:, index].mean(-1).tolist()):
                damage = self.random_damage[number, index].mean() if number < len(self.random_damage) else torch.nan
                rows.append(
                    {"direction": f"random {number}", "dose": dose, "effect": effect, "damage_nats": float(damage)}
                )
        return pandas.DataFrame(rows)

    def _index(self, dose: float) -> int:
        if dose not in self.doses:
            raise OutOfRange(f"dose {dose}: given were {', '.join(map(str, self.doses))}")
        return self.doses.index(dose)


@checked
def dose_curve(
    model: GPT,
    direction: Direction,
    prompts: Sequence[str],
    *,
    target: str | int,
    against: str | int,
    doses: Sequence[float] = DOSES,
    layer: int | None = None,
    site: str | None = None,
    positions: Positions = "last",
    n_random: int = 20,
    random_kind: RandomKind = "isotropic",
    unrelated: Sequence[str] = UNRELATED,
    document_start: bool | None = None,
    seed: int = 0,
    progress: bool = True,
) -> DoseCurve:
    """Add multiples of a direction to the residual stream and follow the logit of `target` minus that of `against`.

    Args:
        prompts: texts after whose last token the two are compared; of both sides of the contrast, or of neither.
        doses: multiples of the mean norm of the residual stream at the site, with their sign.
        layer, site: where to add it. None: where the direction was found (in the embedding: before layer 0; in the
            unembedding: after the last layer).
        positions: each prompt's last position, or "all" but position 0, which is an attention sink.
        n_random: random directions of the same length; with fewer than 19, p cannot reach 0.05.
        document_start: put the model's document separator first. None: if its files name one.

    Raises:
        DifferentModel: a direction of another model, or of static word vectors.
        OutOfRange: no doses, a dose of zero or one given twice, fewer than 10 random directions, no such layer.
        BadPrompt: no prompts, a target that is not one token, or a prompt of one token.
        UnknownName: a site that is not the residual stream.
    """
    place = _place(model, direction, site, layer)
    check_choice("positions", positions, get_args(Positions))
    check_choice("kind of random directions", random_kind, get_args(RandomKind))
    doses = _check_doses(doses)
    if n_random < 10:
        raise OutOfRange(f"n_random={n_random}: expected at least 10 random directions to compare with")
    start = _starts(model, document_start)
    pair = token_ids(model, [target, against])
    texts = _check_texts(model, prompts, start)
    others = _check_texts(model, unrelated, start)
    run, control = _Rerun(model, place, texts, start), _Rerun(model, place, others, start)
    norm = run.norm
    vectors = torch.cat([direction.vector[None], _random(direction, n_random, random_kind, seed)])
    steps = [(vector, dose) for vector in vectors for dose in doses]
    clean = _contrast(run.logits([None], positions), pair)[0]
    moved = []
    chunks = list(run.chunks(len(steps)))
    for chunk in tqdm(chunks, desc="doses", delay=1, disable=None if progress else True):
        changes = [steps[index][0] * steps[index][1] * norm for index in chunk]
        moved.append(_contrast(run.logits(changes, positions), pair) - clean)
    effects = torch.cat(moved).view(1 + n_random, len(doses), len(texts))
    damage = torch.stack(
        [torch.stack([control.divergence(vector * dose * norm) for dose in doses]) for vector in vectors[:4]]
    )
    names = token_texts(model, pair)
    arguments = {
        "direction": dict(direction.manifest["method_arguments"]), "prompts": list(texts), "target": pair[0],
        "against": pair[1], "doses": list(doses), "site": place, "positions": positions, "n_random": n_random,
        "random_kind": random_kind, "unrelated": list(others), "document_start": start, "seed": seed,
    }  # fmt: skip
    return DoseCurve(
        direction=direction.name, model=model.name, site=place, positions=positions,
        contrast=f"{names[pair[0]]!r} - {names[pair[1]]!r}", prompts=texts, doses=doses, norm=norm,
        gap=direction.gap / norm, clean=clean, effects=effects[0], random_effects=effects[1:], random_kind=random_kind,
        damage=damage[0], random_damage=damage[1:], seed=seed,
        manifest={**provenance(model), "method": "dose curve", "method_arguments": arguments},
    )  # fmt: skip


@checked
def join_doses(curves: Sequence[DoseCurve]) -> DoseCurve:
    """Several curves as one over the doses of all of them, as one call would give it.

    Raises:
        OutOfRange: no curves; a dose that stands in two of them; curves that differ in more than their doses.
        WrongType: other results.
        DifferentModel: curves of models with other weights.
    """
    check_joined("curves", curves, DoseCurve, lambda curve: {**curve.manifest["method_arguments"], "doses": None})
    first, given = curves[0], [dose for curve in curves for dose in curve.doses]
    doses = _check_doses(given)
    called = {**first.manifest["method_arguments"], "doses": list(doses)}
    return dataclasses.replace(
        first, **join_tensors(curves, "dose", [given.index(dose) for dose in doses]), doses=doses,
        manifest={**first.manifest, "method_arguments": called},
    )  # fmt: skip


Erasure = Literal["project out", "leace"]
Layers = Literal["this", "from here on"]


@dataclass(frozen=True, eq=False)
class ErasureTest(Result):
    """How much of a contrast between two groups of prompts is left when a direction is taken out."""

    direction: str
    model: str
    sites: tuple[str, ...]
    """Full names of the sites where the direction was taken out."""
    positions: Positions
    erasure: Erasure
    contrast: str
    clean: Float[Tensor, " pair"]
    """Contrast after each positive prompt minus that after its negative partner (logits)."""
    erased: Float[Tensor, " pair"]
    """`clean` with the direction taken out (logits)."""
    random_erased: Float[Tensor, "random pair"]
    """`clean` with random directions taken out (logits)."""
    damage: Float[Tensor, " text"]
    """KL(clean || erased) of the next token on unrelated texts, mean over positions (nats)."""
    seed: int
    manifest: Mapping[str, Any]

    @property
    def left(self) -> Estimate:
        """What is left of the clean contrast, as a share of it: a ratio of means, with its interval over pairs."""
        return bootstrap(
            lambda draws: self.erased[draws].mean(-1) / self.clean[draws].mean(-1), len(self.clean), seed=self.seed
        )

    @property
    def p(self) -> float:
        """The share of random directions whose removal leaves as little of the difference, whichever way it goes."""
        left, of_random = (values.mean(-1) / self.clean.mean() for values in (self.erased, self.random_erased))
        return p_value(-left, -of_random)

    def summary(self) -> Summary:
        """What is left, and what it costs elsewhere."""
        return Summary(
            f"{self.direction} taken out at {count(len(self.sites), 'site')} ({self.erasure}): {self.contrast} over "
            f"{count(len(self.clean), 'pair')} of prompts",
            {
                "share of the difference left": self.left, "p": self.p,
                "damage to unrelated texts": f"{float(self.damage.mean()):.3g} nats",
            },
            self.model,
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair of prompts."""
        import pandas

        return pandas.DataFrame(
            {"pair": number, "clean": clean, "erased": erased, "random_mean": random}
            for number, (clean, erased, random) in enumerate(
                zip(self.clean.tolist(), self.erased.tolist(), self.random_erased.mean(0).tolist(), strict=True)
            )
        )


@checked
def erasure_test(
    model: GPT,
    direction: Direction,
    prompts: Sequence[tuple[str, str]],
    *,
    target: str | int,
    against: str | int,
    erasure: Erasure = "project out",
    layers: Layers = "this",
    positions: Positions = "last",
    n_random: int = 20,
    random_kind: RandomKind = "isotropic",
    unrelated: Sequence[str] = UNRELATED,
    document_start: bool | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ErasureTest:
    """Take a direction out of the residual stream, and see what is left of the difference between pairs of prompts.

    Args:
        prompts: (positive, negative) texts, such as ("The cats", "The cat").
        erasure: "project out" removes what lies along the direction; "leace" applies the least change after which no
            linear classifier tells the pairs that it was fitted on apart (at this layer only).
        layers: where the direction was found, or there and after every later layer.
        positions: each prompt's last position, or "all" but position 0.

    Raises:
        As `dose_curve`; OutOfRange also for leace at more than one layer, or fewer than 2 pairs of prompts.
    """
    place = _place(model, direction, None, None)
    check_choice("erasure", erasure, get_args(Erasure))
    check_choice("layers", layers, get_args(Layers))
    check_choice("positions", positions, get_args(Positions))
    check_choice("kind of random directions", random_kind, get_args(RandomKind))
    if erasure == "leace" and layers != "this":
        raise OutOfRange("leace is fitted on the vectors of one layer: layers='this'")
    if n_random < 10 or len(prompts) < 2:
        raise OutOfRange(f"{len(prompts)} pairs of prompts, n_random={n_random}: expected at least 2 and 10")
    start = _starts(model, document_start)
    pair = token_ids(model, [target, against])
    texts = _check_texts(model, [text for both in prompts for text in _two(both)], start)
    others = _check_texts(model, unrelated, start)
    sites = _sites_from(model, place, layers)
    eraser = _leace(direction) if erasure == "leace" else None
    own = [_erase(name, direction.vector, positions, eraser) for name in sites]
    clean = _difference(model, texts, pair, [], start)
    erased = _difference(model, texts, pair, own, start)
    random = []
    vectors = _random(direction, n_random, random_kind, seed)
    for vector in tqdm(vectors, desc="random directions", delay=1, disable=None if progress else True):
        edits = [_erase(name, vector, positions, None) for name in sites]
        random.append(_difference(model, texts, pair, edits, start))
    everywhere = [_erase(name, direction.vector, "all", eraser) for name in sites]
    names = token_texts(model, pair)
    arguments = {
        "direction": dict(direction.manifest["method_arguments"]), "prompts": [list(both) for both in prompts],
        "target": pair[0], "against": pair[1], "erasure": erasure, "sites": list(sites), "positions": positions,
        "n_random": n_random, "random_kind": random_kind, "unrelated": list(others), "document_start": start,
        "seed": seed,
    }  # fmt: skip
    return ErasureTest(
        direction=direction.name, model=model.name, sites=sites, positions=positions, erasure=erasure,
        contrast=f"{names[pair[0]]!r} - {names[pair[1]]!r}", clean=clean, erased=erased,
        random_erased=torch.stack(random), damage=_damage(model, others, everywhere, start), seed=seed,
        manifest={**provenance(model), "method": "erasure test", "method_arguments": arguments},
    )  # fmt: skip


def _place(model: GPT, direction: Direction, site: str | None, layer: int | None) -> str:
    """The full name of the site to change."""
    source, n_layers = direction.source, model.config.n_layers
    if source.manifest.get("fingerprint", "").split(" ")[0] != fingerprint(model):
        raise DifferentModel(f"the direction {direction.name!r} was found in {source.name}, not in {model.name}")
    if isinstance(source, WordsInContext):
        found = split_name(source.site)
    else:
        assert isinstance(source, WordVectors), "there are two kinds of sources"
        embedded = source.manifest["word_vectors"] == "embed"
        found = (0, "hook_resid_pre") if embedded else (n_layers - 1, "hook_resid_post")
    own_layer, suffix = found
    at = check_index("layer", own_layer if layer is None else layer, n_layers, owner="this model")
    short = suffix.removeprefix("hook_") if site is None else site
    check_choice("site to steer", short, RESIDUAL)
    return full_name(model.config, short, at)


def _check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    found = tuple(float(dose) for dose in doses)
    if not found or 0.0 in found or len({*found}) < len(found):
        raise OutOfRange(
            f"doses {list(doses)}: expected different numbers other than 0, in norms of the residual stream"
        )
    return tuple(sorted(found))


def _starts(model: GPT, document_start: bool | None) -> bool:
    if model.tokenizer is None:
        raise BadPrompt(f"{model.name} has no tokenizer, and prompts are text")
    return model.tokenizer.document_start_id is not None if document_start is None else document_start


def _two(both: Sequence[str]) -> Sequence[str]:
    found = several("a pair of prompts", both)
    if len(found) != 2:
        raise BadShape(f"a pair of prompts, {brief(found)}: expected two texts, got {len(found)}")
    return found


def _check_texts(model: GPT, texts: Sequence[str], start: bool) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise BadShape(f"prompts {texts[:40]!r}: expected a list of texts")
    for text, row in zip(
        texts, read_prompts(model.config, model.tokenizer, list(texts), document_start=start).ids, strict=True
    ):
        if len(row) < 2:
            raise BadPrompt(f"{text!r} is one token: position 0 is an attention sink and is not changed")
    return tuple(texts)


def _random(direction: Direction, n: int, kind: RandomKind, seed: int) -> Float[Tensor, "n d"]:
    """Unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "isotropic":
        return isotropic(n, len(direction.vector), generator)
    own = {word for pair in direction.pairs.words for word in pair}
    others = direction.source.unrelated(N_UNRELATED, without=own, seed=seed).double()
    return unit(without(covariance_matched(n, others, generator), direction.vector))


class _Rerun:
    """Prompts that are run again from a layer on, with something added to the stream there."""

    def __init__(self, model: GPT, place: str, texts: Sequence[str], start: bool):
        layer, suffix = split_name(place)
        assert layer is not None, "the residual stream stands in the layers"
        self.model, self.layer, self.site = model, layer, describe_site(place).short
        recording = record(
            model, list(texts), sites=[f"blocks.{layer}.hook_resid_pre", place], document_start=start, logits=False,
            stop_after_layer=layer,
        )  # fmt: skip
        self.before = recording["resid_pre", layer]
        self.lengths = recording.lengths
        self.norm = float(recording[place][:, 1:].norm(dim=-1).nanmean())

    def chunks(self, n: int) -> Iterator[range]:
        """The conditions in groups that make one batch each."""
        step = max(1, _TOKENS_AT_ONCE // (self.before.shape[0] * self.before.shape[1]))
        return (range(begin, min(n, begin + step)) for begin in range(0, n, step))

    def logits(
        self, changes: Sequence[Float[Tensor, " d"] | None], positions: Positions
    ) -> Float[Tensor, "change prompt d_vocab_out"]:
        """Logits after the last token of each prompt, with each change added (None: nothing)."""
        found = self._run(changes, positions, at=-1).logits[:, 0]
        return found.view(len(changes), -1, found.shape[-1])

    def divergence(self, change: Float[Tensor, " d"]) -> Float[Tensor, " prompt"]:
        """KL(clean || changed) with the change at all positions but the first, mean over these (nats)."""
        return _divergence(*(self._run([one], "all", at=None).logits for one in (None, change)))

    def _run(self, changes: Sequence[Tensor | None], positions: Positions, at: int | None) -> Any:
        batch, n_pos, d = self.before.shape
        resid = self.before.repeat(len(changes), 1, 1)
        added = torch.stack([torch.zeros(d, dtype=torch.float64) if one is None else one for one in changes])
        added = added.float().repeat_interleave(batch, dim=0)[:, None].to(resid.device)
        where: dict[str, Any] = {"layer": self.layer}
        if positions == "last":
            where["positions"] = -1
        else:
            added = added.expand(-1, n_pos, -1).clone()
            added[:, 0] = 0.0
        return record(
            self.model, resid, start_at_layer=self.layer, interventions=[add(self.site, added, **where)], sites=[],
            positions=at,
        )  # fmt: skip


def _contrast(logits: Float[Tensor, "... d_vocab_out"], pair: Sequence[int]) -> Float[Tensor, "..."]:
    return (logits[..., pair[0]] - logits[..., pair[1]]).float().cpu()


def _sites_from(model: GPT, place: str, layers: Layers) -> tuple[str, ...]:
    layer, suffix = split_name(place)
    assert layer is not None, "the residual stream stands in the layers"
    later = range(layer + 1, model.config.n_layers) if layers == "from here on" else ()
    return (place, *(f"blocks.{number}.{suffix}" for number in later))


def _erase(
    site: str, vector: Float[Tensor, " d"], positions: Positions, eraser: Callable[[Tensor], Tensor] | None
) -> Intervention:
    if eraser is None and positions == "last":
        return project_out(site, vector.float(), positions=-1)

    def change(value: Tensor) -> Tensor:
        double = value.double()
        along = vector.to(value.device)
        new = without(double, along) if eraser is None else eraser(double)
        if positions == "all":
            new[:, 0] = double[:, 0]  # the attention sink
        return new.to(value.dtype)

    return edit(site, change, **({"positions": -1} if positions == "last" else {}))


def _leace(direction: Direction) -> Callable[[Tensor], Tensor]:
    """The affine map of LEACE, from the words that the direction was fitted on."""
    from concept_erasure import LeaceEraser  # half a second that nothing else needs

    pairs = direction.pairs
    values = torch.cat([pairs.positive, pairs.negative])
    labels = torch.cat([torch.ones(len(pairs)), torch.zeros(len(pairs))]).double()
    eraser = LeaceEraser.fit(values, labels)
    return lambda value: eraser(value.cpu().flatten(0, -2)).view(value.shape).to(value.device)


def _difference(
    model: GPT, texts: Sequence[str], pair: Sequence[int], edits: Sequence[Intervention], start: bool
) -> Float[Tensor, " pair"]:
    recording = record(model, list(texts), interventions=list(edits), sites=[], positions=-1, document_start=start)
    contrast = _contrast(recording.logits[:, 0], pair)
    return contrast[0::2] - contrast[1::2]


def _damage(model: GPT, texts: Sequence[str], edits: Sequence[Intervention], start: bool) -> Float[Tensor, " text"]:
    return _divergence(
        *(
            record(model, list(texts), interventions=list(one), sites=[], document_start=start).logits
            for one in ([], edits)
        )
    )


def _divergence(
    clean: Float[Tensor, "prompt pos d_vocab_out"], changed: Float[Tensor, "prompt pos d_vocab_out"]
) -> Float[Tensor, " prompt"]:
    """KL(clean || changed) of logits, mean over all positions but the first (nats)."""
    found = kl_divergence(*(log_probs_of(logits.double()) for logits in (clean, changed)))
    return found[:, 1:].nanmean(-1).float().cpu()
