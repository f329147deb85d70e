"""Long work in pieces: what is finished stays, and belongs to one call."""

import pytest
import torch

from probe.errors import BrokenFile, NotSaved
from probe.pieces import Pieces

ARGUMENTS = {"model": "tiny", "seed": 3}


@pytest.fixture(params=["folder", "memory"])
def pieces(request, tmp_path):
    return Pieces(tmp_path / "work" if request.param == "folder" else None, ARGUMENTS)


def test_a_piece_comes_back_as_it_was(pieces):
    assert "first" not in pieces
    pieces.put("first", {"x": torch.arange(3), "y": torch.ones(2, 2)[:, :1]})
    assert "first" in pieces and "second" not in pieces
    assert pieces.get("first")["x"].tolist() == [0, 1, 2]
    assert pieces.get("first")["y"].tolist() == [[1.0], [1.0]]


def test_the_same_call_again_finds_its_pieces(tmp_path):
    Pieces(tmp_path, ARGUMENTS).put("first", {"x": torch.tensor(7)})
    assert Pieces(tmp_path, dict(reversed(ARGUMENTS.items()))).get("first")["x"] == 7


def test_another_call_is_told_what_differs(tmp_path):
    Pieces(tmp_path, ARGUMENTS)
    with pytest.raises(NotSaved, match="another call: seed was 3 there and is 4 here"):
        Pieces(tmp_path, {**ARGUMENTS, "seed": 4})


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NotSaved, match="holds other things .notes.txt."):
        Pieces(tmp_path, ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_call_left_half_written_is_no_obstacle(tmp_path):
    (tmp_path / "first.part").write_bytes(b"half")
    pieces = Pieces(tmp_path, ARGUMENTS)
    assert "first" not in pieces
    pieces.put("first", {"x": torch.tensor(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "work.json"]


def test_a_changed_piece_says_what_to_do(tmp_path):
    pieces = Pieces(tmp_path, ARGUMENTS)
    (tmp_path / "first.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(BrokenFile, match="remove it, and that piece is done again"):
        pieces.get("first")


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSaved, match="cannot write into"):
        Pieces(tmp_path / "file" / "work", ARGUMENTS)
