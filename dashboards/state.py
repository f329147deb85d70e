"""The only cached functions: models, what was recorded with them, and what was computed from that.

One model serves all sessions: interventions are arguments, so nobody's change reaches anybody else. What is cached is
never written to. Caches are bounded; the largest entries are recordings of about 60 MB.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas
import streamlit as st
import torch
from jaxtyping import Float
from torch import Tensor

import probe
from probe.catalogue import DEFAULT_MODEL, known_models
from probe.chat import chat_prompt
from probe.cli._dashboard import MODELS, find_folder
from probe.generation import Generation
from probe.geometry import unit
from probe.methods._direction import Source
from probe.methods._replacement import Value
from probe.methods._schedule import SweepPlan
from probe.methods._units import Kind
from probe.methods.analogies import Analogy, Measure, Neighbours
from probe.methods.circuits import TokenEffects, head_writes_sites
from probe.methods.heads import SCORES
from probe.methods.lens import LensDifference, LensReadout
from probe.methods.surprise import TextScores
from probe.methods.tuned_lens import find_tuned_lens
from probe.plan import flops_per_second
from probe.prompts import str_tokens, token_id
from probe.recording import Recording
from probe.sites import residual_sites

sys.path.append(str(find_folder("analyses")))
import introduction
from _introduction import Chapter, Subject, projections

THUMBNAIL = 64
"""Pixels along a side, at most."""
ONE_HEAD = 512
"""Tokens up to which a single head is shown in full."""
ALL_LAYERS = 128
"""Tokens up to which every layer's heads are kept at once, some 60 MB for 30 layers of 9."""
LENS_POSITIONS = 48
"""Positions that the logit lens shows, the last ones."""
TELLING = 0.3
"""Attention, on average, with which a head shows what it does."""

FITTING = 0.001
"""Seconds for each pair and layer: what a thousand fits with swapped pairs take (measured, 180 pairs, one core)."""
LAYERS_AT_ONCE = 5
"""Of a sweep on one text: fewer rows would not fill a pass."""
TakenOut = tuple[tuple[int, int | None], ...]
"""(layer, head) of each head; (layer, None) of an MLP."""


def edits(taken_out: TakenOut, n_tokens: int) -> list[probe.Intervention]:
    """What silences parts in a text of so many tokens, everywhere but at the first one, where heads only rest."""
    if n_tokens < 2:
        return []
    heads: dict[int, list[int]] = {}
    for layer, head in taken_out:
        if head is not None:
            heads.setdefault(layer, []).append(head)
    where = range(1, n_tokens)
    return [
        *(probe.zero("z", layer=layer, heads=of_layer, positions=where) for layer, of_layer in heads.items()),
        *(probe.zero("mlp_out", layer=layer, positions=where) for layer, head in taken_out if head is None),
    ]


def model_names() -> list[str]:
    """What can be chosen: what was named at launch, then the catalogue. Nothing that a visitor types is opened."""
    named = [name for name in os.environ.get(MODELS, "").splitlines() if name]
    known = sorted((known.name for known in known_models()), key=lambda name: name != DEFAULT_MODEL)
    return list(dict.fromkeys([*named, *known]))


@st.cache_resource(max_entries=2, show_spinner="Loading the model")
def load_model(name: str) -> probe.GPT:
    """A model of `model_names`."""
    return probe.load_model(name, progress=False)


@dataclass(frozen=True, eq=False)
class Overview:
    """Every head on one prompt, small enough to look at all at once."""

    thumbnails: np.ndarray
    """(layer, head, row, column), 0 to 255: square roots of weights, pooled by their maximum where tokens are many."""
    scores: dict[str, np.ndarray]
    """(layer, head) by name, as `probe.head_scores` has them; none for fewer than three tokens."""
    str_tokens: list[str]


