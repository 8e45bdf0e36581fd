"""``--emit-onnx``: the file for a named TensorRT is the canonical graph, in what that version's parser takes."""

from __future__ import annotations

import configparser
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.engines.api import BuildSettings
from repq_deploy.engines.backends.trt.build import make_logger
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.prove_engine import sqnr_db
from repq_deploy.engines.reference import make_reference
from repq_deploy.errors import BadInput, BuildFailed
from repq_deploy.exchange import emit as emitting
from repq_deploy.exchange.deepstream import labels, probabilities_sqnr_db
from repq_deploy.exchange.emit import emit_passes, emit_planned, plan_emit
from repq_deploy.exchange.parsers import check_for_parser
from repq_deploy.export import names
from repq_deploy.export.lowering import Lowering, lower
from repq_deploy.export.opsets import at_opset
from repq_deploy.export.passes.base import run_passes
from repq_deploy.export.passes.pixel_input import pixel_passes
from repq_deploy.inputs import ImageInput
from tests.conftest import exported, lower_for
from tests.engines.graphs import CLASSES, SIDE, oracle, tiny

PREPROCESS = Preprocess((SIDE, SIDE), 0.9, "center", "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def write(folder: Path, model: onnx.ModelProto, **metadata: str) -> Path:
    props = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, props | {f"repq.{key}": value for key, value in metadata.items()})
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def emit(path: Path, version: str = "10.3", *, deepstream: bool = False, **settings: Any) -> Any:
    plan = plan_emit(path, version, settings=BuildSettings(**settings), deepstream=deepstream)
    return emit_planned(plan, make_reference(plan.source, data=None, seed=0))


def outputs_of(path: Path, folder: Path) -> np.ndarray:
    """What a model gives for ``images.bin`` in ONNX Runtime, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    images = np.fromfile(folder / "images.bin", np.float32).reshape(-1, *entry.shape[1:])
    return session.run(None, {entry.name: images})[0]


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "deepstream"), [({}, True), ({"compute": "fp16"}, False)])
def test_the_one_parser_that_needs_no_gpu_takes_it(tmp_path: Path, settings: dict[str, Any], deepstream: bool) -> None:
    """That of TensorRT-RTX: newer than those the file is for, and strict about types as they are."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    path = write(tmp_path, exported("vit", "w4a4", softmax="log2"), preprocess=PREPROCESS.to_json())
    found = emit(path, "10.6", deepstream=deepstream, **settings)
    logger = make_logger(trt)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse((found.folder / "model.onnx").read_bytes()), logger.errors
    assert network.get_output(0).name == ("probabilities" if deepstream else "logits")


def test_the_folder_is_whole_and_says_what_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, tiny())
    found = emit(path, "10.3.0", profile=Profile(1, 2, 4))
    assert found.folder == tmp_path / "model.tensorrt-10.3"
    there = {"model.onnx", "inputs.json", "outputs.json", "images.bin", "logits.bin", "build.sh", "check.sh"}
    assert (
        {file.name for file in found.folder.iterdir()}
        == {file.name for file in found.files}
        == {*there, "emitted.json"}
    )
    record = json.loads((found.folder / "emitted.json").read_text())
    assert record == json.loads(json.dumps(found.record))
    assert (record["tensorrt"], record["opset"], record["precision"], record["run"]) == ("10.3", 20, "fp16", False)
    assert record["lowering_sqnr_db"] >= 40
    for script, steps in (("build.sh", ("build",)), ("check.sh", ("run", "compare"))):
        lines = (found.folder / script).read_text().splitlines()
        assert lines[-len(steps) :] == [found.commands[step] for step in steps]
        shell = subprocess.run(["sh", "-n", found.folder / script], check=False)  # noqa: S607 - any sh
        assert shell.returncode == 0
    emit(path, "10.3", profile=Profile(1, 2, 4))  # our own folder is replaced


def test_the_commands_fit_the_version(tmp_path: Path) -> None:
    path = write(tmp_path, tiny())
    old, new = emit(path, "10.3").commands, emit(path, "11.1").commands
    assert "--stronglyTyped" in old["build"]
    assert "--stronglyTyped" not in new["build"]
    assert "--loadRefOutputs" not in old["run"]
    assert "--loadRefOutputs=logits:logits.bin" in new["run"]
    assert old["compare"] == new["compare"]
    shapes = [word for word in shlex.split(old["build"]) if "Shapes" in word]
    assert shapes == [f"--{one}Shapes=images:{batch}x3x8x8" for one, batch in (("min", 1), ("opt", 8), ("max", 32))]


