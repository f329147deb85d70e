"""Direct logit attribution: the parts are the logit, and each is what it says."""

import pytest
import torch

from probe.errors import BadIntervention, BadPrompt, BadShape, DifferentModel, OutOfRange, SiteNotRecorded
from probe.interventions import add, replace, zero
from probe.methods.attribution import attribution_sites, direct_logit_attribution
from probe.recording import record
from tests.tiny import CONFIGS, tiny_model

RAGGED = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 1]]


@pytest.fixture(params=CONFIGS)
def model(request):
    model = tiny_model(request.param)
    with torch.no_grad():
        model.ln_final.w.normal_(1, 0.3)  # gains that matter
    return model


def recorded(model, prompts=None, **arguments):
    sites = attribution_sites(model, neurons=True)
    return record(model, RAGGED if prompts is None else prompts, sites=sites, **arguments)


def test_the_parts_sum_to_the_logit(model):
    recording = recorded(model)
    found = direct_logit_attribution(model, recording)
    last = recording.logits[torch.arange(3), recording.lengths - 1]
    assert torch.equal(found.logit, last.max(-1).values) and torch.equal(found.tokens, last.argmax(-1))
    # Logits of these models are near 30 and made of parts of that size: float32 leaves 1e-5 of it.
    torch.testing.assert_close(found.total, found.logit, atol=1e-4, rtol=0)
    assert found.error.max() < 1e-4 and found.contributions.abs().max() > 0.1


def test_a_difference_is_the_difference_of_two_attributions(model):
    recording = recorded(model)
    one, other, both = (
        direct_logit_attribution(model, recording, **asked)
        for asked in ({"token": 7}, {"token": 3}, {"token": 7, "against": 3})
    )
    torch.testing.assert_close(both.contributions, one.contributions - other.contributions, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.logit, recording.logits[torch.arange(3), recording.lengths - 1, 7] - other.logit)


def test_each_part_is_what_the_frozen_norm_and_unembedding_make_of_its_vector(model):
    recording = recorded(model, [RAGGED[0]])
    found = direct_logit_attribution(model, recording, token=7, position=2)
    scale = recording["ln_final.scale"][0, 2].double()

    @torch.no_grad()
    def through(vector):
        vector = vector.double()
        if model.config.norm == "layer":
            vector = vector - vector.mean()
        return float((vector / scale * model.ln_final.w) @ model.W_U[:, 7].double())

    expected = {"embed": through(recording["embed"][0, 2])}
    for layer in range(3):
        expected[f"L{layer} MLP"] = through(recording["mlp_out", layer][0, 2])
        for head in range(4):
            expected[f"L{layer}H{head}"] = through(recording["z", layer][0, 2, head] @ model.W_O[layer, head])
    values = dict(zip([part.name for part in found.parts], found.contributions[:, 0].tolist(), strict=True))
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-4), name
    biases = {part.kind for part in found.parts} & {"attention bias", "bias"}
    assert biases == ({"attention bias", "bias"} if model.config.norm == "layer" else set())


def test_neurons_are_parts_of_their_mlp_and_the_largest_of_it(model):
    recording = recorded(model)
    every = direct_logit_attribution(model, recording, token=7, neurons=48)
    few = direct_logit_attribution(model, recording, token=7, neurons=3)
    for layer in range(3):
        mlp = next(n for n, part in enumerate(every.parts) if part.name == f"L{layer} MLP")
        if model.config.mlp_bias:
            continue
        torch.testing.assert_close(
            every.neuron_contributions[layer].sum(-1), every.contributions[mlp], atol=1e-4, rtol=1e-4
        )
    assert torch.equal(few.neurons, every.neurons[..., :3])
    sizes = few.neuron_contributions.abs()
    assert bool((sizes[..., :-1] >= sizes[..., 1:]).all())
    layer, prompt = 1, 2
    neuron = int(few.neurons[layer, prompt, 0])
    post = recording["post", layer][prompt, 2, neuron]
    assert float(few.neuron_contributions[layer, prompt, 0]) == pytest.approx(
        float((post * model.W_out[layer][neuron] @ _direction(model, recording, prompt, 7)).detach()), abs=1e-4
    )


def _direction(model, recording, prompt, token):
    direction = model.W_U[:, token] * model.ln_final.w
    direction = direction - direction.mean() if model.config.norm == "layer" else direction
    return direction / recording["ln_final.scale"][prompt, int(recording.lengths[prompt]) - 1]


