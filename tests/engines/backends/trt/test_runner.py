"""The TensorRT runner against a CUDA runtime and an engine that compute on the CPU; see ``fakes.py``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest

from repq_deploy.engines.backends.trt.runner import TrtSession
from repq_deploy.engines.batching import BatchedRunner, Profile
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed, RepqError
from repq_deploy.inputs import ImageInput
from tests.engines.fakes import FakeCuda, fake_tensorrt
from tests.engines.graphs import CLASSES, SIDE, oracle, tiny

MODEL = tiny()
ENGINE = MODEL.SerializeToString()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(7, 3, SIDE, SIDE)).astype(np.float32)


def use(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeCuda:
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return cuda


def test_logits_and_memory(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    cuda = use(monkeypatch, FakeCuda())
    session = TrtSession(fake_tensorrt(largest=4), ENGINE, backend="tensorrt")
    runner = BatchedRunner(session, Profile(1, 2, 4), ImageInput((SIDE, SIDE)))
    np.testing.assert_allclose(runner(images), oracle(MODEL, images), atol=1e-3)
    np.testing.assert_allclose(runner(images[:1]), oracle(MODEL, images[:1]), atol=1e-3)
    assert not cuda.live


def test_several_outputs_come_joined_in_the_order_asked_for(
    monkeypatch: pytest.MonkeyPatch, images: np.ndarray
) -> None:
    model = tiny()
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["logits", "axis"], ["features"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("features", 1, ["batch", 1, CLASSES]))
    cuda = use(monkeypatch, FakeCuda())
    trt = fake_tensorrt(tensors=("images", "logits", "features"))
    runner = TrtSession(trt, model.SerializeToString(), backend="tensorrt", outputs=("features", "logits"))
    found, expected = runner(images[:3]), oracle(MODEL, images[:3])
    np.testing.assert_allclose(found, np.concatenate([expected, expected], axis=1), atol=1e-3)
    assert not cuda.live
    with pytest.raises(BadInput, match="has the tensors features, images, logits, expected images and logits"):
        TrtSession(trt, model.SerializeToString(), backend="tensorrt")


def test_a_batch_outside_the_profile_is_refused(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    use(monkeypatch, FakeCuda())
    with pytest.raises(BadInput, match="outside the engine's profile"):
        TrtSession(fake_tensorrt(largest=4), ENGINE, backend="tensorrt")(images)


def test_no_memory_left_is_one_line_and_leaks_nothing(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    cuda = use(monkeypatch, FakeCuda(memory=images[:4].nbytes - 1))
    with pytest.raises(BuildFailed, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        TrtSession(fake_tensorrt(), ENGINE, backend="tensorrt")(images[:4])
    assert not cuda.live


@pytest.mark.parametrize(
    ("cuda", "trt", "error", "words"),
    [
        (FakeCuda(devices=0), fake_tensorrt(), BackendMissing, r"no usable GPU here \(cudaErrorInsufficientDriver\)"),
        (FakeCuda(), fake_tensorrt(loads=False), BackendMissing, "cannot load the engine: the engine is for another"),
        (FakeCuda(), fake_tensorrt(tensors=("x", "logits")), BadInput, "has the tensors logits, x"),
    ],
)
def test_an_engine_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, trt: SimpleNamespace, error: type[RepqError], words: str
) -> None:
    use(monkeypatch, cuda)
    with pytest.raises(error, match=words):
        TrtSession(trt, ENGINE, backend="tensorrt")


def test_without_cuda_bindings_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendMissing, match="pip install cuda-bindings"):
        TrtSession(fake_tensorrt(), ENGINE, backend="tensorrt")
