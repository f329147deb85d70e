"""Rows, positions and heads mean the same entries on every kind of site."""

import pytest
import torch

from probe.errors import OutOfRange, ProbeError, UnknownName
from probe.selection import Selection, as_list, check_heads, select
from tests.tiny import GPT2, LLAMA

DIMS = {
    "resid": ("batch", "pos", "d_model"),
    "heads": ("batch", "pos", "head", "d_head"),
    "pairs": ("batch", "head", "query_pos", "key_pos"),
}
SHAPES = {"resid": (3, 5, 7), "heads": (3, 5, 4, 6), "pairs": (3, 4, 5, 5)}


def brute_force(kind: str, value: torch.Tensor, rows, positions, heads) -> torch.Tensor:
    """The same entries, picked one by one."""
    picked = []
    for row, places in zip(rows, positions, strict=True):
        if kind == "resid":
            picked.append(torch.stack([value[row, place] for place in places]))
        elif kind == "heads":
            picked.append(torch.stack([torch.stack([value[row, p, h] for h in heads]) for p in places]))
        else:
            picked.append(torch.stack([torch.stack([value[row, h, p] for p in places]) for h in heads]))
    return torch.stack(picked)


@pytest.mark.parametrize("kind", DIMS)
@pytest.mark.parametrize("rows", [None, [2, 0]])
@pytest.mark.parametrize("positions", [None, [-1, 1], 0])
@pytest.mark.parametrize("heads", [None, (3, 1)])
def test_taking_and_putting_agree_with_picking_one_by_one(kind, rows, positions, heads):
    value = torch.arange(float(torch.tensor(SHAPES[kind]).prod())).view(SHAPES[kind])
    lengths = (5, 3, 4)
    heads = None if kind == "resid" else heads
    selection = select(lengths, rows=rows, positions=positions, heads=heads)
    taken = selection.take(DIMS[kind], value)
    expected = brute_force(kind, value, selection.chosen_rows, selection.chosen_positions, heads or range(4))
    assert torch.equal(taken, expected)
    assert tuple(taken.shape) == selection.shape(DIMS[kind], SHAPES[kind])
    before = value.clone()
    put = selection.put(DIMS[kind], value, -taken)
    assert torch.equal(value, before), "the value itself is left alone"
    assert torch.equal(selection.take(DIMS[kind], put), -taken)
    touched = (put != value).sum()
    assert touched == (taken != 0).sum(), "nothing else changed"


def test_negative_positions_count_from_each_prompts_own_end():
    assert select((5, 3), positions=[-1, -3]).chosen_positions == ((4, 2), (2, 0))


def test_padding_is_told_from_real_entries():
    selection = Selection((3, 1))
    assert selection.real(DIMS["resid"], torch.device("cpu")).squeeze(-1).tolist() == [[True] * 3, [True, False, False]]
    pairs = selection.real(DIMS["pairs"], torch.device("cpu"))
    assert pairs[0].all() and pairs[1, 0].tolist() == [[True, False, False], [False] * 3, [False] * 3]
    assert Selection((3, 3)).real(DIMS["resid"], torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rows": 3}, "row 3: this call of 2 prompts has rows 0 to 1"),
        ({"positions": [0, 3]}, "position 3: prompt 1 has positions 0 to 2"),
        ({"positions": -4}, "position -4: prompt 1 has positions 0 to 2"),
        ({"positions": True}, "positions True: expected an integer or several"),
        ({"positions": "all"}, "positions 'all': expected an integer or several"),
        ({"positions": [1.0]}, "1.0 is not an integer"),
        ({"rows": [False]}, "False is not an integer"),
    ],
)
def test_what_does_not_exist_is_named(choice, message, as_users_run_it):
    with pytest.raises(OutOfRange, match=message):
        select((5, 3), **choice)


def test_choosing_nothing_is_an_error():
    with pytest.raises(ProbeError, match="chooses nothing; leave rows out to mean all"):
        select((5, 3), rows=[])


def test_heads_are_those_of_the_site():
    assert check_heads(LLAMA, "z", [3, -4]) == (3, 0)
    assert check_heads(LLAMA, "k", [-1]) == (1,)
    assert check_heads(GPT2, "k", 3) == (3,)
    with pytest.raises(OutOfRange, match="query head 2 reads key/value head 1"):
        check_heads(LLAMA, "rot_k", 2)
    with pytest.raises(OutOfRange, match="heads 0 to 3"):
        check_heads(LLAMA, "pattern", 4)
    with pytest.raises(UnknownName, match="no heads to choose"):
        check_heads(LLAMA, "mlp_out", 0)


def test_tensors_and_arrays_are_lists_of_indices_too():
    assert as_list("heads", torch.tensor([1, 2])) == [1, 2]
    assert as_list("heads", torch.tensor(3)) == [3]
    assert as_list("heads", range(2)) == [0, 1]
