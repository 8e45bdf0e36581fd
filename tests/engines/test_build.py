"""From an ONNX file to the three files of an engine, on every backend that this machine has."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from repq_deploy.engines import build
from repq_deploy.engines.backends import onnxruntime as ort
from repq_deploy.engines.backends import tensorrt, tensorrt_rtx
from repq_deploy.engines.backends.onnxruntime import OnnxRuntimeBackend
from repq_deploy.engines.backends.trt.backend import TrtBackend
from repq_deploy.engines.backends.trt.gpu import gpu_target
from repq_deploy.engines.batching import GraphRunner, Profile
from repq_deploy.engines.build import build_planned, output_stem, plan_build, validate_engine
from repq_deploy.engines.compute import lowering_for
from repq_deploy.engines.cpu import CpuForm
from repq_deploy.engines.manifest import KernelCodes, Manifest, PassCount, manifest_path, read_manifest
from repq_deploy.engines.reference import make_reference, read_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.export.lowering import Lowering
from tests.engines.graphs import CLASSES, oracle, write_tiny

rtx = pytest.mark.skipif(not tensorrt_rtx.BACKEND.is_installed(), reason="TensorRT-RTX is not installed")


@pytest.fixture
def source(tmp_path: Path) -> SourceModel:
    return write_tiny(tmp_path, bits="w8a6", levels=31)


def made(source: SourceModel, backend: object = ort.BACKEND, **options: object) -> build.BuiltEngine:
    asked = {name: options.pop(name) for name in ("precision", "cpu") if name in options}
    lowering = lowering_for(backend, **asked)  # type: ignore[arg-type]
    plan = plan_build(source, backend, lowering, stem=source.path.with_suffix(""), **options)  # type: ignore[arg-type]
    return build_planned(plan, make_reference(source, data=None, seed=0))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_onnxruntime_engine_passes_and_runs(source: SourceModel, tmp_path: Path) -> None:
    built = made(source, profile=Profile(1, 2, 4))
    assert built.manifest.validation.verdict == "PASSED"
    assert files(tmp_path) == {
        "tiny.onnx",
        "tiny.onnxruntime.engine",
        "tiny.onnxruntime.json",
        "tiny.reference.npz",
    }
    runner, manifest = open_engine(built.engine)
    assert manifest == built.manifest
    assert (manifest.outputs, manifest.bits, manifest.precision, manifest.target) == (CLASSES, "w8a6", "fp32", None)
    assert manifest.source.sha256 == source.sha256
    assert {one.name for one in manifest.passes} >= {"UnpackInt4"}
    images = np.random.default_rng(0).normal(size=(9, *source.image_shape)).astype(np.float32)
    np.testing.assert_allclose(runner(images), oracle(source.model, images), atol=1e-3)


def test_two_builds_give_equal_bytes(source: SourceModel, tmp_path: Path) -> None:
    built = made(source)
    names = ("tiny.onnxruntime.engine", "tiny.onnxruntime.json", "tiny.reference.npz")
    first = [(tmp_path / name).read_bytes() for name in names]
    made(source)
    assert [(tmp_path / name).read_bytes() for name in names] == first
    assert built.seconds > 0


def _narrow_the_clip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Half the range: 9 dB. An engine is allowed more than a clip that is lost costs, 17 dB: its kernels differ."""
    for tensor in model.graph.initializer:
        if tensor.name in ("low", "high"):
            tensor.raw_data = np.float32(onnx.numpy_helper.to_array(tensor) / 2).tobytes()
    return model


