"""OpenVINO: the engine passes, runs on integers, is one reproducible file, and says clearly what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from repq_deploy.engines.backends import openvino
from repq_deploy.engines.backends.openvino import BACKEND, product_kernels
from repq_deploy.engines.batching import THREADS, Profile
from repq_deploy.engines.build import BuiltEngine, build_planned, plan_build
from repq_deploy.engines.reference import make_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.export.canonical import write_canonical
from repq_deploy.export.lowering import Lowering
from repq_deploy.inputs import ImageInput
from tests.conftest import exported
from tests.engines.graphs import oracle, write_tiny

installed = pytest.mark.skipif(not BACKEND.is_installed(), reason="OpenVINO is not installed")


@pytest.fixture
def source(tmp_path: Path) -> SourceModel:
    return write_tiny(tmp_path, bits="w8a6", levels=31)


def made(source: SourceModel) -> BuiltEngine:
    plan = plan_build(source, BACKEND, stem=source.path.with_suffix(""), profile=Profile(1, 2, 4))
    return build_planned(plan, make_reference(source, data=None, seed=0))


@installed
def test_the_engine_passes_and_computes_what_numpy_computes(source: SourceModel) -> None:
    built = made(source)
    assert built.manifest.validation.verdict == "PASSED", built.manifest.validation.reason
    assert built.engine.name == "tiny.openvino.engine"
    assert built.manifest.session["INFERENCE_PRECISION_HINT"] == "f32"
    runner, _ = open_engine(built.engine)
    images = np.random.default_rng(0).normal(size=(9, *source.image_shape)).astype(np.float32)
    np.testing.assert_allclose(runner(images), oracle(source.model, images), atol=1e-3)
    first = runner(images[:4])
    kept = first.copy()
    runner(images[4:8])
    assert np.array_equal(first, kept)  # results are not views of a buffer that the next call overwrites


@installed
def test_the_number_of_threads_is_an_option(source: SourceModel) -> None:
    built = made(source)
    images = np.random.default_rng(0).normal(size=(2, *source.image_shape)).astype(np.float32)
    runner, _ = open_engine(built.engine, session={THREADS: "1"})
    np.testing.assert_allclose(runner(images), oracle(source.model, images), atol=1e-3)


@installed
@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
def test_every_product_of_integers_runs_on_integers(tmp_path: Path, bits: str) -> None:
    if BACKEND.saturates():
        pytest.skip("needs a CPU with VNNI: elsewhere products that could saturate are in float")
    model = exported("vit", bits)
    write_canonical(model, tmp_path / "vit.onnx")
    built = made(read_source(tmp_path / "vit.onnx"))
    assert built.manifest.validation.verdict == "PASSED", built.manifest.validation.reason
    kernels = product_kernels(built.engine, built.manifest.session)
    products = sum(node.op_type in ("MatMul", "Conv") for node in model.graph.node)
    logarithmic = sum(node.op_type == "Log2QuantizeLinear" for node in model.graph.node)
    assert kernels == {"i8": products - logarithmic, "f32": logarithmic}


@installed
def test_two_builds_give_one_equal_file_that_openvino_opens_by_itself(source: SourceModel, tmp_path: Path) -> None:
    import openvino as ov

    first = made(source).engine.read_bytes()
    built = made(source)
    assert built.engine.read_bytes() == first
    assert built.manifest.engine.sha256 == hashlib.sha256(first).hexdigest()
    assert {path.name for path in tmp_path.iterdir()} == {
        "tiny.onnx",
        "tiny.openvino.engine",
        "tiny.openvino.json",
        "tiny.reference.npz",
    }
    images = np.random.default_rng(0).normal(size=(3, *source.image_shape)).astype(np.float32)
    alone = ov.Core().compile_model(str(built.engine), "CPU", dict(built.manifest.session))
    assert np.array_equal(alone(images)["logits"], open_engine(built.engine)[0](images))


@installed
def test_what_openvino_needs_beyond_its_defaults_is_in_the_metadata(source: SourceModel) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(made(source).engine).metadata_props}
    assert metadata["repq.engine.inference_precision_hint"] == "f32"
    assert metadata["repq.engine.backend"] == "openvino"


@installed
@pytest.mark.parametrize("where", [0.3, 0.9])
def test_a_flipped_byte_in_either_file_is_refused(source: SourceModel, where: float) -> None:
    built = made(source)
    data = bytearray(built.engine.read_bytes())
    data[int(where * len(data))] ^= 1
    built.engine.write_bytes(data)
    with pytest.raises(BadInput, match="altered"):
        open_engine(built.engine)


@installed
def test_what_is_no_engine_and_what_cannot_be_built_are_one_line() -> None:
    with pytest.raises(BuildFailed, match="backend openvino"):
        BACKEND.open(b"PK", profile=Profile(), images=ImageInput((8, 8)), session={})
    node = onnx.helper.make_node("NoSuchOperator", ["images"], ["logits"])
    values = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in ("images", "logits")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
    with pytest.raises(BuildFailed, match="NoSuchOperator") as caught:
        BACKEND.load_graph(model)
    assert "\n" not in str(caught.value)


def test_without_openvino_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(BackendMissing, match=r"pip install 'repq-deploy\[openvino\]'"):
        openvino.BACKEND.version()


def test_it_builds_for_no_target() -> None:
    with pytest.raises(BadInput, match="use --cpu"):
        BACKEND.target(["sm89"], Lowering())
