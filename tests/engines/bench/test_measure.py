"""Measuring models side by side: real processes on tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from repq_deploy.engines.backends.onnxruntime import BACKEND
from repq_deploy.engines.bench.measure import BenchPlan, measure
from repq_deploy.engines.bench.worker import timed
from repq_deploy.engines.build import build_planned, make_reference, plan_build
from repq_deploy.errors import BadInput, BuildFailed
from tests.engines.graphs import write_tiny


def plan(*subjects: tuple[str, Path], batches: tuple[int, ...] = (1, 2)) -> BenchPlan:
    return BenchPlan(subjects, batches=batches, cpus=(0,), rounds=2, seconds=0.0, warmup=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """A canonical file and its engine."""
    folder = tmp_path_factory.mktemp("bench")
    source = write_tiny(folder)
    made = plan_build(source, BACKEND, stem=folder / "tiny")
    return source.path, build_planned(made, make_reference(source, data=None, seed=0)).engine


def test_an_engine_and_an_onnx_file_side_by_side(built):
    onnx_file, engine = built
    results = measure(plan(("onnx", onnx_file), ("engine", engine)))
    assert [(one.label, one.batch) for one in results] == [("onnx", 1), ("engine", 1), ("onnx", 2), ("engine", 2)]
    for one in results:
        assert one.runs >= 10  # at least five a round
        assert 0 < one.median_ms <= one.p90_ms <= one.p99_ms
        assert one.memory_mb > 0
        first = next(other for other in results if other.batch == one.batch)
        assert one.speedup == pytest.approx(first.median_ms / one.median_ms)
    assert results[1].size_mb == engine.stat().st_size / 1e6


def fixed_batch(path: Path, side: int = 8) -> Path:
    shape = [3, 3, side, side]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_file_of_one_batch_size(tmp_path):
    path = fixed_batch(tmp_path / "fixed.onnx")
    (result,) = measure(plan(("fixed", path), batches=(3,)))
    assert result.images_per_s > 0
    with pytest.raises(BadInput, match="batches of 3 only"):
        measure(plan(("fixed", path)))


def test_models_of_different_images_are_not_compared(tmp_path):
    small, large = fixed_batch(tmp_path / "small.onnx"), fixed_batch(tmp_path / "large.onnx", side=16)
    with pytest.raises(BadInput, match="large: takes images of 16x16 pixels, small of 8x8"):
        measure(plan(("small", small), ("large", large), batches=(3,)))


def test_modules_of_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    path = fixed_batch(tmp_path / "fixed.onnx")
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert measure(plan(("fixed", path), batches=(3,)))


def test_memory_is_not_that_of_the_process_that_measures(tmp_path):
    path = fixed_batch(tmp_path / "fixed.onnx")
    ballast = np.ones(2**26)  # 537 MB
    (result,) = measure(plan(("fixed", path), batches=(3,)))
    assert result.memory_mb < ballast.nbytes / 4e6


def test_what_cannot_be_measured_is_named(tmp_path):
    path = tmp_path / "broken.onnx"
    with pytest.raises(BadInput, match="no such file"):
        plan(("broken", path))
    path.write_bytes(b"not a model")
    with pytest.raises(BuildFailed, match="model"):
        measure(plan(("broken", path)))
    with pytest.raises(BadInput, match="two have one name"):
        plan(("a", path), ("a", path))
    with pytest.raises(BadInput, match=r"\.engine, \.onnx or \.xml"):
        plan(("a", Path(__file__)))


def test_warm_up_is_not_counted():
    seen = []
    found = timed(lambda images: seen.append(images.shape), np.zeros((1, 3, 2, 2), np.float32), warmup=4, seconds=0)
    assert len(found) == 5
    assert len(seen) == 9
