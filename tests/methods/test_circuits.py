"""Circuits read from weights, against matrices multiplied out, recordings, and a model written by hand."""

import dataclasses

import pytest
import torch

import probe
from probe.errors import BadPrompt, DifferentModel, OutOfRange, SiteNotRecorded, UnknownName
from probe.methods.circuits import (
    FactoredMatrix,
    composition_scores,
    copying_scores,
    head_writes,
    head_writes_for_token,
    ov_circuit,
    qk_circuit,
)
from tests.induction import INDUCTION, PREVIOUS, induction_model
from tests.tiny import CONFIGS, GPT2, LLAMA, tiny_model

IDS = [[3, 1, 4, 1, 5]]


@pytest.fixture(params=CONFIGS)
def model(request):
    """Gains that are not 1, so that folding them in shows; without the biases that circuits leave out."""
    model = tiny_model(request.param)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".w"):
                parameter.uniform_(0.5, 1.5)
            elif name.rsplit(".", 1)[-1] in ("b_Q", "b_K", "b_V", "b"):
                parameter.zero_()
    return model


def normalised(model, recording, layer):
    """The stream as the norm's scale leaves it, before the gain and without subtracting the mean: circuits do that."""
    return recording["resid_pre", layer] / recording["ln1.scale", layer]


def test_a_factored_matrix_is_its_product():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(9, 3, generator=generator), torch.randn(3, 9, generator=generator)
    factored = FactoredMatrix(left, right)
    whole = left @ right
    assert factored.norm == pytest.approx(float(whole.norm()), rel=1e-5)
    torch.testing.assert_close(factored.singular_values, torch.linalg.svdvals(whole)[:3], atol=1e-4, rtol=0)
    expected = torch.linalg.eigvals(whole)
    expected = expected[expected.abs().argsort(descending=True)][:3]
    assert factored.eigenvalues.abs().tolist() == pytest.approx(expected.abs().tolist(), abs=1e-4)
    assert factored.eigenvalues.sum().real == pytest.approx(float(whole.trace()), abs=1e-3)


@pytest.mark.parametrize("layer", [0, 2])
def test_qk_circuits_make_the_scores_at_every_offset(model, layer):
    recording = probe.record(model, IDS)
    stream = normalised(model, recording, layer)[0]
    for head in range(4):
        for query in range(5):
            for key in range(query + 1):
                circuit = qk_circuit(model, layer, head, offset=query - key)
                score = stream[query] @ circuit.product @ stream[key] * model.config.scale_of_layer(layer)
                expected = float(recording["attn_scores", layer][0, head, query, key])
                assert float(score) == pytest.approx(expected, abs=2e-3, rel=1e-4)


