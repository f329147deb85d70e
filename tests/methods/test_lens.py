"""The logit lens against its identities and against brute force."""

import math
import subprocess
import sys

import pytest
import torch

import probe.methods._stream
from probe.errors import BadPrompt, BadShape, DifferentModel, OutOfRange, SiteNotRecorded, UnknownName
from probe.interventions import zero
from probe.methods.lens import lens_difference, logit_lens
from probe.recording import record
from tests.tiny import CONFIGS, tiny_model, tiny_tokens

RAGGED = [[1, 2, 3, 4, 5], [6, 7]]


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def brute_force(model, resid):
    """Log-probabilities of one residual stream, in float64."""
    return (model.ln_final(resid.double()) @ model.W_U.double()).log_softmax(-1)


def test_the_last_place_is_the_models_own_prediction(model):
    recording = record(model, tiny_tokens())
    readout = logit_lens(model, recording, top=50)
    expected = recording.logits.log_softmax(-1)
    assert torch.equal(readout.top_tokens[-1], expected.argsort(-1, descending=True))
    # 1e-5: the final norm and unembedding once more, on other shapes of the same rows
    torch.testing.assert_close(readout.top_log_probs[-1], expected.sort(-1, descending=True).values, atol=1e-5, rtol=0)
    assert readout.kl_to_final[-1].abs().max() == 0
    assert bool((readout.final_ranks[-1] == 1).all())


@pytest.mark.parametrize("sites", [None, ["resid_mid"]], ids=["all", "not the last place"])
def test_every_number_is_that_of_brute_force(model, sites):
    recording = record(model, tiny_tokens())
    readout = logit_lens(model, recording, sites=sites, watch=[7, 3], top=4)
    final = brute_force(model, recording["resid_post", -1])
    near = {"atol": 2e-4, "rtol": 1e-4}  # log-probabilities reach -100 in these models; float32 against float64
    for index, place in enumerate(readout.places):
        here = brute_force(model, recording[place])
        torch.testing.assert_close(readout.entropy[index].double(), -(here.exp() * here).sum(-1), **near)
        torch.testing.assert_close(readout.kl_to_final[index].double(), (final.exp() * (final - here)).sum(-1), **near)
        torch.testing.assert_close(readout.watched_log_probs[index].double(), here[..., [7, 3]], **near)
        order = here.argsort(-1, descending=True).argsort(-1) + 1
        assert torch.equal(readout.watched_ranks[index], order[..., [7, 3]])
        best = final.argmax(-1, keepdim=True)
        assert torch.equal(readout.final_tokens, best[..., 0])
        assert torch.equal(readout.final_ranks[index], order.gather(-1, best)[..., 0])
        torch.testing.assert_close(readout.final_log_probs[index].double(), here.gather(-1, best)[..., 0], **near)
    uniform = math.log(50) + (final.exp() * final).sum(-1)
    torch.testing.assert_close(readout.uniform_kl.double(), uniform, **near)


def test_places_are_the_embedding_and_the_stream_after_every_attention_and_mlp(model):
    readout = logit_lens(model, record(model, tiny_tokens()))
    blocks = [f"blocks.{layer}.hook_resid_{part}" for layer in range(3) for part in ("mid", "post")]
    assert list(readout.places) == ["blocks.0.hook_resid_pre", *blocks]


def test_a_recording_of_resid_post_alone_is_read_at_the_ends_of_layers(model):
    readout = logit_lens(model, record(model, tiny_tokens(), sites=["resid_post"], logits=False))
    assert [place.split(".")[1] for place in readout.places] == ["0", "1", "2"]
    assert readout.kl_to_final[-1].abs().max() == 0


def test_a_place_counts_as_worse_than_uniform_when_its_divergence_is_larger():
    model = tiny_model(scale=30.0)  # sharp, so that early layers are confidently wrong
    recording = record(model, tiny_tokens())
    readout = logit_lens(model, recording)
    final = brute_force(model, recording["resid_post", -1])
    first = brute_force(model, recording[readout.places[0]])
    uniform = torch.full_like(first, -math.log(50))
    expected = (final.exp() * (final - first)).sum(-1) > (final.exp() * (final - uniform)).sum(-1)
    assert bool(expected.any()) and torch.equal(readout.worse_than_uniform[0], expected)
    assert not bool(readout.worse_than_uniform[-1].any())


def test_padding_is_absent_and_rows_are_as_alone(model):
    readout = logit_lens(model, record(model, RAGGED), watch=[9])
    alone = logit_lens(model, record(model, RAGGED[1]), watch=[9])
    assert readout.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, -1, -1, -1]]
    assert bool(readout.entropy[:, 1, 2:].isnan().all()) and bool((readout.top_tokens[:, 1, 2:] == -1).all())
    assert not readout.entropy[:, 0].isnan().any()
    torch.testing.assert_close(readout.entropy[:, 1, :2], alone.entropy[:, 0], atol=1e-5, rtol=1e-5)
    assert torch.equal(readout.watched_ranks[:, 1, :2], alone.watched_ranks[:, 0])
    assert bool((readout.watched_ranks[:, 1, 2:] == -1).all())
    assert not set(readout.to_dataframe().query("prompt == 1").position) - {0, 1}