def test_prompts_of_different_length_are_as_each_alone(model):
    together = direct_logit_attribution(model, recorded(model), token=[7, 3, 9])
    for prompt, token in enumerate([7, 3, 9]):
        alone = direct_logit_attribution(model, recorded(model, [RAGGED[prompt]]), token=token)
        torch.testing.assert_close(together.contributions[:, prompt], alone.contributions[:, 0], atol=1e-4, rtol=1e-4)
    assert together.positions.tolist() == [4, 1, 2]
    torch.testing.assert_close(together.mean, together.contributions.mean(1))
    assert bool(alone.standard_error.isnan().all()) and not bool(together.standard_error.isnan().any())


def test_one_recorded_position_is_enough(model):
    whole = direct_logit_attribution(model, recorded(model))
    last = direct_logit_attribution(model, recorded(model, positions=-1))
    torch.testing.assert_close(whole.contributions, last.contributions, atol=1e-5, rtol=1e-5)


def test_a_zeroed_head_contributes_nothing_and_the_sum_still_holds(model):
    recording = recorded(model, interventions=zero("z", layer=1, heads=2))
    found = direct_logit_attribution(model, recording)
    place = next(n for n, part in enumerate(found.parts) if part.name == "L1H2")
    assert found.contributions[place].abs().max() == 0 and found.error.max() < 1e-4


@pytest.mark.parametrize("site", ["attn_out", "resid_mid", "resid_post", "ln_final.normalized"])
def test_an_edit_of_the_stream_itself_is_refused(model, site):
    layer = {} if site.startswith("ln_final") else {"layer": 1}
    recording = recorded(model, interventions=add(site, torch.arange(32.0), **layer))
    with pytest.raises(BadIntervention, match=f"an intervention .add {site}.* changed the residual stream itself"):
        direct_logit_attribution(model, recording, token=7)


def test_a_frozen_scale_that_was_edited_is_the_one_used(model):
    recording = recorded(model, interventions=replace("ln_final.scale", torch.tensor(2.0)))
    assert direct_logit_attribution(model, recording).error.max() < 1e-4


def test_the_table_has_every_part_of_every_prompt(model):
    found = direct_logit_attribution(model, recorded(model), token=7, against=3, neurons=2)
    table = found.to_dataframe()
    assert len(table) == 3 * (len(found.parts) + 3 * 2)
    sums = table[table.kind != "neuron"].groupby("prompt").contribution_logits.sum()
    assert sums.tolist() == pytest.approx(found.logit.tolist(), abs=1e-4)
    assert set(table.token) == {"g"} and set(table.against) == {"c"}
    assert found.top(1, prompt=0)[0][1] == pytest.approx(
        float(found.contributions[found.contributions[:, 0].abs().argmax(), 0])
    )


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"token": 50}, OutOfRange, "token id 50"),
        ({"token": [1, 2]}, BadShape, "token: 2 tokens for 3 prompts"),
        ({"token": 1, "against": [1, 2]}, BadShape, "against: 2 tokens for 3 prompts"),
        ({"token": [1, 2, 3], "against": [4, 2, 5]}, BadPrompt, "token and against of prompt 1 are the same: id 2"),
        ({"position": 2}, OutOfRange, "position 2: prompt 1 has positions 0 to 1"),
        ({"neurons": 49}, OutOfRange, "expected 0 to 48"),
    ],
)
def test_what_does_not_exist_is_named(model, arguments, error, said):
    with pytest.raises(error, match=said):
        direct_logit_attribution(model, recorded(model), **arguments)


def test_what_was_not_recorded_is_named(model):
    without_mlps = [site for site in attribution_sites(model) if site != "mlp_out"]
    with pytest.raises(SiteNotRecorded, match=r"'blocks.0.hook_mlp_out' was not kept.*sites=\['mlp_out'\]"):
        direct_logit_attribution(model, record(model, RAGGED, sites=without_mlps))
    with pytest.raises(SiteNotRecorded, match="some heads only"):
        direct_logit_attribution(model, recorded(model, heads=[1]))
    with pytest.raises(SiteNotRecorded, match="logits"):
        direct_logit_attribution(model, recorded(model, logits=False))


def test_a_recording_of_another_model_is_refused(model):
    with pytest.raises(DifferentModel):
        direct_logit_attribution(tiny_model(seed=5), recorded(model))


@pytest.mark.model
def test_the_default_model_prefers_mary_by_the_heads_that_are_known(default_model):
    recording = record(
        default_model, "When Mary and John went to the store, John gave a drink to",
        sites=attribution_sites(default_model), positions=-1, document_start=True,
    )  # fmt: skip
    found = direct_logit_attribution(default_model, recording, token=" Mary", against=" John")
    assert found.error.max() < 1e-4
    heads = [name for name, _ in found.top(12, prompt=0) if "H" in name]
    assert "L23H3" in heads
    with pytest.raises(BadPrompt, match="' Pariss' is not one token of this model; its pieces: ' Par', 'iss'"):
        direct_logit_attribution(default_model, recording, token=" Pariss")
