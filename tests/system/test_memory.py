"""Sizes are known before anything of that size is allocated, and what a process takes is known afterwards."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.errors import BadInput
from repq_deploy.system import memory
from repq_deploy.system.files import read_arrays


def test_what_does_not_fit_is_refused(monkeypatch):
    free = memory.free_memory()
    assert (free is not None) is (sys.platform == "linux")
    assert free is None or 10**6 < free < 10**15
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


def test_memory_of_this_process_grows_with_what_it_holds():
    # In a process of its own: pages that earlier tests have freed would be taken for the array, and none added.
    script = (
        "import numpy as np; from repq_deploy.system import memory; before = memory.process_memory(); "
        "held = np.ones(2**24); print(*before, *memory.process_memory())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    present, most, after, most_after = map(int, done.stdout.split())
    assert 10**6 < present <= most
    assert most_after >= after
    assert most_after > 2**27  # 134 MB
    assert sys.platform == "darwin" or after - present > 2**26


def test_memory_of_this_process_on_other_systems(kernel32, monkeypatch):
    assert memory.process_memory() == (3_000_000, 8_000_000)
    monkeypatch.setattr(sys, "platform", "darwin")
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda _: resource.struct_rusage((0.0, 0.0, 5_000_000, *[0] * 13)))
    assert memory.process_memory() == (5_000_000, 5_000_000)


def test_a_system_without_proc_tells_no_memory(monkeypatch):
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(sys, "platform", "freebsd15")
    assert memory.process_memory() is None
    assert memory.free_memory() is None


def test_another_c_library_frees_as_it_does(monkeypatch):
    def missing(name: str) -> None:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    memory.keep_freed_memory()


COUNT_FAULTS = """
import resource
import torch
from repq_deploy.system.memory import keep_freed_memory
{call}
for rounds in (20, 5):  # glibc keeps the first few trimmings of aligned blocks, so it settles only after some
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS.format(call=call)], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_a_tensor_takes_the_memory_of_the_one_before() -> None:
    pages = 5 * 4 * 2**24 / 4096
    assert faults("") == pytest.approx(pages, rel=0.1)
    assert faults("keep_freed_memory()") < pages / 50