def test_reading_in_small_pieces_changes_nothing(model, monkeypatch):
    recording = record(model, RAGGED)
    whole = logit_lens(model, recording, watch=[9])
    monkeypatch.setattr(probe.methods._stream, "LOGITS_AT_ONCE", 700)  # two positions at a time
    pieces = logit_lens(model, recording, watch=[9])
    assert torch.equal(whole.watched_ranks, pieces.watched_ranks)
    torch.testing.assert_close(whole.kl_to_final, pieces.kl_to_final, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert torch.equal(whole.top_tokens, pieces.top_tokens)


def test_no_more_than_the_stated_number_of_logits_is_held_at_a_time(model, monkeypatch):
    sizes = []
    read_out = model.read_out
    monkeypatch.setattr(probe.methods._stream, "LOGITS_AT_ONCE", 700)
    monkeypatch.setattr(model, "read_out", lambda resid: sizes.append(resid[..., 0].numel() * 50) or read_out(resid))
    recording = record(model, RAGGED, logits=False)
    logit_lens(model, recording)
    assert sizes and max(sizes) <= 700


def test_chosen_positions_keep_their_numbers(model):
    readout = logit_lens(model, record(model, RAGGED, positions=[-1, 0]))
    whole = logit_lens(model, record(model, RAGGED))
    assert readout.positions.tolist() == [[4, 0], [1, 0]]
    torch.testing.assert_close(readout.entropy[:, 0, 0], whole.entropy[:, 0, 4], atol=1e-5, rtol=1e-5)


def test_the_table_lists_top_and_watched_tokens_of_every_place_and_position(model):
    readout = logit_lens(model, record(model, RAGGED), watch=[9], top=2)
    table = readout.to_dataframe()
    assert len(table) == len(readout.places) * 7 * 3
    row = table.query("kind == 'watched' and prompt == 0 and position == 3").iloc[-1]
    assert (row.token, row.token_id, row.after_token, row.layer) == ("i", 9, "d", 2)
    assert row["rank"] == readout.watched_ranks[-1, 0, 3, 0] and row.kl_final_lens_nats == 0
    best = table.query("kind == 'top' and rank == 1 and prompt == 0 and position == 3").iloc[-1]
    assert best.token_id == readout.final_tokens[0, 3]


def test_a_half_precision_recording_of_a_half_precision_model_is_read(model):
    readout = logit_lens(model.bfloat16(), record(model, RAGGED))
    assert readout.entropy.dtype == torch.float32 and readout.kl_to_final[-1, 0].abs().max() == 0


def test_a_recording_of_another_model_is_refused():
    model, other = tiny_model(seed=0), tiny_model(seed=1)
    other.name = "other"
    with pytest.raises(DifferentModel, match="of 'tiny llama', not of 'other'"):
        logit_lens(other, record(model, RAGGED))


def test_a_recording_from_before_a_change_of_weights_is_refused(model):
    recording = record(model, RAGGED)
    with torch.no_grad():
        model.W_E[0, 0] += 1
    with pytest.raises(DifferentModel, match="before its weights were changed"):
        logit_lens(model, recording)


def test_a_missing_layer_says_how_to_record_it(model):
    recording = record(model, RAGGED, sites=["resid_post"], layers=[0, 2])
    with pytest.raises(SiteNotRecorded, match=r"'blocks.1.hook_resid_post' was not kept.*sites=\['resid_post'\]"):
        logit_lens(model, recording)
    with pytest.raises(SiteNotRecorded, match="resid_mid"):
        logit_lens(model, record(model, RAGGED, sites=["resid_post"]), sites=["resid_mid"])


def test_a_reduced_recording_says_that_no_prompt_has_a_value(model):
    with pytest.raises(SiteNotRecorded, match="reduced over prompts"):
        logit_lens(model, record(model, RAGGED, sites=[], reduce={"resid_post": "mean"}))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"watch": [50]}, OutOfRange, "ids 0 to 49|has token ids 0 to 49"),
        ({"top": 0}, OutOfRange, "expected 1 to 50"),
        ({"top": 51}, OutOfRange, "expected 1 to 50"),
        ({"sites": ["resid_psot"]}, UnknownName, "did you mean 'resid_post'"),
        ({"sites": ["z"]}, UnknownName, "resid_mid"),
    ],
)
def test_arguments_that_fit_no_lens_are_named(model, arguments, error, said):
    with pytest.raises(error, match=said):
        logit_lens(model, record(model, RAGGED), **arguments)


def test_a_watched_text_needs_a_tokenizer(model):
    recording = record(model, RAGGED)
    model.tokenizer = None
    with pytest.raises(BadPrompt, match="'a': this model has no tokenizer; give its id"):
        logit_lens(model, recording, watch=["a"])
    assert logit_lens(model, recording, watch=[3]).texts[3] == "[3]"


