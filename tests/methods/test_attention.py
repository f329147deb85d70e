"""Where heads look: planted patterns are found, sinks are left out, what was not recorded is said."""

import pytest
import torch

from probe.config import GPTConfig
from probe.errors import BadPrompt, DifferentModel, OutOfRange, SiteNotRecorded
from probe.gpt import GPT
from probe.interventions import replace, zero
from probe.methods.attention import (
    find_focus,
    read_look,
    read_pair,
    read_pattern,
    similar_heads,
    value_weighted_pattern,
)
from probe.recording import record
from tests.tiny import CONFIGS, LLAMA, tiny_model

RAGGED = [[1, 2, 3, 4, 5], [6, 7, 8]]


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def planted(model, prompts=RAGGED):
    """Layer 1, head 2 looks with 0.7 at position 1 and with 0.3 at the first token."""
    weights = torch.tensor([0.3, 0.7, 0.0, 0.0, 0.0])[: max(map(len, prompts))]
    return record(model, prompts, interventions=replace("pattern", weights, layer=1, heads=2, positions=-1))


def test_a_planted_look_is_found(model):
    focus = find_focus(planted(model))
    assert focus.weight[1, 2].tolist() == pytest.approx([0.7, 0.7])
    assert focus.looks_at[1, 2].tolist() == [1, 1]
    assert focus.share_on_first[1, 2].tolist() == pytest.approx([0.3, 0.3])
    row = focus.to_dataframe().query("layer == 1 and head == 2 and prompt == 1").iloc[0]
    assert (row.token, row.looks_at) == ("g", 1) and row.weight == pytest.approx(0.7)


def test_every_weight_is_the_largest_of_the_last_row_without_the_first_token(model):
    recording = record(model, RAGGED)
    focus = find_focus(recording)
    for layer in range(3):
        for prompt, ids in enumerate(RAGGED):
            row = recording["pattern", layer][prompt, :, len(ids) - 1, : len(ids)]
            assert torch.equal(focus.weight[layer, :, prompt], row[:, 1:].max(-1).values)
            assert torch.equal(focus.looks_at[layer, :, prompt], row[:, 1:].argmax(-1) + 1)
            assert torch.equal(focus.share_on_first[layer, :, prompt], row[:, 0])


def test_heads_are_told_by_weight_and_on_request_once_per_token(model):
    focus = find_focus(record(model, RAGGED[0]))
    weights = [float(focus.weight[layer, head, 0]) for layer, head in focus.most_telling(12)]
    assert weights == sorted(weights, reverse=True) and len(weights) == 12
    distinct = focus.most_telling(12, one_per_token=True)
    looked_at = [int(focus.looks_at[layer, head, 0]) for layer, head in distinct]
    assert len(set(looked_at)) == len(looked_at) and set(looked_at) == set(focus.looks_at.flatten().tolist())
    assert distinct[0] == focus.most_telling(1)[0]


def test_the_last_row_alone_is_enough_and_named_heads_keep_their_numbers(model):
    whole = find_focus(record(model, RAGGED))
    part = find_focus(record(model, RAGGED, sites=["pattern"], layers=[1, 2], heads=[3, -3], positions=-1))
    assert part.layers == (1, 2) and part.heads == (3, 1)
    torch.testing.assert_close(part.weight, whole.weight[1:][:, [3, 1]])


def test_a_pattern_is_cut_to_its_prompt(model):
    recording = planted(model)
    pattern = read_pattern(recording, -2, 2, prompt=1)
    assert (pattern.layer, pattern.head, pattern.str_tokens) == (1, 2, ["f", "g", "h"])
    assert torch.equal(pattern.pattern, recording["pattern", 1][1, 2, :3, :3])
    table = pattern.to_dataframe()
    assert len(table) == 6 and table.query("query_pos == 2 and key_pos == 1").weight.iloc[0] == pytest.approx(0.7)


def test_a_look_holds_matches_weights_and_lengths_of_values(model):
    recording = record(model, RAGGED)
    look = read_look(recording, 1, 1, position=2)
    torch.testing.assert_close(look.scores.softmax(-1), look.weights)
    own_value = 0 if model.config.kv_heads == 2 else 1  # heads 0 and 1 share one where there are two
    assert torch.equal(look.value_lengths, recording["v", 1][0, :3, own_value].norm(dim=-1))
    assert look.to_dataframe().token.tolist() == ["a", "b", "c"] and look.query_pos == 2


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m: find_focus(record(m, RAGGED, sites=["z"])), SiteNotRecorded, "record it with sites=.'pattern'."),
        (lambda m: find_focus(record(m, RAGGED, positions=0)), SiteNotRecorded, "not kept at the last token"),
        (lambda m: find_focus(record(m, [[1, 2], [3]])), BadPrompt, "no other token to look at"),
        (lambda m: find_focus(record(m, RAGGED, reduce={"pattern": "mean"}, sites=[])), SiteNotRecorded, "reduced"),
        (lambda m: read_pattern(record(m, RAGGED, positions=-1), 0, 0), SiteNotRecorded, "positions=None"),
        (lambda m: read_pattern(record(m, RAGGED, sites=["pattern"], heads=1), 0, 2), SiteNotRecorded, r"heads=\[2\]"),
        (lambda m: read_pattern(record(m, RAGGED), 3, 0), OutOfRange, "layers 0 to 2"),
        (lambda m: read_pattern(record(m, RAGGED), 0, 4), OutOfRange, "heads 0 to 3"),
        (lambda m: read_pattern(record(m, RAGGED), 0, 0, prompt=2), OutOfRange, "prompts 0 to 1"),
        (lambda m: read_look(record(m, RAGGED, sites=["pattern"]), 0, 0), SiteNotRecorded, "attn_scores"),
        (lambda m: read_look(record(m, RAGGED), 0, 0, position=5), OutOfRange, "positions 0 to 4"),
    ],
)
def test_what_cannot_be_read_says_what_to_record(model, call, error, said):
    with pytest.raises(error, match=said):
        call(model)


