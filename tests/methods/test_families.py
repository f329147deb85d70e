"""What must hold in every family, however its layers add up: tests of single methods run on GPT-2 and Llama alone."""

import itertools

import pytest
import torch

import probe
from probe.errors import OutOfRange, ProbeError, SiteNotRecorded, UnknownName
from probe.figures.attribution import attribution_bars
from probe.methods._patches import PATCHED
from probe.methods._reruns import Part, RecordedRun, Row
from probe.methods.check import check_model
from probe.prompts import read_prompts
from probe.sites import describe_site, find_sites, residual_sites, site_dims
from tests.methods.test_ablation import KINDS, PROMPTS, RAGGED, replaced, sweep, value_of
from tests.methods.test_patching import CLEAN, CORRUPTED, patch, plain
from tests.methods.test_path_patching import by_two_passes, paths
from tests.tiny import MORE, tiny_model

EXACT = 1e-4
"""In logits of size up to about 60: rounding of float32 through another order of the same sums."""


@pytest.fixture(params=[family for family in MORE if family != "neo"])  # whose arithmetic is GPT-2's, with windows
def model(request):
    """Norms and gains drawn, so that a gain that is left out shows."""
    model = tiny_model(request.param)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".w"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def test_the_identities_of_the_pass_hold(model):
    report = check_model(model)
    assert report.passed, report.to_dataframe().to_string()


def sites_of(model):
    return [site for site in PATCHED if describe_site(site).exists(model.config)]


def kinds_of(model):
    return [kind for kind in KINDS if model.config.d_mlp or kind in ("heads", "layers")]


def test_a_sweep_equals_one_edited_pass_for_each_unit(model):
    for units in kinds_of(model):
        found = sweep(model, RAGGED, units=units, value="mean", layers=1 if units == "neurons" else None)
        some = range(0, len(found.units), {"neurons": 11, "heads": 2}.get(units, 1))
        for number, row in itertools.product(some, range(2)):
            new = value_of(model, RAGGED, row, "mean")
            logits = replaced(model, RAGGED, row, found.units[number], new, range(1, len(RAGGED[row])))
            expected = float(logits[5] - logits[7] - found.clean[row])
            assert float(found.effects[number, row]) == pytest.approx(expected, abs=EXACT), found.units[number].name
        assert found.effects.abs().max() > 0.1


def test_parts_of_all_kinds_are_taken_out_together(model):
    units = [["MLP 1", (1, 2)], [(2, 1), "MLP 0", "0.1"], ["neuron 0.3", "2.1", "2.2"]]
    if not model.config.d_mlp:
        units = [["layer 1", (2, 2)], [(2, 1), "layer 0"]]
    found = sweep(model, units=units, value="zero")
    for number, unit in enumerate(found.units):
        logits = replaced(model, PROMPTS, 0, unit, value_of(model, PROMPTS, 0, "zero"), range(1, 8))
        expected = float(logits[5] - logits[7] - found.clean[0])
        assert float(found.effects[number, 0]) == pytest.approx(expected, abs=EXACT), unit.name


@pytest.mark.parametrize("position", [None, -1])
def test_all_logits_of_a_rerun_equal_those_of_a_plain_pass(model, position):
    """Whatever is replaced in a layer, wherever the row begins, and however few positions are read in the end."""
    batch = read_prompts(model.config, model.tokenizer, PROMPTS)
    everything = probe.custom_metric(lambda logits: logits.sum((1, 2)), position=position).bind(model, batch)
    shorts = [describe_site(name).short for name in find_sites(model.config, None, [1])]
    other = probe.record(model, PROMPTS[0])
    with torch.no_grad():
        clean = RecordedRun(model, batch, everything, range(4), shorts)
        rows = [Row(2, 0, (Part(layer, site),), tuple(range(3, 8))) for site in shorts for layer in (1, 2)]
        together = clean.logits(rows, lambda layer, site: other[site, layer])
        alone = [clean.logits([row], lambda layer, site: other[site, layer])[0] for row in rows]
    for row, found, by_itself in zip(rows, together, alone, strict=True):
        (part,) = row.parts
        dims = site_dims(part.site)
        new = other[part.site, part.layer].narrow(dims.index("query_pos" if "query_pos" in dims else "pos"), 3, 5)
        edit = probe.replace(part.site, new, layer=part.layer, positions=[3, 4, 5, 6, 7])
        expected = probe.record(model, PROMPTS[2], sites=[], interventions=[edit]).logits[0]
        for logits in (found, by_itself):
            assert (logits - expected[-len(logits) :]).abs().max() < EXACT, part


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_each_patched_place_equals_one_edited_pass(model, direction):
    for site in sites_of(model):
        found = patch(model, site, direction=direction)
        pair = (CORRUPTED[1], CLEAN[1]) if direction == "denoise" else (CLEAN[1], CORRUPTED[1])
        for number in range(0, len(found.cells), 3):
            expected = plain(model, found.cells[number], *pair)
            assert float(found.patched[number, 1]) == pytest.approx(expected, abs=EXACT), found.cells[number]
        assert found.effects.abs().max() > 0.01


