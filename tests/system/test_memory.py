"""Sizes are known before anything of that size is allocated."""

import zipfile

import numpy as np
import pytest

from repq_deploy.errors import BadInput
from repq_deploy.system import memory
from repq_deploy.system.files import read_arrays


def test_what_does_not_fit_is_refused(monkeypatch):
    free = memory.free_memory()
    assert free is not None
    assert 10**6 < free < 10**15
    memory.check_memory(1000, "images x.npz", "use fewer")
    monkeypatch.setattr(memory, "free_memory", lambda: 1_200_000_000)
    with pytest.raises(BadInput, match=r"images x\.npz: takes 4\.0 GB, 1\.2 GB are free; use fewer"):
        memory.check_memory(4 * 10**9, "images x.npz", "use fewer")
    monkeypatch.setattr(memory, "free_memory", lambda: None)  # a system that tells nothing
    memory.check_memory(10**18, "images x.npz", "use fewer")


def test_arrays_are_refused_by_what_they_unpack_to(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as stream:
        np.save(stream, np.zeros((3 * 10**5, 32, 32), np.uint8))
    with pytest.raises(BadInput, match=r"x\.npz: 0 MB unpack to 307 MB, which no images do"):
        read_arrays(path, "images")
    np.savez(path, images=np.zeros((1000, 32, 32), np.uint8))
    assert read_arrays(path, "images")["images"].shape == (1000, 32, 32)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**6)
    with pytest.raises(BadInput, match=r"x\.npz: takes 0\.0 GB, 0\.0 GB are free; use fewer images"):
        read_arrays(path, "images")