def test_value_weighting_multiplies_by_what_would_be_written(model):
    recording = record(model, RAGGED)
    for layer, head, prompt in ((0, 3, 0), (2, 1, 1)):
        found = value_weighted_pattern(model, recording, layer, head, prompt=prompt)
        n = len(RAGGED[prompt])
        v = recording["v", layer][prompt, :n, head // model.config.heads_per_group]
        length = (v @ model.W_O[layer, head]).norm(dim=-1)
        expected = recording["pattern", layer][prompt, head, :n, :n] * length
        torch.testing.assert_close(found.pattern, expected / expected.sum(-1, keepdim=True), atol=1e-6, rtol=0)
        assert found.value_weighted and not read_pattern(recording, layer, head).value_weighted


def test_a_value_of_zero_is_no_weight(model):
    """A head that rests on a token without value moves nothing from there."""
    recording = record(model, [RAGGED[0]], interventions=zero("v", layer=1, positions=0))
    found = value_weighted_pattern(model, recording, 1, 2)
    assert found.pattern[1:, 0].tolist() == [0.0] * 4
    assert found.pattern[1:].sum(-1).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(("query", "key"), [(3, 1), (4, 4), (1, 3), (-1, 0)])
def test_a_pair_is_its_terms_score_mask_and_weight(model, query, key):
    recording = record(model, [RAGGED[0]])
    pair = read_pair(recording, 2, 3, query, key)
    assert float(pair.terms.sum()) == pytest.approx(pair.score, abs=1e-4)
    assert pair.score == pytest.approx(float(recording["attn_scores", 2][0, 3, query, key]), abs=1e-6)
    assert pair.weight == float(recording["pattern", 2][0, 3, query, key])
    assert pair.masked == (key > query % 5) and (pair.weight == 0.0) == pair.masked
    assert pair.str_tokens == ("abcde"[query], "abcde"[key])
    assert pair.to_dataframe()["term"].sum() == pytest.approx(pair.score, abs=1e-4)


def test_a_key_outside_the_window_is_masked():
    model = GPT(GPTConfig(**LLAMA.to_dict() | {"windows": (2, None, 3)}))
    recording = record(model, [RAGGED[0]])
    assert [read_pair(recording, 0, 0, 4, key).masked for key in range(5)] == [True, True, True, False, False]
    assert [read_pair(recording, 0, 0, 4, key).weight == 0 for key in range(5)] == [True, True, True, False, False]


def test_similar_heads_are_those_with_the_same_pattern_beside_the_sink(model):
    """Two heads with the same weights elsewhere and another share on position 0 are the same."""
    with_sink = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.8, 0.15, 0.05, 0], [0.9, 0.05, 0.03, 0.02]])
    without = with_sink.clone()
    without[2:, 1:] *= 2.0
    without[2:, 0] = 1.0 - without[2:, 1:].sum(-1)
    edits = [replace("pattern", with_sink, layer=0, heads=1), replace("pattern", without, layer=2, heads=3)]
    recording = record(model, [[1, 2, 3, 4]], interventions=edits)
    found = similar_heads(recording, 0, 1)
    assert found.top(1)[0][:2] == (2, 3) and found.top(1)[0][2] == pytest.approx(1.0, abs=1e-6)
    assert float(found.cosine[0, 1]) == pytest.approx(1.0, abs=1e-6)
    assert all(one[:2] != (0, 1) for one in found.top(12))
    assert 0.0 <= float(found.cosine.min()) < 0.99


def test_similarity_is_that_of_a_loop(model):
    recording = record(model, RAGGED)
    found = similar_heads(recording, 1, 2, prompt=1)
    rows = {}
    for layer in range(3):
        for head in range(4):
            pattern = recording["pattern", layer][1, head, :3, :3]
            rows[layer, head] = [float(pattern[2, key] / pattern[2, 1:].sum()) for key in (1, 2)]
    for (layer, head), row in rows.items():
        expected = torch.cosine_similarity(torch.tensor(row), torch.tensor(rows[1, 2]), dim=0)
        assert float(found.cosine[layer, head]) == pytest.approx(float(expected), abs=1e-5)


def test_what_these_need_is_said(model):
    some = record(model, [RAGGED[0]], sites=["pattern"], heads=[1])
    with pytest.raises(SiteNotRecorded, match="record with heads=None"):
        similar_heads(some, 0, 1)
    patterns = record(model, [RAGGED[0]], sites=["pattern"])
    with pytest.raises(SiteNotRecorded, match=r"sites=\['(rot_)?q'\]"):
        read_pair(patterns, 0, 1, 2, 1)
    with pytest.raises(SiteNotRecorded, match=r"sites=\['v'\]"):
        value_weighted_pattern(model, patterns, 0, 1)
    with pytest.raises(OutOfRange, match="position 5"):
        read_pair(record(model, [RAGGED[0]]), 0, 1, 5, 1)
    with pytest.raises(BadPrompt, match="fewer than three tokens"):
        similar_heads(record(model, [[1, 2]]), 0, 1)
    with pytest.raises(DifferentModel):
        value_weighted_pattern(tiny_model("llama", seed=5), record(model, [RAGGED[0]]), 0, 1)
