"""A text scored position by position, against one pass whose logits are read by hand."""

import math

import pytest

import probe
import probe.methods.surprise
from probe.errors import BadIntervention, BadPrompt, OutOfRange
from probe.methods.surprise import score_text
from tests.tiny import CONFIGS, tiny_model

RAGGED = [[3, 1, 4, 1, 5], [9, 2]]


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


@pytest.mark.parametrize("logits_at_once", [1, 150, 2**24])
def test_scores_are_those_of_the_logits(model, monkeypatch, logits_at_once):
    monkeypatch.setattr(probe.methods.surprise, "LOGITS_AT_ONCE", logits_at_once)
    scores = score_text(model, RAGGED, top=3)
    for prompt, ids in enumerate(RAGGED):
        log_probs = probe.record(model, ids, sites=[]).logits[0].log_softmax(-1)
        for position in range(len(ids)):
            expected = log_probs[position]
            assert scores.top_tokens[prompt, position].tolist() == expected.topk(3).indices.tolist()
            assert scores.top_probabilities[prompt, position].tolist() == pytest.approx(
                expected.topk(3).values.exp().tolist(), abs=1e-5
            )
            assert float(scores.entropy[prompt, position]) == pytest.approx(
                float(-(expected.exp() * expected).sum()), abs=1e-4
            )
            if position + 1 < len(ids):
                actual = ids[position + 1]
                assert float(scores.surprise[prompt, position]) == pytest.approx(-float(expected[actual]), abs=1e-4)
                assert int(scores.rank[prompt, position]) == int((expected > expected[actual]).sum()) + 1


def test_nothing_follows_the_last_token_nor_stands_in_the_padding(model):
    scores = score_text(model, RAGGED)
    assert scores.surprise.isnan().tolist() == [[False] * 4 + [True], [False] + [True] * 4]
    assert (scores.rank == -1).tolist() == scores.surprise.isnan().tolist()
    assert scores.entropy.isnan().tolist() == [[False] * 5, [False] * 2 + [True] * 3]


def test_the_mean_is_the_loss_and_perplexity_its_exponential(model):
    scores = score_text(model, [RAGGED[0]])
    assert float(scores.mean_surprise) == pytest.approx(
        float(probe.loss(model, [RAGGED[0]]).detach().nanmean()), abs=1e-5
    )
    assert float(scores.perplexity) == pytest.approx(math.exp(float(scores.mean_surprise)), rel=1e-5)


def test_the_table_has_a_row_for_every_position(model):
    table = score_text(model, RAGGED).to_dataframe()
    assert len(table) == 7
    assert table["next_token"].tolist()[:4] == ["a", "d", "a", "e"] and table["next_token"].isna().tolist()[4]
    assert table["after_token"].tolist()[:5] == ["c", "a", "d", "a", "e"]


def test_one_token_alone_is_refused(model):
    with pytest.raises(BadPrompt, match="a prompt of one token has no next token to score"):
        score_text(model, [[3]])
    assert score_text(model, "c", document_start=True).surprise.shape == (1, 2)


def test_a_top_that_is_no_number_of_tokens_is_refused(model):
    with pytest.raises(OutOfRange, match="top=51: expected 1 to 50"):
        score_text(model, RAGGED, top=51)


def test_without_a_tokenizer_bits_per_byte_are_unknown(model):
    model.tokenizer = None
    scores = score_text(model, RAGGED)
    assert scores.bits_per_byte.isnan().all() and scores.str_tokens[1] == ["[9]", "[2]"]


@pytest.mark.model
def test_bits_per_byte_of_the_default_model_count_the_bytes_of_the_text(default_model):
    text = "Bäume grow in the forest."
    scores = score_text(default_model, text, document_start=True)
    assert scores.n_bytes == (len(text.encode()),)
    total = float(scores.surprise.nansum()) / math.log(2)
    assert float(scores.bits_per_byte) == pytest.approx(total / len(text.encode()), rel=1e-5)
    assert 0.5 < float(scores.bits_per_byte) < 4


def test_a_changed_model_is_scored_as_it_is_changed(model):
    change = probe.zero("z", layer=0, heads=0)
    scores = score_text(model, [3, 1, 4, 1, 5], interventions=change)
    log_probs = probe.record(model, [3, 1, 4, 1, 5], sites=[], interventions=change).logits[0].log_softmax(-1)
    expected = [-float(log_probs[place, token]) for place, token in enumerate([1, 4, 1, 5])]
    assert scores.surprise[0, :4].tolist() == pytest.approx(expected, abs=1e-4)
    assert scores.surprise[0, :4].tolist() != score_text(model, [3, 1, 4, 1, 5]).surprise[0, :4].tolist()
    with pytest.raises(BadIntervention, match="final norm"):
        score_text(model, [3, 1, 4], interventions=probe.scale("ln_final.scale", 2.0))
