"""``repq-build-engine`` in process: what it prints, its exit codes, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.cli import build_engine
from repq_deploy.engines import backends
from repq_deploy.engines.backends.trt import runner as trt_runner
from repq_deploy.engines.backends.trt.gpu import gpu_target
from repq_deploy.errors import BuildFailed
from tests.engines.graphs import SIDE, write_tiny


@pytest.fixture
def run(call: Callable[..., Any]) -> Callable[..., Any]:
    def _run(*arguments: object) -> Any:
        return call(build_engine.main, *arguments)

    return _run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path, bits="w8a6", levels=31).path


def test_build_prints_the_verdict_and_the_next_command(run: Callable[..., Any], model: Path) -> None:
    done = run(model, "--backend", "onnxruntime")
    assert done.code == 0
    engine = model.parent / "tiny.onnxruntime.engine"
    lines = done.out.splitlines()
    assert lines[0].startswith("backend onnxruntime 1.")
    assert lines[1].startswith("passes (places changed): UnpackInt4 0")
    assert lines[2].startswith("lowered graph against canonical, both in float32, in its weakest stretch: SQNR ")
    assert lines[3].startswith("codes of onnxruntime's own kernels against the canonical graph's: ")
    assert lines[4].startswith(f"wrote {engine}: ")
    assert lines[5] == "any CPU: none of its products of bytes can saturate"
    assert lines[6].startswith("note: activations below 8 bits run on the INT8 grid")
    assert "dB" in lines[7]
    assert lines[8] == "equal images in other rows, in batches of 1, 8, 32: outputs are equal"
    assert lines[9].startswith("PASSED: SQNR")
    assert lines[10] == f"next: repq-eval {engine} --data FOLDER"


def test_no_note_for_eight_bits(run: Callable[..., Any], tmp_path: Path) -> None:
    assert "INT8 grid" not in run(write_tiny(tmp_path).path, "--backend", "onnxruntime").out


def test_json_is_one_object_and_quiet_says_nothing(run: Callable[..., Any], model: Path) -> None:
    done = run(
        model, "--backend", "onnxruntime", "--backend", "onnxruntime", "--json", "-q", "-o", model.parent / "out"
    )
    (entry,) = json.loads(done.out)["engines"]
    assert (entry["backend"], entry["verdict"], entry["why"]) == ("onnxruntime", "PASSED", "asked for")
    assert Path(entry["engine"]).name == "out.onnxruntime.engine"
    assert Path(entry["engine"]).stat().st_size == entry["bytes"]
    assert entry["manifest"]["validation"]["figures"]["images"] == 6
    assert done.err == ""


def test_dry_run_writes_nothing(run: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "gpu_target", lambda: None)
    done = run(model, "--dry-run", "--max-batch", 16)
    assert done.code == 0
    assert "backend onnxruntime 1." in done.out
    assert "no GPU is here" in done.out
    assert "batch 1 to 16, tuned for 8" in done.out
    assert [path.name for path in model.parent.iterdir()] == ["tiny.onnx"]


def test_validate_only(run: Callable[..., Any], model: Path) -> None:
    run(model, "--backend", "onnxruntime")
    engine = model.parent / "tiny.onnxruntime.engine"
    model.unlink()
    done = run("--validate-only", engine)
    assert (done.code, "PASSED: " in done.out) == (0, True)
    assert run("--validate-only", engine, "--dry-run").out.startswith(f"would run {engine} on ")


def test_a_failed_validation_exits_1_and_says_what_next(run: Callable[..., Any], model: Path) -> None:
    run(model, "--backend", "onnxruntime")
    folder = model.parent
    with np.load(folder / "tiny.reference.npz") as arrays:
        reference = dict(arrays)
    np.savez(folder / "tiny.reference.npz", **{**reference, "logits": -reference["logits"]})
    done = run("--validate-only", folder / "tiny.onnxruntime.engine")
    assert done.code == 1
    assert "FAILED: SQNR -6.0 dB is below" in done.out
    manifest = json.loads((folder / "tiny.onnxruntime.json").read_text())
    assert manifest["validation"]["verdict"] == "FAILED"


def test_no_gpu(run: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

    def no_gpu(backend: str) -> None:
        raise trt_runner.BackendMissing(f"backend {backend}: no usable GPU here")

    monkeypatch.setattr(trt_runner, "_cuda", no_gpu)
    monkeypatch.setattr(backends, "gpu_target", lambda: None)
    done = run(model, "--backend", "tensorrt-rtx", "--target", "sm89")
    engine = model.parent / "tiny.tensorrt-rtx-sm89.engine"
    assert done.code == 0
    assert "BUILT, NOT RUN: backend tensorrt-rtx: no usable GPU here" in done.out
    assert f"repq-build-engine --validate-only {engine}" in done.out
    done = run("--validate-only", engine)
    assert (done.code, done.out) == (3, "")
    assert done.err == "repq-build-engine: error: backend tensorrt-rtx: no usable GPU here\n"


def test_a_crashed_builder_exits_1_and_leaves_nothing(
    run: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: object, *arguments: object, **options: object) -> None:
        raise BuildFailed("backend onnxruntime: the builder crashed (SIGSEGV)")

    monkeypatch.setattr(type(backends.backend_named("onnxruntime")), "build", crash)
    done = run(model, "--backend", "onnxruntime", "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == "repq-build-engine: error: backend onnxruntime: the builder crashed (SIGSEGV)"
    assert [path.name for path in model.parent.iterdir()] == ["tiny.onnx"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected either an ONNX file"),
        (("{model}", "--validate-only", "x.engine"), "expected either an ONNX file"),
        (("missing.onnx",), "model missing.onnx: no such file"),
        (("{model}", "--backend", "tpu"), "backend 'tpu': expected one of"),
        (("{model}", "--backend", "onnxruntime", "--precision", "int4"), "precision 'int4'"),
        (("{model}", "--backend", "onnxruntime", "-o", "missing/folder/x"), "does not exist"),
        (("{model}", "--min-batch", "9"), "expected 1 <= min <= opt <= max"),
        (("{model}", "--backend", "onnxruntime", "--reference-data", "missing.npz"), "missing.npz: no such file"),
        (("--validate-only", "x.engine", "--backend", "openvino"), "--backend: has no effect beside --validate-only"),
        (("--validate-only", "missing.engine"), "engine missing.engine: no such file"),
    ],
)
def test_bad_input_exits_2_with_one_line(
    run: Callable[..., Any], model: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(*(argument.format(model=model) for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert words in done.err.splitlines()[-1]
    assert [path.name for path in model.parent.iterdir()] == ["tiny.onnx"]


def test_images_of_a_file_are_named_in_the_manifest(run: Callable[..., Any], model: Path) -> None:
    images = model.parent / "images.npy"
    np.save(images, np.random.default_rng(0).normal(size=(6, 3, SIDE, SIDE)).astype(np.float32))
    done = run(model, "--backend", "onnxruntime", "--reference-data", images, "--json")
    assert json.loads(done.out)["engines"][0]["manifest"]["reference_inputs"] == "file images.npy"


@pytest.mark.skipif(gpu_target() is not None, reason="a GPU is here: the engine would run")
@pytest.mark.parametrize("compute", ["int8", "fp16"])
def test_validate_only_on_this_machine_without_a_gpu_exits_3(
    run: Callable[..., Any], model: Path, compute: str
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    done = run(model, "--backend", "tensorrt-rtx", "--target", "sm89", "--compute", compute)
    assert done.code == 0
    variant = "" if compute == "int8" else f"-{compute}"
    done = run("--validate-only", model.parent / f"tiny.tensorrt-rtx{variant}-sm89.engine")
    assert (done.code, done.out) == (3, "")
    assert "no usable GPU here" in done.err


def test_fp8_needs_a_gpu_that_has_it(run: Callable[..., Any], model: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    refused = run(model, "--backend", "tensorrt-rtx", "--target", "sm86", "--compute", "fp8")
    assert (refused.code, "sm86 has no FP8" in refused.err) == (2, True)
    refused = run(model, "--backend", "tensorrt-rtx", "--target", "sm89", "--compute", "fp8")
    assert (refused.code, "FP8 cannot hold" in refused.err) == (2, True)
    assert not list(model.parent.glob("*.engine"))


def test_reference_images_of_the_user_are_not_replaced(run: Callable[..., Any], model: Path) -> None:
    mine = model.parent / "tiny.reference.npz"
    np.savez(mine, images=np.zeros((200, 3, SIDE, SIDE), np.float32))
    before = mine.read_bytes()
    done = run(model, "--backend", "onnxruntime", "--reference-data", mine)
    assert done.code == 2
    assert "is also --reference-data" in done.err
    assert mine.read_bytes() == before
    assert not list(model.parent.glob("*.engine"))


@pytest.mark.usefixtures("timed_build")
def test_it_says_whether_it_is_faster(run: Callable[..., Any], model: Path) -> None:
    done = run(model, "--backend", "onnxruntime")
    verdict = next(number for number, line in enumerate(done.out.splitlines()) if line.startswith("PASSED"))
    assert "the float model on this machine" in done.out.splitlines()[verdict + 1]
    (entry,) = json.loads(run(model, "--backend", "onnxruntime", "--json").out)["engines"]
    assert entry["speed"]["times"][0]["batch"] == 1
    assert "speed" not in entry["manifest"]
    done = run(model, "--backend", "onnxruntime", "--no-speed-check")
    assert (done.code, "float model" in done.out) == (0, False)
