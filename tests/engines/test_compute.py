"""Which arithmetic can be asked for: what cannot be built is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from repq_deploy.engines.backends import onnxruntime as ort
from repq_deploy.engines.backends import tensorrt_rtx
from repq_deploy.engines.build import build_engine, plan_build
from repq_deploy.engines.compute import check_compute
from repq_deploy.engines.reference import make_reference
from repq_deploy.errors import BadInput
from tests.engines.graphs import write_tiny

rtx = pytest.mark.skipif(not tensorrt_rtx.BACKEND.is_installed(), reason="TensorRT-RTX is not installed")
RTX = {"backend": "tensorrt-rtx", "precision": "fp16", "target": "sm89", "allow_rounding": False}


@pytest.mark.parametrize("compute", ["int8", "fp8", "fp8+int8", "fp16"])
@pytest.mark.parametrize("target", ["sm89", "sm89+sm120"])
def test_ada_can_do_all(compute: str, target: str) -> None:
    check_compute(compute, **{**RTX, "target": target})


@pytest.mark.parametrize(
    ("compute", "options", "message"),
    [
        ("fp4", {}, "expected one of int8, fp8"),
        ("fp8", {"target": "sm86"}, "sm86 has no FP8"),
        ("fp8+int8", {"target": "sm80+sm89"}, "sm80 has no FP8, which exists since sm89"),
        ("fp8", {"target": None}, "as in --target sm89"),
        ("fp8", {"backend": "openvino"}, "backend openvino multiplies quantized operands in int8 only"),
        ("fp16", {"backend": "onnxruntime"}, "int8 only"),
        ("fp16", {"precision": "fp32"}, "with --precision fp32 the products are in fp32"),
        ("int8", {"allow_rounding": True}, "rounds nothing"),
    ],
)
def test_what_cannot_be_built_is_refused(compute: str, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_compute(compute, **{**RTX, **options})


def test_a_plan_checks_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="int8 only"):
        plan_build(write_tiny(tmp_path), ort.BACKEND, stem=tmp_path / "x", compute="fp8")


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
        stem=tmp_path / "vit",
        targets=("sm89",),
        compute=compute,
        allow_rounding=bool(rounded),
    )
    assert plan.engine.name == f"vit.tensorrt-rtx-{name}-sm89.engine"
    manifest = build_engine(plan, make_reference(source, data=None, seed=0)).manifest
    assert (manifest.compute, manifest.allow_rounding) == (compute, bool(rounded))
    assert manifest.validation.verdict in ("BUILT, NOT RUN", "PASSED")
    if rounded:
        assert manifest.rounded_sqnr_db is not None
        assert 15 < manifest.rounded_sqnr_db < 60
        assert manifest.validation.tolerance.rounding_sqnr_db <= manifest.rounded_sqnr_db
    else:
        assert manifest.lowering_sqnr_db > 120
