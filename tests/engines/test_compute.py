"""Which arithmetic can be asked for: what cannot be built is refused before anything is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from repq_deploy.engines.backends import backend_named, tensorrt_rtx
from repq_deploy.engines.backends.trt.backend import TrtBackend
from repq_deploy.engines.build import build_planned, plan_build
from repq_deploy.engines.compute import lowering_for
from repq_deploy.engines.reference import make_reference
from repq_deploy.errors import BadInput
from repq_deploy.export.lowering import Lowering
from tests.engines.graphs import write_tiny

rtx = pytest.mark.skipif(not tensorrt_rtx.BACKEND.is_installed(), reason="TensorRT-RTX is not installed")
KNOWN = dict.fromkeys(["SM75", "SM80", "SM86", "SM89", "SM120"])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX as far as targets go, installed or not."""
    module = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=KNOWN), __version__="1.7.1")
    monkeypatch.setattr(TrtBackend, "_module", lambda self: module)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("compute", ["int8", "fp8", "fp8+int8", "fp16"])
@pytest.mark.parametrize("target", ["sm89", "sm89+sm120"])
def test_ada_can_do_all(compute: str, target: str) -> None:
    lowering = lowering_for(tensorrt_rtx.BACKEND, compute=compute)
    assert lowering == Lowering(half=True, compute=compute)
    assert tensorrt_rtx.BACKEND.target(target.split("+"), lowering) == target


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("tensorrt-rtx", {"compute": "fp4"}, "expected one of int8, fp8"),
        ("openvino", {"compute": "fp8"}, "backend openvino multiplies quantized operands in int8 only"),
        ("onnxruntime", {"compute": "fp16"}, "int8 only"),
        ("tensorrt-rtx", {"compute": "fp16", "precision": "fp32"}, "with --precision fp32 the products are in fp32"),
        ("tensorrt-rtx", {"allow_rounding": True}, "rounds nothing"),
        ("onnxruntime", {"precision": "fp16"}, "backend onnxruntime computes in fp32"),
        ("tensorrt", {"cpu": "any"}, "backend tensorrt builds for GPUs; use --target"),
        ("openvino", {"cpu": "sparc"}, "--cpu sparc: expected one of any"),
    ],
)
def test_a_lowering_that_a_backend_does_not_have_is_refused(backend: str, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        lowering_for(backend_named(backend), **options)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("compute", "targets", "message"),
    [
        ("fp8", ["sm86"], "sm86 has no FP8"),
        ("fp8+int8", ["sm80", "sm89"], "sm80 has no FP8, which exists since sm89"),
        ("fp8", [], "as in --target sm89"),
    ],
)
def test_a_gpu_without_fp8_is_refused(compute: str, targets: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tensorrt_rtx.BACKEND.target(targets, lowering_for(tensorrt_rtx.BACKEND, compute=compute))


@pytest.mark.usefixtures("known")
def test_a_plan_checks_it(tmp_path: Path) -> None:
    lowering = lowering_for(tensorrt_rtx.BACKEND, compute="fp8")
    with pytest.raises(BadInput, match="as in --target sm89"):
        plan_build(write_tiny(tmp_path), tensorrt_rtx.BACKEND, lowering, stem=tmp_path / "x")


@rtx
@pytest.mark.parametrize(
    ("compute", "levels", "name"),
    [("fp8", 15, "fp8"), ("fp8+int8", 31, "fp8-int8"), ("fp16", 31, "fp16"), ("fp8 rounded", 31, "fp8")],
)
def test_rtx_builds_each_variant_and_the_manifest_says_which(
    tmp_path: Path, compute: str, levels: int, name: str
) -> None:
    source = write_tiny(tmp_path, bits="w8a6", levels=levels, weight_levels=min(levels, 16))
    compute, _, rounded = compute.partition(" ")
    plan = plan_build(
        source,
        tensorrt_rtx.BACKEND,
        lowering_for(tensorrt_rtx.BACKEND, compute=compute, allow_rounding=bool(rounded)),
        stem=tmp_path / "vit",
        targets=("sm89",),
    )
    assert plan.engine.name == f"vit.tensorrt-rtx-{name}-sm89.engine"
    manifest = build_planned(plan, make_reference(source, data=None, seed=0)).manifest
    assert (manifest.compute, manifest.allow_rounding) == (compute, bool(rounded))
    assert manifest.validation.verdict in ("BUILT, NOT RUN", "PASSED")
    if rounded:
        assert manifest.rounded_sqnr_db is not None
        assert 15 < manifest.rounded_sqnr_db < 60
        assert manifest.validation.tolerance.rounding_sqnr_db <= manifest.rounded_sqnr_db
    else:
        assert manifest.lowering_sqnr_db > 120