@pytest.mark.parametrize("through_mlps", [False, True])
def test_paths_equal_the_two_passes_that_define_them(model, through_mlps):
    mlps = [("mlp", 2)] if model.config.d_mlp else []
    for receiver in (("q", 2, 3), ("k", 2, 1), ("v", 1, 0), *mlps, "logits"):
        found = paths(model, receiver, through_mlps=through_mlps)
        for number in range(0, len(found.senders), 3):
            sender = found.senders[number]
            expected = by_two_passes(model, CLEAN[1], CORRUPTED[1], sender, receiver, through_mlps=through_mlps)
            assert float(found.patched[number, 1]) == pytest.approx(expected, abs=EXACT), (sender, receiver)
        assert found.effects.abs().max() > 0.01


def test_an_mlp_hears_the_heads_of_its_own_layer_where_it_comes_after_them(model):
    if not model.config.d_mlp:
        pytest.skip("it has no MLP")
    layers = {layer for layer, _ in paths(model, ("mlp", 1)).senders}
    assert layers == ({0} if model.config.parallel else {0, 1})


def test_a_logit_is_the_sum_of_what_every_part_wrote(model):
    rec = probe.record(
        model, RAGGED, sites=probe.attribution_sites(model, neurons=bool(model.config.d_mlp)), positions=-1
    )
    found = probe.direct_logit_attribution(model, rec, token=5, neurons=min(4, model.config.d_mlp))
    assert float(found.error.max()) < EXACT
    said = torch.stack([rec.logits[row, -1, 5] for row in range(len(RAGGED))])
    torch.testing.assert_close(model.unembed.soft_cap(found.logit), said, atol=EXACT, rtol=0)
    assert found.before_cap == (model.config.logit_soft_cap is not None)
    assert ("before the model’s soft cap" in repr(found)) == found.before_cap
    assert ("before the soft cap" in attribution_bars(found).layout.title.text.replace("<br>", " ")) == found.before_cap
    for row in range(len(RAGGED)):
        for layer in range(3 if model.config.d_mlp else 0):
            mlp = found.contributions[[part.name for part in found.parts].index(f"L{layer} MLP"), row]
            every = probe.direct_logit_attribution(model, rec, token=5, neurons=model.config.d_mlp)
            listed = every.neuron_contributions[layer, row].sum()
            bias = _bias_of_mlp(model, rec, layer, row)
            assert float(listed + bias) == pytest.approx(float(mlp), abs=EXACT)


def _bias_of_mlp(model, rec, layer, row):
    """What the MLP's bias adds to the logit of token 5, from the definition: the stream with and without it."""
    b_out = model.blocks[layer].mlp.b_out
    if b_out is None:
        return 0.0
    direction = model.logit_directions[:, 5] / rec["ln_final.scale"][row, 0]
    return float((b_out @ direction).detach())


def test_direct_effects_are_what_the_attribution_says(model):
    """Two ways to one number: the engine's reruns through the frozen norm, and the sum of the logit."""
    rec = probe.record(model, PROMPTS, sites=probe.attribution_sites(model), positions=-1)
    right, wrong = (probe.direct_logit_attribution(model, rec, token=token) for token in (5, 7))
    cap, names = model.unembed.soft_cap, [part.name for part in right.parts]
    for units in set(kinds_of(model)) - {"layers"}:
        found = sweep(model, units=units, value="zero", positions=None, layers=1)
        for number in range(0, len(found.units), 3):
            (part,) = found.units[number].parts
            if units == "heads":
                place = names.index(f"L{part.layer}H{part.index}")
                shares = right.contributions[place], wrong.contributions[place]
            elif units == "MLPs":
                place = names.index(f"L{part.layer} MLP")
                shares = right.contributions[place], wrong.contributions[place]
            else:
                shares = (_share_of_neuron(model, part, token) for token in (5, 7))
            without = [cap(whole.logit - share) for whole, share in zip((right, wrong), shares, strict=True)]
            expected = without[0] - without[1] - (cap(right.logit) - cap(wrong.logit))
            torch.testing.assert_close(found.direct[number], expected, atol=EXACT, rtol=0)


def _share_of_neuron(model, part, token):
    rec = probe.record(model, PROMPTS, sites=probe.attribution_sites(model, neurons=True), positions=-1)
    every = probe.direct_logit_attribution(model, rec, token=token, neurons=model.config.d_mlp)
    here = every.neurons[part.layer] == part.index
    return (every.neuron_contributions[part.layer] * here).sum(-1)


def test_the_last_place_of_a_lens_is_the_model_itself(model):
    rec = probe.record(model, RAGGED, sites=residual_sites(model.config))
    readout = probe.logit_lens(model, rec, watch=[5])
    assert float(readout.kl_to_final[-1].nan_to_num().abs().max()) == 0
    expected = rec.logits.log_softmax(-1)[..., 5]
    torch.testing.assert_close(readout.watched_log_probs[-1, ..., 0], expected, atol=1e-5, rtol=0, equal_nan=True)
    assert len(readout.places) == 1 + 3 * (len(residual_sites(model.config)) - 1)


