"""Adding and taking out directions: equal to plain edited passes, beside random directions."""

import dataclasses

import pytest
import torch

import probe
from probe.contexts import words_in_context
from probe.errors import BadPrompt, BadShape, DifferentModel, OutOfRange, UnknownName, WrongType
from probe.methods.directions import fit_direction
from probe.methods.steering import _leace, dose_curve, erasure_test, join_doses
from probe.words import from_arrays, word_vectors
from tests.test_contexts import TEMPLATES, model_with_words

PROMPTS = ["ak al", "bm bn bo", "cp cq cr ck"]
UNRELATED = ["dk dl dm dn", "ek el em"]
OPTIONS = {"target": " dk", "against": " dl", "n_random": 10, "unrelated": UNRELATED, "progress": False}


def model_and_direction(family: str = "llama", layer: int = 1):
    model = model_with_words(family)
    names = model.tokenizer.words
    pairs = [(names[2 * place], names[2 * place + 1]) for place in range(10)]
    return model, fit_direction(words_in_context(model, layer, TEMPLATES), pairs)


def contrast(model, text, interventions=(), start=True):
    rec = probe.record(model, text, sites=["embed"], interventions=interventions, positions=-1, document_start=start)
    ids = [model.tokenizer.token_id(token) for token in (" dk", " dl")]
    return float(rec.logits[0, 0, ids[0]] - rec.logits[0, 0, ids[1]])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("start", [True, False])
def test_effects_equal_one_edited_pass_each(family, start):
    """Prompts of different lengths, run again from the layer on, many doses in a batch."""
    model, direction = model_and_direction(family)
    found = dose_curve(model, direction, PROMPTS, doses=(-0.5, 0.5, 2.0), document_start=start, **OPTIONS)
    rec = probe.record(model, PROMPTS, sites=["resid_post"], layers=[1], document_start=start)["resid_post", 1]
    norm = float(rec[:, 1:].norm(dim=-1).nanmean())
    assert found.norm == pytest.approx(norm, rel=1e-5) and found.gap == pytest.approx(direction.gap / norm, rel=1e-5)
    for row, text in enumerate(PROMPTS):
        assert float(found.clean[row]) == pytest.approx(contrast(model, text, start=start), abs=1e-4)
        for number, dose in enumerate(found.doses):
            push = probe.add("resid_post", (dose * norm * direction.vector).float(), layer=1, positions=-1)
            moved = contrast(model, text, [push], start) - contrast(model, text, start=start)
            assert float(found.effects[number, row]) == pytest.approx(moved, abs=2e-4)


def test_at_all_positions_the_first_one_is_left_alone():
    model, direction = model_and_direction()
    found = dose_curve(model, direction, PROMPTS[:1], doses=(1.0,), positions="all", document_start=True, **OPTIONS)
    push = probe.add("resid_post", (found.norm * direction.vector).float(), layer=1, positions=[1, 2])
    moved = contrast(model, PROMPTS[0], [push]) - contrast(model, PROMPTS[0])
    assert float(found.effects[0, 0]) == pytest.approx(moved, abs=2e-4)


def test_damage_is_the_divergence_on_unrelated_texts():
    model, direction = model_and_direction()
    found = dose_curve(model, direction, PROMPTS, doses=(0.7,), document_start=True, **OPTIONS)
    for row, text in enumerate(UNRELATED):
        n = len(text.split()) + 1
        push = probe.add(
            "resid_post", (0.7 * found.norm * direction.vector).float(), layer=1, positions=list(range(1, n))
        )
        clean, changed = (
            probe.record(model, text, sites=["embed"], interventions=edits, document_start=True)
            .logits[0, 1:].double().log_softmax(-1)
            for edits in ([], [push])
        )  # fmt: skip
        expected = float((clean.exp() * (clean - changed)).sum(-1).mean())
        assert float(found.damage[0, row]) == pytest.approx(expected, abs=1e-4) and expected > 0


def test_random_directions_have_the_same_length_and_come_from_the_seed():
    model, direction = model_and_direction()
    one, again, other = (
        dose_curve(model, direction, PROMPTS, doses=(0.5,), seed=seed, **OPTIONS) for seed in (0, 0, 1)
    )
    assert torch.equal(one.random_effects, again.random_effects)
    assert not torch.allclose(one.random_effects, other.random_effects) and torch.equal(one.effects, other.effects)
    assert one.random_effects.shape == (10, 1, 3)
    matched = dose_curve(model, direction, PROMPTS, doses=(0.5,), random_kind="covariance-matched", **OPTIONS)
    assert not torch.allclose(matched.random_effects, one.random_effects)


