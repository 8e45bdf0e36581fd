"""``repq-build-engine --triton-repository`` in process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repq_deploy.cli import build_engine
from tests.engines.graphs import write_tiny


@pytest.fixture
def run(call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    model = write_tiny(tmp_path).path
    return lambda *arguments: call(build_engine.main, model, "--triton-repository", tmp_path / "models", *arguments)


def test_the_engine_is_also_a_version(run: Callable[..., Any], tmp_path: Path):
    done = run("--backend", "onnxruntime")
    version = tmp_path / "models" / "tiny" / "1"
    assert done.code == 0, done.err
    assert f"wrote {version}: a version of the model in a repository of Triton" in done.out.splitlines()
    assert (version / "model.onnx").read_bytes() == (tmp_path / "tiny.onnxruntime.engine").read_bytes()
    again = run("--backend", "onnxruntime", "--cpu", "native", "--json")
    assert json.loads(again.out)["engines"][0]["triton"] in (str(version), str(version.with_name("2")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backend", "tensorrt-rtx"), "no backend of Triton those of TensorRT-RTX"),
        (("--backend", "onnxruntime", "--backend", "openvino"), "found 2 times --backend"),
        (("--backend", "openvino", "--triton-backend", "python"), "engines of openvino are loaded by openvino only"),
        (("--min-batch", "2"), "Triton also sends batches of 1"),
    ],
)
def test_what_is_refused_before_anything_is_built(
    run: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], said: str
):
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.onnx"]


def test_the_backend_is_for_a_repository(call: Callable[..., Any], tmp_path: Path):
    done = call(build_engine.main, write_tiny(tmp_path).path, "--triton-backend", "python")
    assert done.code == 2
    assert "--triton-backend python: is for --triton-repository" in done.err
