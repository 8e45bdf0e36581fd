import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from repq_deploy.errors import BadInput
from repq_deploy.system.files import (
    atomic_output,
    check_writable,
    existing_file,
    read_arrays,
    read_kept,
    sha256_of,
    write_atomically,
)


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


def test_a_folder_that_is_gone_is_one_clear_error(tmp_path):
    with pytest.raises(BadInput, match="No such file or directory; nothing was written"):
        write_atomically(tmp_path / "gone" / "m.onnx", b"x")


def test_what_safetensors_says_of_a_full_disk_is_one_clear_error(tmp_path):
    with pytest.raises(BadInput, match="No space left; nothing was written"), atomic_output(tmp_path / "m"):
        raise SafetensorError("No space left")
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_both_kinds_of_file(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    np.savez(tmp_path / "a.npz", x=np.arange(2), y=np.ones(1))
    assert read_arrays(tmp_path / "a.npy", "images")[""].tolist() == [0, 1, 2]
    assert {name: array.tolist() for name, array in read_arrays(tmp_path / "a.npz", "images").items()} == {
        "x": [0, 1],
        "y": [1.0],
    }


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(50.0), y=np.ones((3, 4)))
    whole, refused = path.read_bytes(), 0
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_arrays(path, "reference")
        except BadInput as error:
            assert "reference" in str(error)
            refused += 1
    assert refused > 0


def test_paths_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"checkpoint .*none: no such file"):
        existing_file(tmp_path / "none", "checkpoint")
    with pytest.raises(BadInput, match="expected a file, found a folder"):
        existing_file(tmp_path, "checkpoint")
    with pytest.raises(BadInput, match="is a folder; name a file"):
        check_writable(tmp_path)
    with pytest.raises(BadInput, match="is a device or pipe"):
        check_writable(Path(os.devnull))
    with pytest.raises(BadInput, match="does not exist; create it first"):
        check_writable(tmp_path / "missing" / "m.onnx")
    for name in ("m" * 256, "m" * 5000 + "/m.onnx"):
        with pytest.raises(BadInput, match="name too long") as caught:
            check_writable(tmp_path / name)
        assert len(str(caught.value)) < 300
    check_writable(tmp_path / ("m" * 250 + ".onnx"))  # as long as a name can be
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "found"), [(b"0.5", 0.5), (b'{"a": 1}', {"a": 1}), (b"{", None), (b"\xff", None)])
def test_what_was_kept_is_read_and_what_is_damaged_is_nothing(tmp_path, content, found):
    (tmp_path / "kept.json").write_bytes(content)
    assert read_kept(tmp_path / "kept.json") == found
    assert read_kept(tmp_path / "none.json") is None