def test_each_family_is_on_the_list(each_family: str) -> None:
    """What the oldest parser takes, all do. As the backend lowers for TensorRT 11, codes are moved, which is not."""
    model, lowering = exported(each_family, "w4a4"), Lowering(half=True)
    check_for_parser(at_opset(lower(model, emit_passes(lowering))[0], 20), (10, 0))
    with pytest.raises(BadInput, match="something else than a DequantizeLinear reads it"):
        check_for_parser(at_opset(lower_for(model, "tensorrt", half=True)[0], 20), (10, 0))


@pytest.mark.parametrize(("bits", "softmax"), [("w8a8", None), ("w4a4", "log2"), ("w4a4", "log2_max")])
def test_the_file_computes_what_the_canonical_one_does(tmp_path: Path, bits: str, softmax: str | None) -> None:
    """In float32 to ties; in float16 within what rounding costs."""
    path = write(tmp_path, exported("vit", bits, softmax=softmax))
    found = emit(path, precision="fp32")
    model = onnx.load(found.folder / "model.onnx")
    assert model.opset_import[0].version == 20
    check_for_parser(model, (10, 0))
    canonical = outputs_of(path, found.folder)
    np.testing.assert_allclose(np.fromfile(found.folder / "logits.bin", np.float32), canonical.ravel(), atol=1e-5)
    assert sqnr_db(canonical, outputs_of(found.folder / "model.onnx", found.folder)) > 60
    half = emit(path, "11.1")
    assert half.record["precision"] == "fp16"
    least = half.record["min_sqnr_db"]
    assert sqnr_db(canonical, outputs_of(half.folder / "model.onnx", half.folder)) >= least


def test_int4_needs_a_parser_of_opset_21(tmp_path: Path) -> None:
    path = write(tmp_path, exported("vit", "w4a4", softmax="log2"))
    with pytest.raises(BadInput, match=r"TensorRT 10\.3 would not parse the graph: opset 21, and it reads up to 20"):
        emit(path, "10.3", compute="fp16")
    assert not (tmp_path / "model.tensorrt-10.3").exists()
    found = emit(path, "10.6", compute="fp16")
    model = onnx.load(found.folder / "model.onnx")
    assert model.opset_import[0].version == found.record["opset"] == 21
    assert onnx.TensorProto.INT4 in {tensor.data_type for tensor in model.graph.initializer}


