"""Any ONNX file or IR of one image input: run as it is, against NumPy, and refused where its input is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repq_deploy.engines.backends.openvino import BACKEND as OPENVINO
from repq_deploy.engines.bench.measure import BenchPlan, measure
from repq_deploy.engines.foreign import open_plain
from repq_deploy.errors import BadInput, BuildFailed
from repq_deploy.inputs import ImageInput

installed = pytest.mark.skipif(not OPENVINO.is_installed(), reason="OpenVINO is not installed")
WEIGHTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


def write_onnx(path: Path, shape: tuple[str | int, ...] = ("n", 3, 2, 2), kind: int = TensorProto.FLOAT) -> Path:
    """A linear classifier of pixels, with names that are not ours."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", kind, shape)]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], 5])]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def write_ir(path: Path, **options: object) -> Path:
    import openvino

    source = write_onnx(path.with_suffix(".onnx"), **options)  # type: ignore[arg-type]
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=installed)])
def test_it_computes_what_numpy_computes(tmp_path: Path, suffix: str) -> None:
    path = (write_onnx if suffix == ".onnx" else write_ir)(tmp_path / f"other{suffix}")
    model = open_plain(path, threads=1)
    assert (model.batch, model.input, model.outputs) == (None, ImageInput((2, 2)), 5)
    images = np.random.default_rng(1).normal(size=(41, 3, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(model.runner()(images), images.reshape(41, -1) @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=installed)])
def test_a_file_of_one_batch_size_takes_any_number_of_images(tmp_path: Path, suffix: str) -> None:
    path = (write_onnx if suffix == ".onnx" else write_ir)(tmp_path / f"two{suffix}", shape=(2, 3, 2, 2))
    model = open_plain(path)
    assert model.batch == 2
    images = np.random.default_rng(1).normal(size=(5, 3, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(model.runner()(images), images.reshape(5, -1) @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".xml", marks=installed)])
def test_bytes_are_taken_in_either_layout(tmp_path: Path, suffix: str) -> None:
    write = write_onnx if suffix == ".onnx" else write_ir
    for layout, shape in (("nchw", (3, 2, 2)), ("nhwc", (2, 2, 3))):
        model = open_plain(write(tmp_path / f"{layout}{suffix}", shape=("n", *shape), kind=TensorProto.UINT8))
        assert model.input == ImageInput((2, 2), "uint8", layout)
        pixels = model.input.random(3)
        expected = pixels.reshape(3, -1).astype(np.float32) @ WEIGHTS
        np.testing.assert_allclose(model.runner()(pixels), expected, rtol=1e-4, atol=1e-3)


@installed
def test_an_ir_is_measured_with_its_weights_in_its_size(tmp_path: Path) -> None:
    path = write_ir(tmp_path / "other.xml")
    (result,) = measure(BenchPlan((("ir", path),), batches=(2,), cpus=(0,), rounds=1, seconds=0.0, warmup=1))
    assert result.runs >= 5
    assert result.size_mb == (path.stat().st_size + path.with_suffix(".bin").stat().st_size) / 1e6


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        open_plain(tmp_path / "none.onnx")
    with pytest.raises(BadInput, match=r"\.onnx or \.xml"):
        open_plain(Path(__file__))
    with pytest.raises(BadInput, match="expected one, images in float32"):
        open_plain(write_onnx(tmp_path / "bytes.onnx", kind=TensorProto.INT8))
    with pytest.raises(BadInput, match="of a fixed size"):
        open_plain(write_onnx(tmp_path / "any.onnx", shape=("n", 3, "h", 2)))


@installed
def test_what_is_wrong_with_an_ir_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected one, images in float32"):
        open_plain(write_ir(tmp_path / "bytes.xml", kind=TensorProto.INT8))
    (tmp_path / "broken.xml").write_text("<net/>")
    with pytest.raises(BuildFailed, match="cannot read it"):
        open_plain(tmp_path / "broken.xml")
