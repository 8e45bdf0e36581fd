"""A canonical file after tools that people run over every ONNX file: it builds to the same codes, or is refused."""

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import onnxsim
import onnxslim
import pytest

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.build import build_planned, make_reference, plan_build
from repq_deploy.engines.prove_engine import PASSED
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from tests.conftest import exported


@pytest.fixture
def canonical(tmp_path: Path) -> Path:
    onnx.save(exported("vit", "w4a4", softmax="log2"), tmp_path / "vit.onnx")
    return tmp_path / "vit.onnx"


def logits(path: Path) -> np.ndarray:
    """Of the engine built from a file."""
    source = read_source(path)
    plan = plan_build(source, backend_named("onnxruntime"), stem=path.with_suffix(""))
    built = build_planned(plan, make_reference(source, data=None, seed=0))
    assert built.manifest.validation.verdict == PASSED
    images = np.random.default_rng(0).standard_normal((4, *source.image_shape)).astype(np.float32)
    return open_engine(built.engine)[0](images)


@pytest.mark.parametrize("tool", ["onnxsim", "onnxslim"])
def test_simplifiers_leave_the_codes(canonical: Path, tmp_path: Path, tool: str) -> None:
    model = onnx.load(canonical)
    simplified = onnxsim.simplify(model)[0] if tool == "onnxsim" else onnxslim.slim(model)
    onnx.save(simplified, tmp_path / "simplified.onnx")
    np.testing.assert_array_equal(logits(tmp_path / "simplified.onnx"), logits(canonical))


def test_a_file_whose_functions_were_inlined_is_refused(canonical: Path) -> None:
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(canonical)), canonical)
    with pytest.raises(BadInput, match="altered by another tool; export it again"):
        read_source(canonical)


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC, "altered by another tool; export it again"),
        (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
            "operators of com.microsoft, .* repq-export wrote",
        ),
    ],
    ids=["basic", "all"],
)
def test_what_a_runtime_optimized_is_refused(canonical: Path, tmp_path: Path, level: object, message: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(canonical, options, providers=["CPUExecutionProvider"])
    with pytest.raises(BadInput, match=message):
        read_source(tmp_path / "optimized.onnx")
