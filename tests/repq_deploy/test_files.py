import errno
import hashlib
from pathlib import Path

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.files import atomic_output, check_writable, existing_file, sha256_of, write_atomically


def test_a_write_replaces_the_file_in_one_step(tmp_path):
    path = tmp_path / "m.onnx"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_output(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BadInput, match=r"m\.onnx: No space left on device; nothing was written"):
        write_atomically(tmp_path / "m.onnx", b"x")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"checkpoint .*none: no such file"):
        existing_file(tmp_path / "none", "checkpoint")
    with pytest.raises(BadInput, match="expected a file, found a folder"):
        existing_file(tmp_path, "checkpoint")
    with pytest.raises(BadInput, match="is a folder; name a file"):
        check_writable(tmp_path)
    with pytest.raises(BadInput, match="does not exist; create it first"):
        check_writable(tmp_path / "missing" / "m.onnx")
    check_writable(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