@st.cache_resource(max_entries=8, show_spinner="Looking at every head")
def overview(name: str, ids: tuple[int, ...], taken_out: TakenOut = ()) -> Overview:
    """Patterns pooled layer by layer as they are made: all of them at once would be gigabytes for a long prompt."""
    model, changes, found = load_model(name), edits(taken_out, len(ids)), None
    if len(ids) <= ALL_LAYERS:
        recording = heads_recording(name, ids, None, taken_out)
        weights = torch.stack([_pooled(pattern) for pattern in recording.stack("pattern")[:, 0]]).cpu().numpy()
        found = probe.read_head_scores(recording) if len(ids) >= 3 else None  # with fewer no head has a choice
    else:
        pooled = probe.record(
            model, [list(ids)], sites=[], reduce={"pattern": lambda pattern, _: _pooled(pattern[0])}, logits=False,
            interventions=changes,
        )  # fmt: skip
        weights = pooled.stack("pattern").cpu().numpy()
        found = probe.head_scores(model, [list(ids)], n_random=0, interventions=changes, progress=False)
    scores = {} if found is None else {name: found.of(name).nan_to_num().numpy() for name in SCORES}
    thumbnails = np.round(255 * np.sqrt(weights)).astype(np.uint8)
    return Overview(thumbnails, scores, list(str_tokens(model.tokenizer, ids)))


def _pooled(pattern: Float[Tensor, "head query_pos key_pos"]) -> Float[Tensor, "head row column"]:
    """By the maximum: a mean would hide a single strong look."""
    return torch.nn.functional.adaptive_max_pool2d(pattern[None].float(), min(pattern.shape[-1], THUMBNAIL))[0]


def telling_head(name: str, ids: tuple[int, ...]) -> tuple[int, int]:
    """(layer, head) of one that looks back at repeated words, or else at the word before; 0.0 of very short texts.

    Induction comes second: a head that rests on one token scores there too, where that token follows a repeated one.
    """
    scores = overview(name, ids).scores
    for score in ("duplicate token", "induction", "previous token"):
        if score in scores and scores[score].max() > TELLING:
            layer, head = np.unravel_index(scores[score].argmax(), scores[score].shape)
            return int(layer), int(head)
    return 0, 0


