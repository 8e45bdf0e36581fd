"""``repq-build-engine --exchange`` and ``--emit-onnx``: what they print, write and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repq_deploy.cli import build_engine
from tests.engines.graphs import write_tiny


@pytest.fixture
def run(call: Callable[..., Any]) -> Callable[..., Any]:
    def _run(*arguments: object) -> Any:
        return call(build_engine.main, *arguments)

    return _run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path).path


def test_exchange_prints_the_command_to_copy(run: Callable[..., Any], model: Path) -> None:
    folder = model.parent / "tensors"
    done = run(model, "--backend", "onnxruntime", "--exchange", folder)
    assert done.code == 0
    *_, before, last = done.out.splitlines()
    assert before == f"wrote {folder}; to compare with it:"
    assert last.startswith(f"  polygraphy run {model.parent}/tiny.onnxruntime.engine --onnxrt --model-type onnx ")
    assert sorted(path.name for path in folder.iterdir()) == ["images.bin", "inputs.json", "logits.bin", "outputs.json"]
    (entry,) = json.loads(run(model, "--backend", "onnxruntime", "--exchange", folder, "--json").out)["engines"]
    assert entry["exchange"]["folder"] == str(folder)
    assert [Path(path).name for path in entry["exchange"]["files"]][-2:] == ["inputs.json", "outputs.json"]
    assert entry["exchange"]["commands"] == {"polygraphy": last.strip()}


def test_exchange_for_tensorrt_rtx_names_the_variable(run: Callable[..., Any], model: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    done = run(model, "--backend", "tensorrt-rtx", "--target", "sm89", "--exchange", model.parent / "tensors")
    assert "  POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run " in done.out
    assert "--trt --model-type engine" in done.out


def test_emit_prints_what_to_do_on_the_other_machine(run: Callable[..., Any], model: Path) -> None:
    done = run(model, "--emit-onnx", "--tensorrt-version", "10.3", "--max-batch", 16)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("passes (places changed): ")
    assert lines[2].startswith(f"wrote {model.parent}/tiny.tensorrt-10.3: model.onnx, images.bin, ")
    assert lines[3].startswith("for TensorRT 10.3: opset 20, fp16 around w8a8 in int8; ")
    assert lines[4] == "WRITTEN, NOT BUILT: no engine was built from it here"
    assert lines[5].endswith("in tiny.tensorrt-10.3: sh build.sh && sh check.sh")
    assert [line.split()[0] for line in lines[6:]] == ["trtexec", "trtexec", "polygraphy"]
    assert "--maxShapes=images:16x3x8x8" in lines[6]
    answer = json.loads(run(model, "--emit-onnx", "--tensorrt-version", "10.3", "--max-batch", 16, "--json").out)
    assert answer["emitted"]["tensorrt"] == "10.3"
    assert answer["emitted"]["commands"]["build"] == lines[6].strip()
    assert not list(model.parent.glob("*.engine"))


def test_emit_can_be_tried_dry(run: Callable[..., Any], model: Path) -> None:
    done = run(model, "--emit-onnx", "--tensorrt-version", "11", "--dry-run")
    assert done.out == f"would write {model.parent}/tiny.tensorrt-11.0 for TensorRT 11.0\n"
    assert [path.name for path in model.parent.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--emit-onnx",), "expected --emit-onnx and --tensorrt-version together"),
        (("--tensorrt-version", "10.3"), "expected --emit-onnx and --tensorrt-version together"),
        (("--deepstream",), "--deepstream beside them only"),
        (("--emit-onnx", "--tensorrt-version", "ten"), "--tensorrt-version ten: expected a version"),
        (("--emit-onnx", "--tensorrt-version", "10.3", "--target", "sm87"), "--target: has no effect beside"),
        (("--emit-onnx", "--tensorrt-version", "10.3", "--exchange", "x"), "--exchange: has no effect beside"),
        (("--emit-onnx", "--tensorrt-version", "10.3", "-o", "no/where"), "does not exist; create it first"),
        (("--backend", "onnxruntime", "--exchange", "no/where"), "does not exist; create it first"),
        (("--backend", "onnxruntime", "--exchange", "{model}"), "is not a folder"),
    ],
)
def test_what_is_refused_leaves_nothing(
    run: Callable[..., Any], model: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(model, *(argument.format(model=model) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert words in done.err.splitlines()[-1]
    assert [path.name for path in model.parent.iterdir()] == ["tiny.onnx"]