def _lose_the_clip(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name in ("low", "high"):
            tensor.raw_data = np.float32(onnx.numpy_helper.to_array(tensor) * 1e6).tobytes()
    return model


def _build_with_wrong_clip(self: object, model: onnx.ModelProto, output: Path, **options: object) -> None:
    output.write_bytes(_narrow_the_clip(model).SerializeToString())


def test_a_wrong_lowering_is_no_engine(source: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = build._lower

    def wrong(
        plan: build.BuildPlan, lowering: Lowering, form: CpuForm | None
    ) -> tuple[onnx.ModelProto, tuple[PassCount, ...]]:
        model, passes = lower(plan, lowering, form)
        return _lose_the_clip(model), passes

    monkeypatch.setattr(build, "_lower", wrong)
    with pytest.raises(BuildFailed, match=r"changed what it computes: .* a pass is wrong"):
        made(source)
    assert not list(tmp_path.glob("*.engine"))


def test_a_right_lowering_is_proven_exact(source: SourceModel) -> None:
    manifest = made(source).manifest
    assert manifest.lowering_sqnr_db > 120
    assert manifest.kernel_codes == KernelCodes(sites=1, codes=6 * 3 * 8 * 8, different=0, unexplained=0)


def test_kernels_that_compute_something_else_are_no_engine(
    source: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = OnnxRuntimeBackend.load_graph

    def wrong(self: OnnxRuntimeBackend, model: onnx.ModelProto) -> GraphRunner:
        return load(self, _narrow_the_clip(model))

    monkeypatch.setattr(OnnxRuntimeBackend, "load_graph", wrong)
    with pytest.raises(
        BuildFailed, match=r"kernels do not compute the graph .* codes differ, most at head; the passes"
    ):
        made(source)
    assert not list(tmp_path.glob("*.engine"))


def test_a_wrong_engine_fails_and_is_kept_with_its_verdict(
    source: SourceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "build", _build_with_wrong_clip)
    built = made(source)
    assert built.manifest.validation.verdict == "FAILED"
    assert "is below" in built.manifest.validation.reason
    assert read_manifest(built.engine) == built.manifest


def test_a_failed_build_leaves_the_old_files(
    source: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(source)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(self: object, model: object, output: Path, **options: object) -> None:
        output.write_bytes(b"half of it")
        raise BuildFailed("no")

    monkeypatch.setattr(ort.OnnxRuntimeBackend, "build", refuse)
    with pytest.raises(BuildFailed):
        made(source)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_nothing(source: SourceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Manifest) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Manifest, "to_json", full)
    with pytest.raises(BadInput, match="No space left on device; nothing was written"):
        made(source)
    assert files(tmp_path) == {"tiny.onnx"}


def test_validation_again_updates_the_verdict(source: SourceModel) -> None:
    built = made(source)
    doubted = dataclasses.replace(
        built.manifest,
        validation=dataclasses.replace(built.manifest.validation, verdict="BUILT, NOT RUN", figures=None),
    )
    manifest_path(built.engine).write_text(doubted.to_json())
    assert validate_engine(built.engine).validation == built.manifest.validation
    assert read_manifest(built.engine) == built.manifest


def test_validation_refuses_the_reference_of_another_model(source: SourceModel, tmp_path: Path) -> None:
    built = made(source)
    reference = read_reference(tmp_path / "tiny.reference.npz")
    other = dataclasses.replace(reference, source_sha256="0" * 64)
    (tmp_path / "tiny.reference.npz").write_bytes(other.to_bytes())
    with pytest.raises(BadInput, match="belongs to another model"):
        validate_engine(built.engine)
    (tmp_path / "tiny.reference.npz").unlink()
    with pytest.raises(BadInput, match="no such file"):
        validate_engine(built.engine)


@pytest.mark.parametrize("content", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"x"])
def test_an_altered_engine_is_refused(source: SourceModel, content: object) -> None:
    built = made(source)
    built.engine.write_bytes(content(built.engine.read_bytes()))  # type: ignore[operator]
    with pytest.raises(BadInput, match="truncated, altered or of another build"):
        open_engine(built.engine)


def test_an_engine_of_another_version_is_refused(source: SourceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    built = made(source)
    versions = {"repq-deploy": "0.1", "tensorrt-rtx": "1.5.0"}
    manifest = dataclasses.replace(built.manifest, backend="tensorrt-rtx", versions=versions)
    manifest_path(built.engine).write_text(manifest.to_json())
    monkeypatch.setattr(TrtBackend, "version", lambda self: "1.7.1")
    with pytest.raises(
        BadInput, match=r"built with tensorrt-rtx 1\.5\.0, found 1\.7\.1.*rebuild with: repq-build-engine"
    ):
        open_engine(built.engine)


def test_what_a_backend_cannot_do_is_refused(source: SourceModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="backend onnxruntime computes in fp32"):
        made(source, precision="fp16")
    with pytest.raises(BadInput, match="use --cpu"):
        made(source, targets=["sm89"])
    assert files(tmp_path) == {"tiny.onnx"}


def test_tensorrt_that_is_not_installed_names_the_pip_line(source: SourceModel) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    with pytest.raises(BackendMissing, match=r"pip install 'repq-deploy\[tensorrt\]'"):
        made(source, tensorrt.BACKEND)


@pytest.mark.parametrize(
    ("output", "expected"), [(None, "m.v2"), (".", "m.v2"), ("deit.s", "deit.s"), ("x.engine", None)]
)
def test_output_stem(tmp_path: Path, output: str | None, expected: str | None) -> None:
    given = None if output is None else tmp_path / output
    if expected is None:
        with pytest.raises(BadInput, match="without suffix"):
            output_stem(tmp_path / "m.v2.onnx", given)
    else:
        assert output_stem(tmp_path / "m.v2.onnx", given) == tmp_path / expected


@rtx
@pytest.mark.skipif(gpu_target() is not None, reason="a GPU is here: the engine would run")
def test_rtx_engine_is_built_in_a_child_and_not_run(source: SourceModel, tmp_path: Path) -> None:
    phases: list[str] = []
    plan = plan_build(
        source, tensorrt_rtx.BACKEND, stem=tmp_path / "vit", targets=("sm86", "sm89"), profile=Profile(1, 2, 4)
    )
    assert plan.engine.name == "vit.tensorrt-rtx-sm86-sm89.engine"
    reference = make_reference(source, data=None, seed=0)
    built = build_planned(plan, reference, progress=lambda fraction, phase: phases.append(phase))
    assert {"Building engine", "validating"} <= set(phases)
    assert built.engine.stat().st_size > 10_000
    manifest = built.manifest
    assert (manifest.target, manifest.precision, manifest.validation.verdict) == ("sm86+sm89", "fp16", "BUILT, NOT RUN")
    assert "no usable GPU" in manifest.validation.reason
    with pytest.raises(BackendMissing, match="no usable GPU"):
        validate_engine(built.engine)
    assert read_manifest(built.engine) == manifest


@rtx
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_disk_in_the_child_is_the_outputs_error(source: SourceModel) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        tensorrt_rtx.BACKEND.build(
            source.model, Path("/dev/full"), profile=Profile(), targets=(), progress=lambda fraction, phase: None
        )


@rtx
def test_rtx_parser_errors_name_the_node(tmp_path: Path) -> None:
    source = write_tiny(tmp_path, zero_point=3)
    with pytest.raises(BuildFailed, match=r"node head/quantize \(QuantizeLinear\).*[Nn]on-zero zero point") as caught:
        made(source, tensorrt_rtx.BACKEND)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {"tiny.onnx"}


@rtx
def test_rtx_refuses_a_target_it_does_not_know(source: SourceModel) -> None:
    with pytest.raises(BadInput, match=r"--target sm90: expected one of sm75, .*sm89"):
        made(source, tensorrt_rtx.BACKEND, targets=["sm90"])


@pytest.mark.gpu
@pytest.mark.skipif(gpu_target() is None, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("backend", [tensorrt.BACKEND, tensorrt_rtx.BACKEND], ids=lambda backend: backend.name)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_tensorrt_engine_passes_on_a_gpu(source: SourceModel, backend: TrtBackend, precision: str) -> None:
    if not backend.is_installed():
        pytest.skip(f"{backend.name} is not installed")
    built = made(source, backend, precision=precision)
    assert built.manifest.validation.verdict == "PASSED", built.manifest.validation.reason