def test_the_unembeddings_own_direction_is_used_and_counts_the_doses():
    """At the last layer, towards the target's own output direction."""
    model = model_with_words()
    direction = fit_direction(word_vectors(model, "unembed"), [("dk", "dl")])
    found = dose_curve(model, direction, PROMPTS, doses=(-0.5, 0.25, 0.5), target=" dk", against=" dl", n_random=20,
                       unrelated=UNRELATED, progress=False)  # fmt: skip
    assert found.site == "blocks.2.hook_resid_post"
    assert found.effect(0.5).low > 0 > found.effect(-0.5).high
    assert found.p(0.5) == pytest.approx(1 / 21) and found.used
    table = found.to_dataframe()
    assert len(table) == 3 * 21 and set(table["dose"]) == {-0.5, 0.25, 0.5}


def test_a_direction_of_the_embedding_is_added_before_layer_0():
    model = model_with_words()
    direction = fit_direction(word_vectors(model, "embed"), [("dk", "dl"), ("ek", "el")])
    found = dose_curve(model, direction, PROMPTS, doses=(1.0,), **OPTIONS)
    assert found.site == "blocks.0.hook_resid_pre"
    elsewhere = dose_curve(model, direction, PROMPTS, doses=(1.0,), layer=2, site="resid_mid", **OPTIONS)
    assert elsewhere.site == "blocks.2.hook_resid_mid"


def test_the_natural_dose_is_the_one_nearest_to_a_gap_towards_the_positive_words():
    model, direction = model_and_direction()
    found = dose_curve(model, direction, PROMPTS, doses=(-0.3, 0.2, 50.0), **OPTIONS)
    expected = 0.2 if abs(0.2 - found.gap) < abs(50.0 - found.gap) else 50.0
    assert found.natural_dose == expected
    with pytest.raises(OutOfRange, match="given were"):
        found.effect(0.25)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_curves_over_some_doses_are_joined_to_the_one_over_all(positions):
    model, direction = model_and_direction()
    options = {**OPTIONS, "positions": positions}
    curves = [dose_curve(model, direction, PROMPTS, doses=doses, **options) for doses in ((0.1, -0.4), (0.4,), (-0.1,))]
    joined = join_doses(curves)
    expected = dose_curve(model, direction, PROMPTS, doses=(-0.4, -0.1, 0.1, 0.4), **options)
    for field in dataclasses.fields(expected):
        one, other = getattr(joined, field.name), getattr(expected, field.name)
        if isinstance(other, torch.Tensor):  # batches of another size round the last digits otherwise
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
        else:
            assert one == other, field.name


def test_what_is_no_piece_of_one_curve_is_not_joined(as_users_run_it):
    model, direction = model_and_direction()
    first, other = (dose_curve(model, direction, PROMPTS, doses=(0.5,), seed=seed, **OPTIONS) for seed in (0, 1))
    with pytest.raises(OutOfRange, match="curves: the list is empty; give at least one DoseCurve"):
        join_doses([])
    with pytest.raises(WrongType, match="1 is among them; expected each to be of the kind DoseCurve"):
        join_doses([first, 1])
    with pytest.raises(OutOfRange, match="expected different numbers"):
        join_doses([first, first])
    with pytest.raises(OutOfRange, match="curves: they differ in seed; expected pieces of one call"):
        join_doses([first, other])
    with pytest.raises(DifferentModel, match="whose weights differ"):
        join_doses([first, dose_curve(*model_and_direction("gpt2"), PROMPTS, doses=(0.1,), **OPTIONS)])


@pytest.mark.parametrize("layers", ["this", "from here on"])
def test_taking_out_equals_edited_passes(layers):
    model, direction = model_and_direction()
    prompts = [("ak al", "ak am"), ("bm bn bo", "bm bn bp"), ("ck", "cl")]
    found = erasure_test(model, direction, prompts, layers=layers, document_start=True, **OPTIONS)
    out = [
        probe.project_out("resid_post", direction.vector.float(), layer=layer, positions=-1)
        for layer in ((1,) if layers == "this" else (1, 2))
    ]
    for row, (up, down) in enumerate(prompts):
        assert float(found.clean[row]) == pytest.approx(contrast(model, up) - contrast(model, down), abs=1e-4)
        expected = contrast(model, up, out) - contrast(model, down, out)
        assert float(found.erased[row]) == pytest.approx(expected, abs=2e-4)
    ratio = float(found.erased.mean() / found.clean.mean())
    assert found.left.value == pytest.approx(ratio, rel=1e-5) and len(found.to_dataframe()) == 3
    assert found.random_erased.shape == (10, 3) and (found.damage > 0).all()