def test_entries_are_found_by_prompt_and_position(model):
    readout = logit_lens(model, record(model, RAGGED))
    assert readout.entry() == (0, 4) and readout.entry(-1, -1) == (1, 1)
    with pytest.raises(OutOfRange, match="position 2: prompt 1 of this readout has positions 0 to 1"):
        readout.entry(1, 2)


def test_without_a_wish_every_token_that_is_first_somewhere_is_followed(model):
    readout = logit_lens(model, record(model, RAGGED))
    for prompt, column in [(0, 4), (1, 0)]:
        firsts = readout.top_tokens[:, prompt, column, 0].tolist()
        assert readout.watched_at(prompt, column) == list(dict.fromkeys(firsts))
        for place, first in enumerate(firsts):
            at = readout.watched_at(prompt, column).index(first)
            assert readout.watched_ranks[place, prompt, column, at] == 1
    unused = readout.watched == -1
    assert bool(unused.any()) and bool((readout.watched_ranks[:, unused] == -1).all())
    assert bool(readout.watched_log_probs[:, unused].isnan().all())
    assert -1 not in readout.to_dataframe().token_id.tolist()


def test_an_intervened_run_is_read_as_it_went(model):
    edited = record(model, RAGGED, interventions=zero("mlp_out", layer=1))
    readout = logit_lens(model, edited)
    assert torch.equal(readout.final_tokens[0], edited.logits[0].argmax(-1))
    assert readout.manifest["arguments"]["interventions"] == ["zero mlp_out, layer 1"]


def test_a_run_does_not_differ_from_itself(model):
    recording = record(model, RAGGED)
    difference = lens_difference(model, recording, recording)
    real = difference.before.positions != -1
    assert difference.divergence[:, real].abs().max() == 0 and difference.raised_by[:, real].abs().max() == 0
    assert bool(difference.divergence[:, ~real].isnan().all())


def test_a_difference_is_that_of_brute_force(model):
    before, after = (record(model, RAGGED, interventions=edits) for edits in ([], [zero("z", layer=1, heads=2)]))
    difference = lens_difference(model, before, after, watch=[7], top=3)
    near = {"atol": 2e-4, "rtol": 1e-4}
    for index, place in enumerate(difference.before.places):
        was, now = (brute_force(model, run[place][:1])[0] for run in (before, after))
        torch.testing.assert_close(difference.divergence[index, 0].double(), (was.exp() * (was - now)).sum(-1), **near)
        change = (now.exp() - was.exp()).sort(-1, descending=True).values
        torch.testing.assert_close(difference.raised_by[index, 0].double(), change[:, :3], **near)
        torch.testing.assert_close(difference.lowered_by[index, 0].double(), change.flip(-1)[:, :3], **near)
    assert bool((difference.divergence[:3, 0] == 0).all())  # the edit comes later than these places
    assert difference.divergence[-1, 0].max() > 0
    table = difference.to_dataframe().query("prompt == 1 and position == 1")
    assert table.rank_before.tolist() == difference.before.watched_ranks[:, 1, 1, 0].tolist()
    assert table.rank_after.tolist() == difference.after.watched_ranks[:, 1, 1, 0].tolist()
    assert table.kl_before_after_nats.tolist() == difference.divergence[:, 1, 1].tolist()


def test_both_runs_of_a_difference_follow_the_same_tokens(model):
    before, after = (record(model, RAGGED, interventions=edits) for edits in ([], [zero("mlp_out", layer=0)]))
    difference = lens_difference(model, before, after)
    assert torch.equal(difference.before.watched, difference.after.watched)
    firsts = {*difference.before.top_tokens[:, 0, 4, 0].tolist(), *difference.after.top_tokens[:, 0, 4, 0].tolist()}
    assert set(difference.after.watched_at(0, 4)) == firsts


@pytest.mark.parametrize(
    ("prompts", "arguments", "said"),
    [
        ([[1, 2, 3, 4, 6], [6, 7]], {}, "different prompts"),
        ([[1, 2, 3]], {}, "different positions, or prompts of different lengths"),
        (RAGGED, {"positions": -1}, "different positions"),
        (RAGGED, {"sites": ["resid_post"]}, "different sites"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(model, prompts, arguments, said):
    with pytest.raises(BadShape, match=said):
        lens_difference(model, record(model, RAGGED), record(model, prompts, **arguments))


@pytest.mark.slow
@pytest.mark.model
def test_memory_does_not_grow_with_the_prompt():
    """700 positions of the default model once took 1.7 GB more: what was kept of every piece lay between."""
    script = """
import resource, torch, probe
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model = probe.load_model()
ids = torch.randint(100, 40_000, (1, 700), generator=torch.Generator().manual_seed(0))
rec = probe.record(model, ids, sites=["resid_pre", "resid_mid", "resid_post"], logits=False)
before = peak()
probe.logit_lens(model, rec)
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 700  # MB