def test_a_place_that_a_family_lacks_is_refused_by_name(model):
    if model.config.has_mid:
        pytest.skip("it has all of them")
    why = "both read the same stream" if model.config.d_mlp else "attention alone, without an MLP"
    with pytest.raises(UnknownName, match=why):
        probe.record(model, "abc", sites=["resid_mid"])
    with pytest.raises(UnknownName, match=why):
        probe.logit_lens(model, probe.record(model, "abc"), sites=["resid_mid"])
    with pytest.raises(UnknownName, match=why):
        patch(model, "resid_mid")


def test_layers_of_attention_alone_have_no_mlp_to_ask_for():
    model = tiny_model("attention")
    for units in ("MLPs", "neurons", ["MLP 1"], ["neuron 1.3"]):
        with pytest.raises(OutOfRange, match="attention alone, without an MLP"):
            sweep(model, units=units)
    with pytest.raises(OutOfRange, match="attention alone, without an MLP"):
        paths(model, ("mlp", 1))
    with pytest.raises(UnknownName, match="attention alone, without an MLP"):
        probe.record(model, "abc", sites=["mlp_out"])
    with pytest.raises(ProbeError, match="no W_in"):
        model.W_in[0]


def test_tokens_that_are_read_and_never_predicted_are_no_targets():
    """The twelfth letter is token 12; from token 40 on nothing is predicted."""
    model = tiny_model("bare")
    assert probe.record(model, [[45, 3]]).logits.shape == (1, 2, 40)
    for target in (lambda: probe.logit_difference(45, 3), lambda: probe.log_probability(45)):
        with pytest.raises(OutOfRange, match="token id 45: what this model predicts has token ids 0 to 39"):
            sweep(model, [[1, 2]], metric=target(), value="zero")
    for scored in (probe.loss, probe.score_text):
        with pytest.raises(OutOfRange, match="token id 45 at position 1 of prompt 0 is never predicted"):
            scored(model, [[3, 45, 3]])
    assert probe.loss(model, [[45, 3]]).shape == (1, 1)  # the first token is not predicted
    with pytest.raises(OutOfRange, match="top=41: expected 1 to 40"):
        probe.logit_lens(model, probe.record(model, "abc"), top=41)
    assert probe.copying_scores(model).values.isfinite().all()
    assert probe.head_writes_for_token(model, 0, 0, 45, top=40).promoted.max() < 40


def test_circuits_by_weights_give_the_scores_and_the_writing_of_the_pass(model):
    """Biases aside: they are taken out of the model, since circuits leave them out."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith("b"):
                parameter.zero_()
    rec, layer, head = probe.record(model, "abcdefgh"), 1, 2
    normal, group = rec["ln1.normalized", layer][0], head // model.config.heads_per_group
    far = probe.qk_circuit(model, layer, head, offset=3).product
    score = normal[7] @ far @ normal[4] * model.config.scale_of_layer(layer)
    if model.config.qk_norm:
        score = score / rec["q_norm.scale", layer][0, 7, head] / rec["k_norm.scale", layer][0, 4, group]
    pair = probe.read_pair(rec, layer, head, query=7, key=4)
    assert float(score) == pytest.approx(float(pair.terms.sum()), abs=EXACT)
    capped = model.blocks[layer].attn.soft_cap(pair.terms.sum())
    assert float(capped) == pytest.approx(pair.score, abs=EXACT)
    written = rec["v", layer][0, :, group] @ model.W_O[layer, head]
    if model.config.post_norms:
        written = written * model.blocks[layer].ln1_post.gain
    torch.testing.assert_close(normal @ probe.ov_circuit(model, layer, head).product, written, atol=EXACT, rtol=0)
    found = probe.head_writes(model, rec, layer, head, top=model.config.n_outputs)
    parts = probe.direct_logit_attribution(model, rec, token=int(found.promoted[0]))
    names = [part.name for part in parts.parts]
    share = parts.contributions[names.index(f"L{layer}H{head}"), 0]
    assert float(found.promoted_by[0]) == pytest.approx(float(share), abs=EXACT)


def test_value_weighted_patterns_are_lengths_of_what_reaches_the_stream(model):
    """By the definition: what is added to the stream for one key, the scale of a norm after attention held."""
    rec, layer, head = probe.record(model, "abcdefgh"), 1, 2
    found = probe.value_weighted_pattern(model, rec, layer, head)
    v = rec["v", layer][0, :, head // model.config.heads_per_group]
    messages = rec["pattern", layer][0, head][..., None] * (v @ model.W_O[layer, head].detach())
    if model.config.post_norms:
        messages = messages * model.blocks[layer].ln1_post.gain.detach() / rec["ln1_post.scale", layer][0, :, None]
    expected = messages.norm(dim=-1)
    torch.testing.assert_close(found.pattern, expected / expected.sum(-1, keepdim=True), atol=1e-5, rtol=0)


def test_what_is_missing_from_a_recording_is_said(model):
    for site in probe.attribution_sites(model):
        others = [one for one in probe.attribution_sites(model) if one != site]
        with pytest.raises(SiteNotRecorded):
            probe.direct_logit_attribution(model, probe.record(model, "abc", sites=others), token=5)
