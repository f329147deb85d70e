"""What is written appears whole or not at all; what killed processes left goes away; only one may hold a lock."""

import os
import stat
import threading

import filelock
import pytest
import torch

from probe.errors import NotSaved
from probe.store import only_process, save_result
from probe.whole_files import check_writable, is_left_over, lock_beside, new_file, new_folder

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def test_a_file_takes_the_place_of_the_old_one_at_the_end_and_an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with new_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part.suffix == ".part"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_two_that_write_one_file_at_once_do_not_meet(tmp_path):
    with new_file(tmp_path / "a") as first, new_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # moved last
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_not_moved_to_its_place_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a") as part:
        (part / "half").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "a") as part:
        os.replace(part, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert os.name != "posix" or stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755  # others may read it


def test_what_a_killed_process_left_beside_goes_with_the_next_save_and_nothing_else_does(tmp_path):
    old, new, other, mine = (tmp_path / name for name in (".saving-a-1", ".saving-a-2", ".saving-b-1", ".a-notes"))
    for folder in (old, new, other, mine):
        folder.mkdir()
        (folder / "half").write_text("half")
    for folder in (old, other, mine):
        os.utime(folder, (0, 0))
    assert is_left_over(old) and not is_left_over(new)
    save_result(tmp_path / "a", {"x": torch.ones(2)}, {})
    assert not old.exists() and new.exists() and other.exists() and mine.exists()


def test_a_place_beside_which_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (check_writable, only_process, lambda folder: new_folder(folder / "a").__enter__()):
        with pytest.raises(NotSaved, match="cannot write into .*file"):
            write(tmp_path / "file" / "folder")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*args, **kwargs):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with pytest.raises(NotSaved, match="cannot write into .*no flock here"):
        only_process(tmp_path / "a")


def test_of_two_the_second_waits_until_the_first_is_done(tmp_path):
    waits, order = threading.Event(), []

    def second():
        with lock_beside(tmp_path / "a", waiting=waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with lock_beside(tmp_path / "a", waiting=lambda: pytest.fail("nobody else holds it")):
        thread.start()
        assert waits.wait(timeout=30)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
