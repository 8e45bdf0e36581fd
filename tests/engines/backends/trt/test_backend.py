"""What TensorRT's backend decides without TensorRT: targets, and builds for the GPU that is there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from repq_deploy.engines.backends import tensorrt
from repq_deploy.engines.backends.trt import backend as trt_backend
from repq_deploy.engines.backends.trt.build import build_serialized, make_logger
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.export.lowering import Lowering
from tests.engines.fakes import fake_tensorrt


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_tensorrt()
    module.__spec__ = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorrt", module)


@pytest.mark.usefixtures("installed")
def test_tensorrt_builds_for_the_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_backend, "gpu_target", lambda: "sm90")
    assert tensorrt.BACKEND.version() == "11.0.0"
    assert tensorrt.BACKEND.target([], Lowering()) == tensorrt.BACKEND.target(["sm90"], Lowering()) == "sm90"
    with pytest.raises(BadInput, match="builds for the GPU here only: sm90"):
        tensorrt.BACKEND.target(["sm89"], Lowering())


@pytest.mark.usefixtures("installed")
def test_tensorrt_needs_a_gpu_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_backend, "gpu_target", lambda: None)
    with pytest.raises(BackendMissing, match="there is none here"):
        tensorrt.BACKEND.target([], Lowering())


def test_the_logger_keeps_errors_as_lines() -> None:
    trt = fake_tensorrt()
    logger = make_logger(trt)
    logger.log(trt.ILogger.ERROR, "two\n  lines")
    logger.log(3, "information")
    assert logger.errors == ["two lines"]


def test_progress_is_one_rising_fraction() -> None:
    from repq_deploy.engines.batching import Profile
    from tests.engines.graphs import tiny

    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    seen: list[float] = []
    engine = build_serialized(
        trt,
        tiny().SerializeToString(),
        profile=Profile(1, 1, 2),
        targets=("sm89",),
        progress=lambda fraction, phase: seen.append(fraction),
    )
    assert len(engine) > 10_000
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert seen[-1] > 0.8
    with pytest.raises(BuildFailed):
        build_serialized(trt, b"no model", profile=Profile(), targets=(), progress=lambda fraction, phase: None)
