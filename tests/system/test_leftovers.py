"""Temporary files and folders: what fails there is not the output's fault, and what others work on stays."""

import errno
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.system import leftovers
from repq_deploy.system.files import check_writable, write_atomically
from repq_deploy.system.leftovers import check_room, sweep, temporary_file, temporary_folder, writing_temporarily


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_stays_after_the_block(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_folder() as folder, temporary_file(tmp_path) as file:
        (folder / "x").write_text("x")
        assert file.exists()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def open_files() -> set[str]:
    return {os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="of Linux")
@pytest.mark.parametrize("locks", [True, False])
def test_a_file_is_kept_open_only_where_it_is_locked(tmp_path, monkeypatch, locks):
    """Windows, which has no such locks, neither replaces nor removes a file that is open."""
    if not locks:
        monkeypatch.setattr(leftovers, "fcntl", None)
    with temporary_file(tmp_path) as file, temporary_folder() as folder:
        assert (str(file) in open_files()) is locks
        assert (str(folder) in open_files()) is locks
    assert not {str(file), str(folder)} & open_files()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_files_are_written_and_nothing_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "fcntl", None)
    left = tmp_path / f".repq-{2**22 + 1}-abc.part"
    left.touch()
    check_writable(tmp_path / "m.onnx")
    write_atomically(tmp_path / "m.onnx", b"old")
    write_atomically(tmp_path / "m.onnx", b"new")
    with pytest.raises(ZeroDivisionError), temporary_folder() as folder:
        (folder / "x").touch()
        raise ZeroDivisionError
    sweep(tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "m.onnx"]


def test_a_folder_that_denies_writing_is_refused_at_the_first_try(tmp_path, monkeypatch):
    """mkstemp, on Windows, would try all the names there are."""
    tries = []

    def denied(path: Path, flags: int, mode: int) -> int:
        tries.append(path)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(BadInput, match=r"cannot write into .*: Permission denied"):
        check_writable(tmp_path / "m.onnx")
    assert len(tries) == 1


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    expected = f"temporary folder {tmp_path}: No space left on device; nothing was written, set TMPDIR"
    with pytest.raises(BadInput, match=expected), writing_temporarily():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=99))
    check_room(tmp_path, 99)
    with pytest.raises(BadInput, match=expected):
        check_room(tmp_path, 100)


@pytest.mark.skipif(leftovers.fcntl is None, reason="nothing is swept without locks")
def test_only_what_nobody_works_on_is_swept(tmp_path):
    gone = 2**22 + 1  # beyond what Linux numbers processes with
    for name in (f".repq-{gone}-abc.part", f"repq-{os.getpid()}-abc", ".repq-x-abc.part", f"repq-{gone}", "repq.txt"):
        (tmp_path / name).touch()
    (tmp_path / f"repq-{gone}-folder").mkdir()
    (tmp_path / f"repq-{gone}-folder" / "model.onnx").touch()
    (tmp_path / f"repq-{gone}-link").symlink_to(tmp_path / "repq.txt")
    with temporary_folder() as mine:  # of another container: locked, and its number means nothing here
        locked = mine.rename(tmp_path / f"repq-{gone}-locked")
        sweep(tmp_path)
        assert locked.exists()
        left = {path.name for path in tmp_path.iterdir()} - {locked.name}
    assert left == {f"repq-{os.getpid()}-abc", ".repq-x-abc.part", f"repq-{gone}", "repq.txt", f"repq-{gone}-link"}