def test_a_wrong_pass_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = emitting.lower

    def wrong(model: onnx.ModelProto, passes: Any) -> Any:
        lowered, reports = lower(model, passes)
        scale = next(one for one in lowered.graph.initializer if one.name == "weight_scale")
        values = onnx.numpy_helper.to_array(scale) * 1.1
        scale.CopyFrom(onnx.numpy_helper.from_array(values, scale.name))
        return lowered, reports

    path = write(tmp_path, tiny())
    monkeypatch.setattr(emitting, "lower", wrong)
    with pytest.raises(BuildFailed, match="changed what it computes"):
        emit(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_deepstream_gives_pixels_and_gets_probabilities(tmp_path: Path, precision: str) -> None:
    model = tiny()
    path = write(
        tmp_path, model, preprocess=PREPROCESS.to_json(), classes=json.dumps([f"c{i}" for i in range(CLASSES)])
    )
    found = emit(path, deepstream=True, precision=precision)
    assert found.folder.name == "model.tensorrt-10.3-deepstream"
    made = onnx.load(found.folder / "model.onnx")
    assert [value.name for value in made.graph.output] == ["probabilities"]
    check_for_parser(made, (10, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, SIDE, SIDE)).astype(np.float32)
    pixels.tofile(found.folder / "images.bin")
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (PREPROCESS.mean, PREPROCESS.std))
    expected = softmax(oracle(model, (pixels / np.float32(255) - mean) / std))
    computed = outputs_of(found.folder / "model.onnx", found.folder)
    np.testing.assert_allclose(computed.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(computed, expected, atol=1e-5 if precision == "fp32" else 2e-2)


def test_the_reference_of_deepstream_is_in_pixels(tmp_path: Path) -> None:
    path = write(tmp_path, tiny(), preprocess=PREPROCESS.to_json())
    found = emit(path, deepstream=True, precision="fp32")
    assert "--loadInputs=images:images.bin" in found.commands["run"]
    expected = np.fromfile(found.folder / "probabilities.bin", np.float32).reshape(6, CLASSES)
    assert sqnr_db(expected, outputs_of(found.folder / "model.onnx", found.folder)) > found.record["min_sqnr_db"]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_model_of_bytes_is_given_them_as_floats(tmp_path: Path, layout: str) -> None:
    form = ImageInput((SIDE, SIDE), "uint8", layout)
    model, _ = run_passes(tiny(), pixel_passes(form, PREPROCESS.to_json()))
    (recorded,) = names.input_entry(form).values()
    path = write(tmp_path, model, preprocess=PREPROCESS.to_json(), input=recorded)
    plain, found = emit(path), emit(path, deepstream=True, precision="fp32")
    shape = "x".join(map(str, form.shape))
    assert f"--optShapes=images:8x{shape}" in plain.commands["build"]
    images = np.fromfile(plain.folder / "images.bin", np.uint8)
    np.testing.assert_array_equal(images, np.fromfile(found.folder / "images.bin", np.float32))
    assert onnx.load(plain.folder / "model.onnx").graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    made = onnx.load(found.folder / "model.onnx")
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    check_for_parser(made, (10, 3))
    expected = np.fromfile(found.folder / "probabilities.bin", np.float32).reshape(6, CLASSES)
    np.testing.assert_allclose(outputs_of(found.folder / "model.onnx", found.folder), expected, atol=1e-5)
    order = "network-input-order=" + ("1" if layout == "nhwc" else "0")
    assert order in (found.folder / "nvinfer.txt").read_text().splitlines()


def test_the_configuration_of_nvinfer(tmp_path: Path) -> None:
    path = write(tmp_path, tiny(), preprocess=PREPROCESS.to_json(), classes='["a;b", "c\\nd", "e"]')
    found = emit(path, deepstream=True, profile=Profile(1, 2, 4))
    parsed = configparser.ConfigParser()
    parsed.read(found.folder / "nvinfer.txt")
    keys = dict(parsed["property"])
    assert {key: keys[key] for key in ("network-type", "process-mode", "network-mode", "model-color-format")} == {
        **{"network-type": "1", "process-mode": "1", "network-mode": "1", "model-color-format": "0"}
    }
    assert (keys["model-engine-file"], keys["labelfile-path"], keys["batch-size"]) == ("model.plan", "labels.txt", "4")
    assert float(keys["net-scale-factor"]) == 1
    assert (keys["network-input-order"], keys["output-blob-names"]) == ("0", "probabilities")
    assert not {"offsets", "onnx-file", "int8-calib-file"} & set(keys)
    assert (found.folder / "labels.txt").read_text() == "a,b;c d;e\n" == labels(["a;b", "c\nd", "e"])
    assert "model.plan" in found.commands["build"]


def test_without_names_there_is_no_label_file(tmp_path: Path) -> None:
    found = emit(write(tmp_path, tiny(), preprocess=PREPROCESS.to_json()), deepstream=True)
    assert "labelfile-path" not in (found.folder / "nvinfer.txt").read_text()
    assert not (found.folder / "labels.txt").exists()


def test_the_limit_of_probabilities_is_what_noise_on_logits_leaves() -> None:
    logits = np.random.default_rng(0).normal(0, 4, size=(6, 10)).astype(np.float32)
    low, high = (probabilities_sqnr_db(logits, decibel) for decibel in (10.0, 30.0))
    assert 0 < low < 10
    assert low < high <= 30
    decided = 50 * np.eye(6, 10, dtype=np.float32)
    assert probabilities_sqnr_db(decided, 30.0) == 30  # no noise of that power moves them, and no more is asked


@pytest.mark.parametrize(
    ("version", "settings", "deepstream", "words"),
    [
        ("8.6", {}, False, "--tensorrt-version 8.6: known are those from 10.0 to 11.x"),
        ("10.3", {"compute": "fp8"}, False, "--compute fp8: --emit-onnx writes int8 or fp16"),
        ("10.3", {"precision": "bf16"}, False, "precision 'bf16'"),
        ("10.3", {}, True, "says no preprocessing"),
    ],
)
def test_what_cannot_be_emitted(
    tmp_path: Path, version: str, settings: dict[str, Any], deepstream: bool, words: str
) -> None:
    path = write(tmp_path, tiny(), preprocess="")
    with pytest.raises(BadInput, match=words):
        plan_emit(path, version, settings=BuildSettings(**settings), deepstream=deepstream)


def test_features_are_no_classes(tmp_path: Path) -> None:
    path = write(tmp_path, tiny(), preprocess=PREPROCESS.to_json(), task="features")
    with pytest.raises(BadInput, match="gives no logits alone"):
        plan_emit(path, "10.3", deepstream=True)


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, tiny())
    (tmp_path / "model.tensorrt-10.3").mkdir()
    (tmp_path / "model.tensorrt-10.3" / "build.sh").write_text("mine")
    with pytest.raises(BadInput, match=r"build\.sh: is there, and not of repq-deploy"):
        plan_emit(path, "10.3")
    plan_emit(path, "10.3", settings=BuildSettings(force=True))
