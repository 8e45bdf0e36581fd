"""The list of what is built for a GPU: every entry can be asked for, and no two write the same file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from repq_deploy.engines.backends.tensorrt_rtx import BACKEND as RTX
from repq_deploy.engines.backends.trt.backend import check_fp8
from repq_deploy.engines.compute import lowering_for

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "variants.py"


@pytest.fixture(scope="module")
def variants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_variants", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["gpu_variants"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_variant_can_be_asked_for(variants: ModuleType) -> None:
    for one in variants.VARIANTS:
        lowering = lowering_for(RTX, precision="fp16", compute=one.compute, allow_rounding=one.allow_rounding)
        assert lowering.compute == one.compute
        if "fp8" in one.compute:
            check_fp8(RTX.name, one.compute, one.target)
        assert one.build_options[:2] == ["--backend", "tensorrt-rtx"]


def test_no_two_variants_write_one_file(variants: ModuleType) -> None:
    files = [(one.export, one.compute, one.target) for one in variants.VARIANTS]
    assert len(set(files)) == len(files)
    assert len({one.name for one in variants.VARIANTS}) == len(files)


def test_the_baseline_and_every_combination_are_there(variants: ModuleType) -> None:
    kinds = {(one.bits, one.attention, one.compute) for one in variants.VARIANTS}
    assert (variants.FLOAT, "float", "int8") in kinds  # nothing is quantized in it: an FP16 engine
    for attention in ("float", "uniform", "log2"):
        assert ("w8a8", attention, "int8") in kinds
        assert {("w4a4", attention, compute) for compute in ("int8", "fp8+int8", "fp16")} <= kinds