def test_qk_circuits_of_scaled_positions_make_the_scores():
    """This kind of scaling also lengthens queries and keys, both of them."""
    scaling = probe.RotaryScaling("yarn", factor=4.0, original_n_ctx=16)
    torch.manual_seed(0)
    model = probe.GPT(probe.GPTConfig(**LLAMA.to_dict() | {"rotary_scaling": scaling}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10.0 if parameter.ndim == 2 else 1.0)
    recording = probe.record(model, IDS)
    stream = normalised(model, recording, 1)[0]
    score = stream[4] @ qk_circuit(model, 1, 3, offset=3).product @ stream[1] * model.config.scale_of_layer(1)
    assert float(score) == pytest.approx(float(recording["attn_scores", 1][0, 3, 4, 1]), abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("layer", [0, 2])
def test_ov_circuits_and_patterns_make_what_attention_adds(model, layer):
    recording = probe.record(model, IDS)
    stream = normalised(model, recording, layer)[0]
    added = sum(
        recording["pattern", layer][0, head] @ stream @ ov_circuit(model, layer, head).product for head in range(4)
    )
    if model.config.attn_out_bias:
        added = added + model.b_O[layer]
    torch.testing.assert_close(added, recording["attn_out", layer][0], atol=1e-4, rtol=1e-4)


def test_copying_scores_are_those_of_the_whole_matrix(model):
    scores = copying_scores(model).values
    centre = torch.eye(32) - 1 / 32 if model.config.norm == "layer" else torch.eye(32)
    embedding = model.W_E.detach()
    embedding = embedding / ((embedding @ centre).square().mean(-1, keepdim=True) + model.config.norm_eps).sqrt()
    unembedding = centre @ (model.ln_final.w.detach()[:, None] * model.W_U.detach())
    for layer in range(3):
        for head in range(4):
            whole = embedding @ ov_circuit(model, layer, head).product @ unembedding
            eigenvalues = torch.linalg.eigvals(whole.double())
            expected = float(eigenvalues.sum().real / eigenvalues.abs().sum())
            assert float(scores[layer, head]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("into", ["q", "k", "v"])
def test_composition_scores_are_norms_of_products(model, into):
    scores = composition_scores(model, into=into)
    for layer, head, read_layer, read_head in ((0, 1, 1, 2), (0, 3, 2, 0), (1, 0, 2, 3)):
        written = ov_circuit(model, layer, head).product
        qk = qk_circuit(model, read_layer, read_head).product
        read = {"q": qk, "k": qk.T, "v": ov_circuit(model, read_layer, read_head).product}[into]
        expected = (written @ read).norm() / (written.norm() * read.norm())
        assert float(scores.values[layer, head, read_layer, read_head]) == pytest.approx(float(expected), abs=1e-5)
    earlier = scores.values.isnan()
    for layer in range(3):
        for read_layer in range(3):
            assert bool(earlier[layer, :, read_layer].all()) == (read_layer <= layer)
    assert len(scores.to_dataframe()) == 3 * 16


def test_only_pairs_of_a_writer_and_a_later_reader_are_listed():
    one_layer = probe.composition_scores(probe.GPT(dataclasses.replace(GPT2, n_layers=1)), into="k")
    assert one_layer.top(10) == []
    two_layers = probe.composition_scores(probe.GPT(dataclasses.replace(GPT2, n_layers=2)), into="k")
    assert {(writer[0], reader[0]) for writer, reader, _ in two_layers.top(100)} == {(0, 1)}
    assert len(two_layers.top(100)) == 16


def test_a_head_that_writes_nothing_neither_copies_nor_suppresses():
    model = tiny_model()
    with torch.no_grad():
        model.W_O[1, 2].zero_()
    scores = probe.copying_scores(model).values
    assert scores[1, 2] == 0 and scores.isfinite().all()


def test_unrelated_heads_compose_at_the_chance_level():
    config = probe.GPTConfig(n_layers=2, d_model=128, n_heads=8, d_head=16, d_mlp=8, d_vocab=20, n_ctx=8)
    scores = composition_scores(probe.GPT(config), into="k")
    squares = scores.values[0, :, 1].square()
    assert float(squares.mean()) ** 0.5 == pytest.approx(scores.chance, rel=0.05)


def test_the_planted_circuit_is_found_by_its_weights():
    model = induction_model()
    found = composition_scores(model, into="k")
    assert found.top(1)[0][:2] == (PREVIOUS, INDUCTION)
    assert found.top(1)[0][2] > 2 * found.chance
    others = found.values.nan_to_num().clone()
    others[PREVIOUS[0], PREVIOUS[1], INDUCTION[0], INDUCTION[1]] = 0.0
    assert float(others.max()) < 1e-6
    copying = copying_scores(model).values
    assert float(copying[INDUCTION]) == pytest.approx(1.0, abs=1e-4)
    for token in (1, 7, 19):
        effects = head_writes_for_token(model, *INDUCTION, token, top=2)
        assert int(effects.promoted[0]) == token and float(effects.promoted_by[1]) == pytest.approx(0.0, abs=1e-4)


def test_what_a_head_wrote_is_its_part_of_every_logit(model):
    recording = probe.record(model, IDS)
    tokens = [int(head_writes(model, recording, 1, 2, top=1).promoted[0]), 7]
    for token in tokens:
        found = probe.direct_logit_attribution(model, recording, token=token)
        part = [part.name for part in found.parts].index("L1H2")
        expected = float(found.contributions[part, 0])
        effects = head_writes(model, recording, 1, 2, top=50)
        place = effects.promoted.tolist().index(token)
        assert float(effects.promoted_by[place]) == pytest.approx(expected, abs=1e-4)


def test_suppressed_tokens_are_the_other_end(model):
    effects = head_writes_for_token(model, 0, 1, 7, top=50)
    assert effects.suppressed.tolist() == effects.promoted.tolist()[::-1]
    table = effects.to_dataframe()
    assert table["kind"].tolist() == ["promoted"] * 50 + ["suppressed"] * 50
    assert table["logits"].tolist()[0] == float(effects.promoted_by[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: qk_circuit(m, 3, 0), OutOfRange, "layer 3: this model has layers 0 to 2"),
        (lambda m: ov_circuit(m, 0, 4), OutOfRange, "head 4: this model has heads 0 to 3"),
        (lambda m: qk_circuit(m, 0, 0, offset=-1), OutOfRange, "offset=-1: expected 0 to 63"),
        (lambda m: qk_circuit(m, 0, 0, offset=64), OutOfRange, "offset=64: expected 0 to 63"),
        (lambda m: composition_scores(m, into="x"), UnknownName, "no composition into 'x'"),
        (lambda m: head_writes_for_token(m, 0, 0, 99), OutOfRange, "token id 99"),
        (lambda m: head_writes_for_token(m, 0, 0, 1, top=0), OutOfRange, "top=0: expected 1 to 50"),
        (lambda m: head_writes(m, probe.record(m, IDS, sites=["z"]), 0, 0), SiteNotRecorded, "ln_final.scale"),
        (
            lambda m: head_writes(tiny_model("llama", seed=9), probe.record(m, IDS), 0, 0), DifferentModel,
            "this recording is",
        ),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(model, as_users_run_it, call, error, message):
    with pytest.raises(error, match=message):
        call(model)


@pytest.mark.model
def test_a_text_of_several_tokens_is_refused(default_model):
    with pytest.raises(BadPrompt, match="its pieces"):
        head_writes_for_token(default_model, 0, 0, " Pariss")
