"""Temporary files and folders: what fails there is not the output's fault, and what others work on stays."""

import errno
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from repq_deploy.errors import BadInput
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


def test_a_full_temporary_folder_is_named(tmp_path, monkeypatch):
    expected = f"temporary folder {tmp_path}: No space left on device; nothing was written, set TMPDIR"
    with pytest.raises(BadInput, match=expected), writing_temporarily():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=99))
    check_room(tmp_path, 99)
    with pytest.raises(BadInput, match=expected):
        check_room(tmp_path, 100)


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
