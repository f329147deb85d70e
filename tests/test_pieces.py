"""Long work in pieces: what is finished stays, and belongs to one call."""

import errno
import os

import pytest
import torch

from probe import store
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
    os.utime(tmp_path / "first.part", (0, 0))  # long ago; what was written just now may be another process's
    (tmp_path / "second.part").write_bytes(b"half")
    pieces = Pieces(tmp_path, ARGUMENTS)
    assert "first" not in pieces
    pieces.put("first", {"x": torch.tensor(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "second.part", "work.json"]


def test_a_changed_piece_says_what_to_do(tmp_path):
    pieces = Pieces(tmp_path, ARGUMENTS)
    (tmp_path / "first.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(BrokenFile, match="remove it, and that piece is done again"):
        pieces.get("first")


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSaved, match="cannot write into"):
        Pieces(tmp_path / "file" / "work", ARGUMENTS)


def test_a_full_disk_is_named_once_and_the_pieces_before_are_kept(tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    pieces = Pieces(tmp_path, ARGUMENTS)
    pieces.put("first", {"x": torch.tensor(1)})
    monkeypatch.setattr(store, "save_file", full_disk)
    with pytest.raises(NotSaved) as raised:
        pieces.put("second", {"x": torch.tensor(2)})
    where, error = tmp_path / "second.safetensors", "[Errno 28] No space left on device"
    assert str(raised.value) == f"cannot write {where}: {error}; the pieces before it are kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "work.json"]


def test_any_change_of_a_piece_is_found_by_its_checksum(tmp_path):
    pieces = Pieces(tmp_path, ARGUMENTS)
    pieces.put("first", {"x": torch.arange(40.0), "y": torch.tensor([True, False])})
    path = tmp_path / "first.safetensors"
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(BrokenFile, match="first.safetensors.*remove it"):
            pieces.get("first")


@pytest.mark.parametrize("content", ["[]", '{"arguments": []}', "{}", "[" * 10**6, "{"])
def test_a_changed_list_of_arguments_is_named(content, tmp_path):
    Pieces(tmp_path, ARGUMENTS)
    (tmp_path / "work.json").write_text(content)
    with pytest.raises(BrokenFile, match="work.json"):
        Pieces(tmp_path, ARGUMENTS)


def test_of_two_calls_that_begin_at_once_in_one_folder_the_second_is_told(tmp_path, monkeypatch):
    """Both found the folder empty; the arguments of the first are not written over."""
    write = Pieces._write_arguments

    def just_after_another(self, folder):
        monkeypatch.setattr(Pieces, "_write_arguments", write)
        Pieces(tmp_path, {**ARGUMENTS, "seed": 4})
        write(self, folder)

    monkeypatch.setattr(Pieces, "_write_arguments", just_after_another)
    with pytest.raises(NotSaved, match="seed was 4 there and is 3 here"):
        Pieces(tmp_path, ARGUMENTS)


def test_two_that_write_one_piece_at_once_do_not_meet(tmp_path, monkeypatch):
    first, second = Pieces(tmp_path, ARGUMENTS), Pieces(tmp_path, ARGUMENTS)
    save_file = store.save_file

    def while_another_does(tensors, path, **options):
        monkeypatch.setattr(store, "save_file", save_file)
        save_file(tensors, path, **options)
        second.put("first", tensors)

    monkeypatch.setattr(store, "save_file", while_another_does)
    first.put("first", {"x": torch.arange(3)})
    assert first.get("first")["x"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "work.json"]
