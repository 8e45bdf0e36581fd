"""Which backend is taken for which machine."""

from __future__ import annotations

import ctypes

import pytest

from repq_deploy.engines.backends import registry as select
from repq_deploy.engines.backends.trt import gpu
from repq_deploy.engines.backends.trt.backend import TrtBackend
from repq_deploy.errors import BadInput


@pytest.mark.parametrize(
    ("gpu_here", "installed", "expected"),
    [
        ("sm89", {"tensorrt", "tensorrt-rtx"}, "tensorrt"),
        (None, {"tensorrt", "tensorrt-rtx"}, "onnxruntime"),
        ("sm89", {"tensorrt-rtx"}, "tensorrt-rtx"),
        ("sm90", {"tensorrt-rtx"}, "onnxruntime"),  # no target of TensorRT-RTX
        ("sm75", {"tensorrt-rtx"}, "onnxruntime"),  # none of its default ones
        (None, {"tensorrt"}, "onnxruntime"),
        ("sm89", set(), "onnxruntime"),
    ],
)
def test_choice(monkeypatch: pytest.MonkeyPatch, gpu_here: str | None, installed: set[str], expected: str) -> None:
    monkeypatch.setattr(select, "gpu_target", lambda: gpu_here)
    monkeypatch.setattr(TrtBackend, "is_installed", lambda self: self.name in installed)
    backend, reason = select.choose_backend()
    assert backend.name == expected
    assert reason


def test_an_unknown_backend_is_named_with_the_known() -> None:
    with pytest.raises(BadInput, match="'tpu': expected one of onnxruntime, openvino, tensorrt-rtx, tensorrt"):
        select.backend_named("tpu")


class FakeDriver:
    """libcuda with one GPU of compute capability 8.9."""

    @staticmethod
    def _set(pointer: object, value: int) -> int:
        pointer._obj.value = value  # type: ignore[attr-defined]
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return flags

    def cuDeviceGet(self, pointer: object, index: int) -> int:  # noqa: N802
        return self._set(pointer, index)

    def cuDeviceGetAttribute(self, pointer: object, attribute: int, device: object) -> int:  # noqa: N802
        return self._set(pointer, {75: 8, 76: 9}[attribute])


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    assert gpu.gpu_target() == "sm89"


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu.gpu_target() is None