@st.cache_resource(max_entries=8, show_spinner=False)
def looks(name: str, ids: tuple[int, ...], taken_out: TakenOut, query: int) -> Float[np.ndarray, "layer head key_pos"]:
    """How every head's attention from one token is spread."""
    found = probe.record(
        load_model(name), [list(ids)], sites=[], reduce={"pattern": lambda pattern, _: pattern[0, :, query]},
        logits=False, interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
    return found.stack("pattern").float().cpu().numpy()


@st.cache_resource(max_entries=32, show_spinner=False)
def contrast(name: str, ids: tuple[int, ...]) -> tuple[int, int]:
    """The likeliest next token and the second."""
    first, second = last_logits(name, ids)["logits"][0, -1].topk(2).indices.tolist()
    return first, second


@st.cache_resource(max_entries=8, show_spinner=False)
def attribution(
    name: str, ids: tuple[int, ...], taken_out: TakenOut, target: int, against: int
) -> Float[np.ndarray, "layer head"]:
    """What each head writes, straight to the logits, for one next token above another (direct logit attribution)."""
    model = load_model(name)
    recording = probe.record(
        model, [list(ids)], sites=probe.attribution_sites(model), positions=-1,
        interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
    found = probe.direct_logit_attribution(model, recording, token=target, against=against)
    of_heads = np.zeros((model.config.n_layers, model.config.n_heads))
    for part, value in zip(found.parts, found.contributions[:, 0].tolist(), strict=True):
        if part.kind == "head":
            of_heads[part.layer, part.head] = value
    return of_heads


def layer_recording(name: str, ids: tuple[int, ...], layer: int, taken_out: TakenOut = ()) -> Recording:
    """What the heads of one layer compute; of short texts with all others, so that a click on a head costs nothing."""
    return heads_recording(name, ids, None if len(ids) <= ALL_LAYERS else layer, taken_out)


@st.cache_resource(max_entries=4, show_spinner=False)
def heads_recording(name: str, ids: tuple[int, ...], layer: int | None, taken_out: TakenOut) -> Recording:
    """What heads compute, in one layer or (None) in all of them."""
    model = load_model(name)
    turned = "rot_" if model.config.positions == "rotary" else ""
    sites = ["pattern", "attn_scores", f"{turned}q", f"{turned}k", "v", "z"]
    return probe.record(
        model, [list(ids)], sites=sites, layers=layer, logits=False, interventions=edits(taken_out, len(ids))
    )


@st.cache_resource(max_entries=32, show_spinner=False)
def head_written(
    name: str, ids: tuple[int, ...], taken_out: TakenOut, layer: int, head: int, query: int
) -> TokenEffects:  # fmt: skip
    """What a head added at one token, as logits."""
    model = load_model(name)
    recording = probe.record(
        model, [list(ids)], sites=head_writes_sites(model), layers=layer, positions=query, logits=False,
        interventions=edits(taken_out, len(ids)),
    )  # fmt: skip
    return probe.head_writes(model, recording, layer, head, position=query)


@st.cache_resource(max_entries=8, show_spinner=False)
def last_logits(name: str, ids: tuple[int, ...], taken_out: TakenOut = ()) -> Recording:
    """What the model says next."""
    return probe.record(load_model(name), [list(ids)], sites=[], positions=-1, interventions=edits(taken_out, len(ids)))


@dataclass(frozen=True)
class Question:
    """What each part of a model is taken out for: the logit of one token above another, on one text or on a task."""

    name: str
    ids: tuple[int, ...]
    target: int
    against: int
    task: str | None
    """None: the text. Otherwise `n` prompts of this task, with targets of their own."""
    n: int
    units: Kind
    value: Value
    document_start: bool

    def arguments(self) -> tuple[probe.GPT, list[list[int]] | probe.Task, dict[str, Any]]:
        """For `probe.ablation_sweep`."""
        model = load_model(self.name)
        if self.task is None:
            metric = probe.logit_difference(*(token_name(model, token) for token in (self.target, self.against)))
            return model, [list(self.ids)], {"metric": metric, "value": self.value}
        return model, task(self.name, self.task, self.n, self.document_start), {"value": self.value}


def token_name(model: probe.GPT, token: int) -> str | int:
    """Its text, where that is enough to name it; else its id."""
    text = str_tokens(model.tokenizer, [token])[0]
    try:
        return text if token_id(model.config, model.tokenizer, text) == token else token
    except probe.ProbeError:
        return token


@st.cache_resource(max_entries=8, show_spinner="Writing the prompts of the task")
def task(name: str, of: str, n: int, document_start: bool) -> probe.Task:
    """Prompts to measure on."""
    return probe.load_task(load_model(name), of, n, document_start=document_start)


@st.cache_resource(max_entries=8, show_spinner=False)
def sweep_plan(question: Question) -> SweepPlan:
    """What taking out every unit will cost."""
    model, prompts, arguments = question.arguments()
    return probe.plan_ablation(model, prompts, units=question.units, **arguments)


@st.cache_resource(max_entries=128, show_spinner=False)
def sweep_part(question: Question, layers: tuple[int, ...]) -> probe.AblationSweep:
    """Every unit of some layers taken out in turn."""
    model, prompts, arguments = question.arguments()
    return probe.ablation_sweep(model, prompts, units=question.units, layers=layers, progress=False, **arguments)


@st.cache_resource(max_entries=16, show_spinner="Taking them out together")
def joint_effect(question: Question, taken_out: TakenOut) -> probe.AblationSweep:
    """Each of these taken out, then all together."""
    model, prompts, arguments = question.arguments()
    names = [f"MLP {layer}" if head is None else f"{layer}.{head}" for layer, head in taken_out]
    return probe.ablation_sweep(model, prompts, units=[*names, names], progress=False, **arguments)


def sweep_layers(question: Question) -> list[tuple[int, ...]]:
    """What a sweep is cut into, the last layers first, which cost least: after each part it shows what it found."""
    n_layers = load_model(question.name).config.n_layers
    at_once = LAYERS_AT_ONCE if question.task is None else 1
    order = list(range(n_layers))[::-1]
    return [tuple(order[begin : begin + at_once]) for begin in range(0, n_layers, at_once)]


def join_sweeps(parts: Sequence[probe.AblationSweep]) -> probe.AblationSweep:
    """One sweep over the layers of all parts, the first layer first."""
    ordered = sorted(parts, key=lambda part: part.units[0].layer or 0)
    first = ordered[0]
    layers = [unit.layer for part in ordered for unit in part.units]
    return dataclasses.replace(
        first, units=tuple(unit for part in ordered for unit in part.units),
        effects=torch.cat([part.effects for part in ordered]), direct=torch.cat([part.direct for part in ordered]),
        spread=torch.cat([part.spread for part in ordered]), complete=all(part.complete for part in ordered),
        manifest={
            **first.manifest,
            "method_arguments": {**first.manifest["method_arguments"], "layers": sorted({*layers} - {None})},
        },
    )  # fmt: skip


def needed(name: str, ids: tuple[int, ...]) -> Float[np.ndarray, "layer head"]:
    """What taking out each head does to the difference between the likeliest next token and the second."""
    question = Question(name, ids, *contrast(name, ids), None, 1, "heads", "zero", False)
    with st.spinner(f"Taking out every head: {sweep_plan(question)}"):
        found = join_sweeps([sweep_part(question, layers) for layers in sweep_layers(question)])
    return found.effects.mean(1).numpy().reshape(load_model(name).config.n_layers, -1)


def lens_positions(n_tokens: int) -> list[int]:
    """Those that the logit lens shows: at every place a distribution over the whole vocabulary is made."""
    return list(range(max(0, n_tokens - LENS_POSITIONS), n_tokens))


@st.cache_resource(max_entries=1, ttl=60, show_spinner="Looking for a tuned lens")
def tuned_lens(name: str) -> probe.TunedLens | None:
    """The one that was fitted for this model before, or None: a fit takes minutes. One fitted meanwhile is noticed."""
    try:
        return find_tuned_lens(load_model(name))
    except probe.ProbeError:
        return None


@st.cache_resource(max_entries=4, show_spinner="Reading every layer")
def lens_readout(
    name: str, ids: tuple[int, ...], taken_out: TakenOut = (), tuned: bool = False, watch: tuple[int, ...] = ()
) -> LensReadout:
    """The logit lens, on the model without these heads; `watch`: tokens to follow, or else all that were ever first."""
    return probe.logit_lens(
        load_model(name), _streams(name, ids, taken_out), tuned=tuned_lens(name) if tuned else None, watch=watch or None
    )


@st.cache_resource(max_entries=4, show_spinner="Reading every layer of both")
def lens_change(name: str, ids: tuple[int, ...], taken_out: TakenOut, tuned: bool = False) -> LensDifference:
    """What the logit lens says otherwise without these heads."""
    before, after = (_streams(name, ids, heads) for heads in ((), taken_out))
    return probe.lens_difference(load_model(name), before, after, tuned=tuned_lens(name) if tuned else None)


def _streams(name: str, ids: tuple[int, ...], taken_out: TakenOut) -> Recording:
    model = load_model(name)
    return probe.record(
        model, [list(ids)], sites=residual_sites(model.config),
        positions=lens_positions(len(ids)), interventions=edits(taken_out, len(ids)),
    )  # fmt: skip


@st.cache_resource(max_entries=8, show_spinner=False)
def chat_ids(name: str, system: str, user: str) -> tuple[int, ...]:
    """What a conversation becomes: the model's own template as tokens, up to where the answer begins."""
    model = load_model(name)
    text = chat_prompt(model, messages(system, user))
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))  # the template has them