def test_everywhere_but_at_position_0_nothing_is_left_along_the_direction():
    model, direction = model_and_direction()
    prompts = [("ak al", "ak am"), ("bm bn bo", "bm bn bp")]
    found = erasure_test(model, direction, prompts, positions="all", document_start=True, **OPTIONS)
    out = probe.project_out("resid_post", direction.vector.float(), layer=1, positions=[1, 2])
    assert float(found.erased[0]) == pytest.approx(
        contrast(model, "ak al", [out]) - contrast(model, "ak am", [out]), abs=2e-4
    )


def test_what_is_left_has_no_sign():
    """Target and against exchanged: the same share is left, with the same p."""
    model, direction = model_and_direction()
    prompts = [("ak al", "ak am"), ("bm bn bo", "bm bn bp")]
    one = erasure_test(model, direction, prompts, **OPTIONS)
    other = erasure_test(model, direction, prompts, **{**OPTIONS, "target": " dl", "against": " dk"})
    torch.testing.assert_close(one.clean, -other.clean)
    assert one.left.value == pytest.approx(other.left.value) and one.p == other.p


@pytest.mark.parametrize("prompts", [[("ak", "al", "am"), ("bk", "bl", "bm")], [("ak",), ("bk",)]])
def test_a_pair_of_prompts_is_two(prompts, as_users_run_it):
    model, direction = model_and_direction()
    with pytest.raises(BadShape, match="expected two texts, got"):
        erasure_test(model, direction, prompts, **OPTIONS)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # concept-erasure's
def test_leace_leaves_the_means_of_both_groups_equal():
    model, direction = model_and_direction()
    eraser = _leace(direction)
    up, down = eraser(direction.pairs.positive), eraser(direction.pairs.negative)
    before = (direction.pairs.positive.mean(0) - direction.pairs.negative.mean(0)).norm()
    assert (up.mean(0) - down.mean(0)).norm() < 1e-3 * before
    prompts = [("ak al", "ak am"), ("bm bn bo", "bm bn bp")]
    leace = erasure_test(model, direction, prompts, erasure="leace", **OPTIONS)
    assert not torch.allclose(leace.erased, erasure_test(model, direction, prompts, **OPTIONS).erased)


MISTAKES = {
    "no doses": ({"doses": ()}, OutOfRange, "doses"),
    "a dose of zero": ({"doses": (0, 1)}, OutOfRange, "other than 0"),
    "a dose twice": ({"doses": (1, 1)}, OutOfRange, "different numbers"),
    "too few random": ({"n_random": 5}, OutOfRange, "n_random=5"),
    "no such layer": ({"layer": 3}, OutOfRange, "layer 3"),
    "another site": ({"site": "z"}, UnknownName, "resid_post"),
    "a target of two tokens": ({"target": " dk dl"}, BadPrompt, "not one token"),
    "no such positions": ({"positions": "first"}, UnknownName, "positions"),
    "one token": ({"prompts": ["ak"], "document_start": False}, BadPrompt, "attention sink"),
}


@pytest.mark.parametrize(("changes", "error", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named_before_anything_runs(changes, error, said, monkeypatch, as_users_run_it):
    model, direction = model_and_direction()
    monkeypatch.setattr("probe.methods.steering.record", lambda *_, **__: pytest.fail("a pass was run"))
    options = {**OPTIONS, "prompts": PROMPTS, **changes}
    with pytest.raises(error) as raised:
        dose_curve(model, direction, options.pop("prompts"), **options)
    assert said in str(raised.value)


def test_directions_of_other_models_and_of_static_vectors_are_refused():
    model, direction = model_and_direction()
    with pytest.raises(DifferentModel, match="not in tiny gpt2"):
        dose_curve(model_with_words("gpt2"), direction, PROMPTS, **OPTIONS)
    static = fit_direction(from_arrays("static", ["a", "b"], torch.eye(2)), [("a", "b")])
    with pytest.raises(DifferentModel, match="static"):
        dose_curve(model, static, PROMPTS, **OPTIONS)
    with pytest.raises(OutOfRange, match="one layer"):
        erasure_test(model, direction, [("ak", "al")] * 2, erasure="leace", layers="from here on", **OPTIONS)
