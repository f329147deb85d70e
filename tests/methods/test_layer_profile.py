"""One contrast along the path of a model, and p-values that pay for having looked at every place."""

import pytest
import torch

from probe.contexts import words_in_context
from probe.errors import BadPrompt, OutOfRange
from probe.methods._evidence import folds, score
from probe.methods.directions import evaluate_direction, fit_direction
from probe.methods.layer_profile import layer_profile
from probe.statistics import auroc, p_value, sign_flips
from probe.word_lists import WordPairs
from probe.words import word_vectors
from tests.test_contexts import TEMPLATES, model_with_words

OPTIONS = {"n_permutations": 99, "progress": False, "templates": TEMPLATES}


def model_and_pairs(n: int = 12):
    model = model_with_words()
    names = model.tokenizer.words
    return model, [(names[2 * place], names[2 * place + 1]) for place in range(n)]


def test_every_place_of_the_path_is_there_with_the_numbers_of_its_own_evaluation():
    model, pairs = model_and_pairs()
    found = layer_profile(model, pairs, **OPTIONS)
    assert [one.name for one in found.places] == ["embedding", "layer 0", "layer 1", "layer 2", "unembedding"]
    sources = [
        word_vectors(model, "embed"), *(words_in_context(model, layer, TEMPLATES) for layer in range(3)),
        word_vectors(model, "unembed"),
    ]  # fmt: skip
    for place, source, direction in zip(found.places, sources, found.directions, strict=True):
        fitted = fit_direction(source, pairs)
        alone = evaluate_direction(fitted, n_permutations=99, n_random=10, n_unrelated=10, progress=False)
        assert place.auroc.value == pytest.approx(alone.auroc.value, abs=0.01)
        assert place.accuracy.value == pytest.approx(alone.accuracy.value, abs=0.01)
        assert torch.allclose(direction, fitted.vector, atol=1e-4)
        assert place.twin is not None and alone.twin is not None
        if place.layer is not None:  # the ends draw other random numbers
            assert place.twin.value == pytest.approx(alone.twin.value, abs=0.01)
    assert len(found.to_dataframe()) == 5 and found.cosines.diagonal() == pytest.approx(1.0)


def test_p_is_adjusted_by_the_best_place_of_each_permutation():
    model, pairs = model_and_pairs()
    found = layer_profile(model, pairs, twin=False, **OPTIONS)
    signs = sign_flips(len(pairs), 99, seed=0).signs
    nulls = []
    for source in [word_vectors(model), *(words_in_context(model, layer, TEMPLATES) for layer in range(3)),
                   word_vectors(model, "unembed")]:  # fmt: skip
        nulls.append(score("mean difference", fit_direction(source, pairs).pairs, signs, folds(pairs)).auroc)
    best = torch.stack(nulls).amax(0)
    for place, null in zip(found.places, nulls, strict=True):
        assert place.p == pytest.approx(p_value(place.auroc.value, null), abs=0.021)
        assert place.p_adjusted == pytest.approx(p_value(place.auroc.value, best), abs=0.021)
        assert place.p_adjusted >= place.p and place.twin is None


def test_on_noise_the_best_place_looks_good_by_its_own_p_but_not_by_the_adjusted_one():
    """60 labellings at random of words that a random model tells apart in every layer."""
    model = model_with_words()
    names, alone, adjusted = model.tokenizer.words, 0, 0
    for seed in range(60):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed)).tolist()
        pairs = [(names[order[2 * place]], names[order[2 * place + 1]]) for place in range(12)]
        found = layer_profile(model, pairs, twin=False, seed=seed, **{**OPTIONS, "n_permutations": 39})
        alone += min(one.p for one in found.places) <= 0.05
        adjusted += min(one.p_adjusted for one in found.places) <= 0.05
    assert adjusted <= 9 and alone > adjusted, (alone, adjusted)  # of 60 at 5 %: more than 9 has a probability of 0.1 %


def test_a_planted_contrast_is_found_and_the_untrained_twin_has_none():
    model, pairs = model_and_pairs()
    with torch.no_grad():
        for up, down in pairs:
            model.W_E[model.tokenizer.token_id(f" {up}"), 0] += 20.0
            model.W_E[model.tokenizer.token_id(f" {down}"), 0] -= 20.0
    found = layer_profile(model, pairs, **OPTIONS)
    embedding = found.places[0]
    assert embedding.auroc.value == 1.0 and embedding.p_adjusted <= 0.02 and embedding.twin.value < 0.9


def test_a_word_list_brings_its_templates_and_both_halves():
    model, pairs = model_and_pairs()
    words = WordPairs("mine", "up", "down", "note", tuple(pairs[:6]), tuple(pairs[6:]), tuple(TEMPLATES))
    found = layer_profile(model, words, n_permutations=19, twin=False, progress=False)
    assert found.pairs == words.all and found.direction == "up - down"
    assert found.manifest["method_arguments"]["templates"] == TEMPLATES


def test_mistakes_are_named():
    model, pairs = model_and_pairs()
    with pytest.raises(BadPrompt, match="no templates"):
        layer_profile(model, pairs)
    with pytest.raises(OutOfRange, match="needs 4"):
        layer_profile(model, pairs[:3], **OPTIONS)
    with pytest.raises(OutOfRange, match="at least 19"):
        layer_profile(model, pairs, **{**OPTIONS, "n_permutations": 10})


def test_effect_sizes_go_on_where_areas_end():
    model, pairs = model_and_pairs()
    found = layer_profile(model, pairs, twin=False, **OPTIONS)
    place = found.places[2]
    pairs_there = fit_direction(words_in_context(model, 1, TEMPLATES), pairs).pairs
    scores = score("mean difference", pairs_there, torch.ones(1, 12).double(), folds(pairs))
    up, down = scores.positive[0], scores.negative[0]
    assert float(auroc(up, down)) == pytest.approx(place.auroc.value, abs=0.01)
    deviation = ((up.var() + down.var()) / 2).sqrt()
    assert place.effect_size.value == pytest.approx(float((up.mean() - down.mean()) / deviation), abs=0.01)
