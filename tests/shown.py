"""One of everything that shows itself, of a tiny model whose tokens are as hostile as tokens can be."""

import functools
from typing import Any

import torch

import probe
from probe.contexts import WordsInContext
from probe.gpt import GPT
from probe.methods.attention import find_focus, read_look
from probe.methods.check import check_model
from probe.methods.distribution import next_tokens
from probe.methods.layer_profile import LayerProfile, Place
from probe.methods.steering import DoseCurve, ErasureTest
from probe.shown import Shown
from probe.statistics import Estimate
from probe.words import from_arrays
from tests.tiny import GPT2

EVIL = "<script>&\"'\n\x1b[31m"
PROMPTS = [[(7 * row + 3 * place * place) % 50 for place in range(8 - row % 2)] for row in range(4)]
CORRUPTED = [[*ids[:2], (ids[2] + 9) % 50, *ids[3:]] for ids in PROMPTS]
METRIC = probe.logit_difference(5, 7)


class EvilTokenizer:
    """Each token's text is markup, quotes, a line break and a terminal's colour; 0 separates documents."""

    document_start_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 50 for letter in text]

    def str_tokens(self, ids) -> list[str]:
        return [f" {EVIL}{token}" for token in ids]

    def decode(self, ids) -> str:
        return "".join(self.str_tokens(ids))


def evil_model(*, tokenizer: bool = True) -> GPT:
    """Random, with markup in its name too."""
    torch.manual_seed(0)
    return GPT(GPT2, tokenizer=EvilTokenizer() if tokenizer else None, name=EVIL)


@functools.cache
def one_of_each(*, tokenizer: bool = True) -> dict[str, Shown]:
    """By class name."""
    return {type(one).__name__: one for one in [*_of_a_model(evil_model(tokenizer=tokenizer)), *_of_words()]}


def _of_a_model(model: GPT) -> list[Any]:
    changes = [probe.zero("z", layer=1, heads=[1]), probe.add("resid_pre", torch.ones(32), layer=0)]
    rec, other = probe.record(model, PROMPTS, interventions=changes), probe.record(model, PROMPTS)
    sweep = functools.partial(probe.ablation_sweep, model, PROMPTS, metric=METRIC, value="zero", progress=False)
    patched = dict(metric=METRIC, progress=False)
    story = probe.generate(model, [1, 2, 3], max_tokens=4, seed=0).run()
    task = probe.load_task(model, "induction", 4)
    return [
        rec, probe.plan_recording(model, PROMPTS), probe.plan_ablation(model, PROMPTS, metric=METRIC), sweep(),
        probe.activation_patching(model, PROMPTS, CORRUPTED, "z", **patched),
        probe.path_patching(model, PROMPTS, CORRUPTED, **patched),
        probe.attribution_patching(model, PROMPTS, CORRUPTED, verify_largest=3, verify_random=3, **patched),
        probe.agreement(sweep(), sweep(value="mean"), k=3),
        probe.score_circuit(model, PROMPTS, [(1, 1)], value="zero", n_random=2, **patched),
        probe.search_heads(model, PROMPTS, n_heads=1, candidates=3, value="zero", n_random=2, **patched),
        probe.logit_lens(model, rec), probe.lens_difference(model, other, rec),
        probe.fit_tuned_lens(model, PROMPTS * 20, progress=False),
        probe.direct_logit_attribution(model, rec, against=7), probe.score_text(model, PROMPTS),
        find_focus(rec), probe.read_pattern(rec, 1, 2), read_look(rec, 1, 2), probe.read_pair(rec, 1, 2, 5, 3),
        probe.similar_heads(rec, 1, 2), probe.head_scores(model, PROMPTS, n_random=2, progress=False),
        probe.head_writes(model, rec, 1, 2), probe.copying_scores(model), probe.composition_scores(model, into="k"),
        probe.qk_circuit(model, 1, 2), next_tokens(model, rec), task, probe.solve_task(model, task), check_model(model),
        probe.count_weights(model.config), probe.count_pass(model.config, 9),
        story, story.steps[0], story.steps[0].distribution,
        WordsInContext(model, "blocks.1.hook_resid_post", (f"{EVIL} {{}}",), "word", True),
    ]  # fmt: skip


def _of_words() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(48, 8, generator=generator)
    vectors[:12, 0] += 3
    words = from_arrays(EVIL, [f"{EVIL}{number}" for number in range(48)], vectors)
    pairs = [(f"{EVIL}{number}", f"{EVIL}{number + 12}") for number in range(12)]
    first, second = (f"{EVIL}{n}" for n in (0, 1))
    direction = probe.fit_direction(words, pairs, name=EVIL)
    estimate = Estimate(0.9, 0.8, 1.0)
    places = tuple(Place(name, None, 9, estimate, estimate, estimate, 0.01, 0.02, None) for name in (EVIL, "layer 0"))
    doses = torch.tensor([[-1.0], [1.0]]).double() * torch.tensor([9.0, 10.0, 11.0]).double()
    curve = DoseCurve(
        direction=EVIL, model=EVIL, site="blocks.1.hook_resid_post", positions="last", contrast=EVIL,
        prompts=(EVIL,) * 3, doses=(-0.1, 0.1), norm=10.0, gap=0.1, clean=torch.zeros(3).double(), effects=doses,
        random_effects=torch.zeros(20, 2, 3).double(), random_kind="isotropic", damage=doses.abs()[:, :2],
        random_damage=torch.zeros(3, 2, 2).double(), seed=0, manifest={},
    )  # fmt: skip
    erased = ErasureTest(
        direction=EVIL, model=EVIL, sites=("blocks.1.hook_resid_post",), positions="all", erasure="project out",
        contrast=EVIL, clean=torch.tensor([4.0, 6.0]), erased=torch.tensor([1.0, 2.0]),
        random_erased=torch.full((12, 2), 4.0), damage=torch.tensor([0.25, 0.75]), seed=0, manifest={},
    )  # fmt: skip
    return [
        words, direction, direction.project([first, second]), curve, erased,
        probe.evaluate_direction(direction, n_permutations=49, n_random=20, n_unrelated=20, twin=False, progress=False),
        LayerProfile(EVIL, EVIL, places, torch.zeros(2, 4), tuple(pairs), {}),
        probe.nearest_neighbours(words, [first, second], k=3),
        probe.solve_analogy(words, [first], [second], expected=f"{EVIL}7"),
        probe.evaluate_analogies(words, {EVIL: [tuple(f"{EVIL}{n}" for n in range(4))]}),
        probe.association_test(words, (pairs[0], pairs[1]), (pairs[2], pairs[3])),
        probe.WordPairs(EVIL, EVIL, EVIL, EVIL, tuple(pairs), tuple(pairs), (EVIL,)),
    ]  # fmt: skip
