"""Engines of models of real size, as a plain client opens them: the codes at every site are the canonical graph's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from repq_deploy.cli import build_engine, export
from repq_deploy.engines.backends.openvino import BACKEND as OPENVINO
from repq_deploy.engines.reference import read_reference
from repq_deploy.export.prove_kernels import compare_codes

pytestmark = pytest.mark.release


@pytest.fixture(scope="module", params=["deit_t", "swin_t"])
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("bits", ["w8a8", "w7a8", "w4a4"])
@pytest.mark.parametrize("method", ["repq", "best"])
def test_codes_are_the_canonical_ones(
    call: Callable[..., Any], tmp_path: Path, model: str, bits: str, method: str
) -> None:
    canonical = tmp_path / "m.onnx"
    calibration = ("--calib-data", "demo", "--num-calib", 8, "--method", method)
    assert call(export.main, model, "--no-pretrained", "--bits", bits, *calibration, "-o", canonical, "-q").code == 0
    backends = ["onnxruntime", *(["openvino"] if OPENVINO.is_installed() else [])]
    options = [option for name in backends for option in ("--backend", name)]
    done = call(build_engine.main, canonical, "--json", "-q", *options)
    engines = json.loads(done.out)["engines"]
    assert [one["verdict"] for one in engines] == ["PASSED"] * len(backends)
    for one in engines:
        codes = one["manifest"]["kernel_codes"]
        assert codes["unexplained"] <= 1e-4 * codes["codes"]
        assert codes["sites"] > 90
    session = onnxruntime.SessionOptions()
    session.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(engines[0]["engine"], session)
    images = read_reference(Path(engines[0]["reference"])).images
    assert compare_codes(onnx.load(canonical), onnx.load(tmp_path / "optimized.onnx"), images[:1]).holds
