"""Where heads look: planted patterns are found, sinks are left out, what was not recorded is said."""

import pytest
import torch

from probe.errors import BadPrompt, OutOfRange, SiteNotRecorded
from probe.interventions import replace
from probe.methods.attention import find_focus, read_look, read_pattern
from probe.recording import record
from tests.tiny import CONFIGS, tiny_model

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