def messages(system: str, user: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


@dataclass(frozen=True)
class Writing:
    """What a text is written with."""

    n: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


Branches = tuple[tuple[int, int], ...]
"""(step, token id): words put in by the reader; each counts its steps from the one before."""


@st.cache_resource(max_entries=16, show_spinner="Writing")
def generated(
    name: str, ids: tuple[int, ...], taken_out: TakenOut, writing: Writing, branches: Branches = ()
) -> Generation:
    """A text that the model wrote, with the distribution behind every token.

    Raises:
        OutOfRange, BadPrompt: a branch at a step that is not there, or with a token that is not there.
    """
    model = load_model(name)
    if branches:
        step, token = branches[-1]
        return generated(name, ids, taken_out, writing, branches[:-1]).branch(step, token).run()
    last = min(len(ids) + writing.n, model.config.n_ctx) - 1  # the last token of all is not run
    return probe.generate(
        model, list(ids), max_tokens=writing.n, temperature=writing.temperature, top_k=writing.top_k,
        top_p=writing.top_p, seed=writing.seed, interventions=edits(taken_out, last),
    ).run()  # fmt: skip


@st.cache_resource(max_entries=8, show_spinner="Reading")
def scored(name: str, ids: tuple[int, ...], taken_out: TakenOut) -> TextScores:
    """How well every token of a text was predicted."""
    return probe.score_text(load_model(name), [list(ids)], interventions=edits(taken_out, len(ids)))


@dataclass(frozen=True)
class Space:
    """Where words get their vectors."""

    kind: Literal["static", "embed", "unembed", "stream"]
    """Static vectors, or of a model: the embedding, the unembedding, the residual stream after a layer."""
    name: str = ""
    """Of the model. Static vectors have none, so that they serve every model."""
    layer: int = 0
    templates: tuple[str, ...] = ()
    document_start: bool = False
    """These three are of the stream alone: there, words are read in sentences."""

    def words(self) -> Source:
        """The vectors.

        Raises:
            ProbeError: they cannot be fetched; the model has no words; sentences that it cannot read.
        """
        if self.kind != "stream":
            return self.vocabulary()
        model = load_model(self.name)
        return probe.words_in_context(model, self.layer, self.templates, document_start=self.document_start)

    def vocabulary(self) -> probe.WordVectors:
        """The vectors of all words that there are; of the stream, which reads any word, there is no such list."""
        assert self.kind != "stream", "only static vectors and a model's own matrices are a list of words"
        return static_words() if self.kind == "static" else own_words(self.name, self.kind)


@st.cache_resource(max_entries=1, show_spinner="Loading GloVe")
def static_words() -> probe.WordVectors:
    """GloVe."""
    return probe.load_word_vectors(progress=False)


@st.cache_resource(max_entries=2, show_spinner="Reading the model's words")
def own_words(name: str, which: Literal["embed", "unembed"]) -> probe.WordVectors:
    """A model's words as vectors: as long as the vocabulary, so that few are kept."""
    return probe.word_vectors(load_model(name), which)


@st.cache_resource(max_entries=32, show_spinner="Reading the words of the pairs")
def direction(space: Space, pairs: probe.WordPairs) -> probe.Direction:
    """What tells the two sides of the pairs apart; of a list, of its half for fitting."""
    return probe.fit_direction(space.words(), named(pairs), on_missing="drop")


@st.cache_resource(max_entries=16, show_spinner="Testing the direction on words that it was not fitted on")
def evaluation(space: Space, pairs: probe.WordPairs, twin: bool = False) -> probe.Evaluation:
    """What the direction is worth: on the held-out half of a list; the reader's own pairs are cross-validated.

    `twin`: in the model's untrained twin too.
    """
    return probe.evaluate_direction(
        direction(space, pairs), pairs if pairs.held_out else None, twin=twin, on_missing="drop", progress=False
    )


def named(pairs: probe.WordPairs) -> probe.WordPairs | tuple[tuple[str, str], ...]:
    """A list with its name; pairs of the reader's own, which are not split, as they are."""
    return pairs if pairs.held_out else pairs.fit


@st.cache_resource(max_entries=32, show_spinner="Searching all words")
def neighbours(space: Space, words: tuple[str, ...], measure: Measure, k: int) -> Neighbours:
    """The nearest words to each."""
    return probe.nearest_neighbours(space.vocabulary(), words, k=k, measure=measure)


@st.cache_resource(max_entries=32, show_spinner="Searching all words")
def analogy(
    space: Space, plus: tuple[str, ...], minus: tuple[str, ...], keep_inputs: bool, k: int, expected: str | None
) -> Analogy:
    """The words nearest to a sum of words."""
    return probe.solve_analogy(
        space.vocabulary(), plus, minus, keep_inputs=keep_inputs, k=k, expected=expected
    )  # fmt: skip


@st.cache_resource(max_entries=16, show_spinner=False)
def profile_seconds(name: str, pairs: probe.WordPairs) -> float:
    """What `profile` is expected to take, from the best of a few speeds just now: others may use the machine too."""
    model = load_model(name)
    speed = max(flops_per_second(model, 256) for _ in range(5))
    n_tokens = 2 * 2 * 2 * len(pairs.all) * len(pairs.templates)  # two sides, a twin; a word and what stands before it
    reading = 2 * n_tokens * probe.count_weights(model.config).multiplications / speed
    return reading + FITTING * model.config.n_layers * len(pairs.all)


@st.cache_resource(max_entries=4, show_spinner="Reading the pairs in every layer, and in the untrained twin")
def profile(name: str, pairs: probe.WordPairs, document_start: bool) -> probe.LayerProfile:
    """How well the pairs are told apart from the embedding to the unembedding."""
    return probe.layer_profile(
        load_model(name), named(pairs), templates=pairs.templates, document_start=document_start, on_missing="drop",
        progress=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Push:
    """Something added to the stream after a layer, at every token but the first, while a text is written."""

    space: Space
    """A stream: its model and layer."""
    pairs: probe.WordPairs
    strength: float
    """In distances between the two sides of the pairs."""
    random: bool = False
    """As far, but in a random direction."""

    def edits(self, n_tokens: int) -> list[probe.Intervention]:
        """What adds it, in a text of so many tokens."""
        found = direction(self.space, self.pairs)
        along = found.vector.float()
        if self.random:
            along = unit(torch.randn(len(along), generator=torch.Generator().manual_seed(0)))
        if not self.strength or n_tokens < 2:
            return []
        change = self.strength * found.gap * along
        return [probe.add("resid_post", change, layer=self.space.layer, positions=range(1, n_tokens))]


@st.cache_resource(max_entries=32, show_spinner="Writing")
def steered(push: Push, ids: tuple[int, ...], taken_out: TakenOut, n: int) -> Generation:
    """The likeliest continuation under a push."""
    model = load_model(push.space.name)
    n_run = min(len(ids) + n, model.config.n_ctx) - 1
    return probe.generate(
        model, list(ids), max_tokens=n, temperature=0, seed=0,
        interventions=[*edits(taken_out, n_run), *push.edits(n_run)],
    ).run()  # fmt: skip


@dataclass(frozen=True)
class DoseQuestion:
    """A question to `probe.dose_curve`: does a direction move one next token above another, after these texts?"""

    space: Space
    """A stream: its model and layer."""
    pairs: probe.WordPairs
    prompts: tuple[str, ...]
    target: str
    against: str


@st.cache_resource(max_entries=64, show_spinner=False)
def dose(effect: DoseQuestion, size: float) -> probe.DoseCurve:
    """The answer for one dose, in norms of the stream."""
    return probe.dose_curve(
        load_model(effect.space.name), direction(effect.space, effect.pairs), effect.prompts, target=effect.target,
        against=effect.against, doses=[size], document_start=effect.space.document_start, progress=False,
    )  # fmt: skip


def join_doses(parts: Sequence[probe.DoseCurve]) -> probe.DoseCurve:
    """One curve over the doses of all parts, the lowest first."""
    parts = sorted(parts, key=lambda part: part.doses)
    first, doses = parts[0], tuple(one for part in parts for one in part.doses)
    return dataclasses.replace(
        first, doses=doses, effects=torch.cat([part.effects for part in parts]),
        random_effects=torch.cat([part.random_effects for part in parts], dim=1),
        damage=torch.cat([part.damage for part in parts]),
        random_damage=torch.cat([part.random_damage for part in parts], dim=1),
        manifest={
            **first.manifest, "method_arguments": {**first.manifest["method_arguments"], "doses": list(doses)}
        },
    )  # fmt: skip


@st.cache_resource(max_entries=32, show_spinner=False)
def steered_logits(push: Push, ids: tuple[int, ...], taken_out: TakenOut) -> Recording:
    """What the model says next under a push."""
    changes = [*edits(taken_out, len(ids)), *push.edits(len(ids))]
    return probe.record(load_model(push.space.name), [list(ids)], sites=[], positions=-1, interventions=changes)


@st.cache_resource(max_entries=1, show_spinner="Reading word vectors")
def introduction_subject(name: str) -> Subject:
    """What the examples of the visual introduction are tried on."""
    return introduction.read_subject(load_model(name), introduction.QUICK_TOKENS)


@st.cache_resource(max_entries=16, show_spinner="Trying the examples of this chapter")
def introduction_chapter(name: str, chapter: str) -> Chapter:
    """One chapter of the visual introduction, with this model's numbers."""
    return introduction.CHAPTERS[chapter](introduction_subject(name))


@st.cache_resource(max_entries=2, show_spinner=False)
def introduction_numbers(name: str) -> pandas.DataFrame:
    """How far number words lie along cats - cat, in each space."""
    subject = introduction_subject(name)
    words = list(probe.load_words("numbers")[:10])
    spaces = {"this GPT’s embedding": subject.own, "GloVe": subject.words}
    return pandas.DataFrame(
        {"word": words, **{space: projections(source, words).tolist() for space, source in spaces.items()}}
    )
