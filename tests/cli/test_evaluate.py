"""``repq-eval`` in process: each kind of target, its figures against NumPy, and its exit codes and messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from repq_deploy.bits import BitWidths
from repq_deploy.calib_data import Preprocess, load_sample, open_images
from repq_deploy.calibrate import calibrate
from repq_deploy.cli import build_engine, evaluate, export, targets
from repq_deploy.inputs import ImageInput
from repq_deploy.quant import saved as quantized
from repq_deploy.quant.model import Provenance
from tests.conftest import SPECS, float_model, images_for

PREPROCESS = Preprocess((8, 8), 1.0, "center", "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLASSES = 7


@pytest.fixture
def run(call):
    def _run(*arguments: object):
        return call(evaluate.main, *arguments)

    return _run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty labelled images of noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=rng.integers(0, CLASSES, 40))
    return tmp_path / "data.npz"


def weights() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((3 * 64, CLASSES)).astype(np.float32)


def write_onnx(path: Path, *, preprocess: str) -> Path:
    """A linear classifier of pixels in the form that ``repq-export`` writes."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(weights(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"repq.model": "linear", "repq.preprocess": preprocess})
    onnx.save(model, path)
    return path


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return write_onnx(tmp_path / "linear.onnx", preprocess=PREPROCESS.to_json())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny quantized ViT of five classes, as ``repq-export --save-quantized`` leaves it."""
    preprocess = Preprocess((32, 32), 1.0, "center", "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to_json()
    model = calibrate(
        float_model("vit"),
        SPECS["vit"],
        images_for("vit"),
        bits=BitWidths.parse("w8a8"),
        origin=Provenance(preprocess=preprocess),
    )
    quantized.save(model, tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


def test_canonical_onnx_equals_numpy(run, linear: Path, data: Path):
    result = json.loads(run(linear, "--data", data, "--json", "--batch-size", 16).out)
    logits = load_sample(data, PREPROCESS).pixels.reshape(40, -1) @ weights()
    labels = np.load(data)["labels"]
    ranked = np.argsort(-logits, axis=1)
    assert result["images"] == 40
    assert result["top1"] == pytest.approx(100 * (ranked[:, 0] == labels).mean())
    assert result["top5"] == pytest.approx(100 * (ranked[:, :5] == labels[:, None]).any(axis=1).mean())
    assert result["preprocess"]["size"] == [8, 8]


def test_a_file_of_another_tool_takes_our_preprocessing(run, linear: Path, data: Path, tmp_path: Path):
    model = onnx.load(linear)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    options = ("--data", data, "--json", "--batch-size", 16)
    theirs = json.loads(run(tmp_path / "theirs.onnx", *options, "--preprocess-from", linear).out)
    ours = json.loads(run(linear, *options).out)
    assert theirs["kind"] == "ONNX (onnxruntime)"
    assert (theirs["top1"], theirs["preprocess"]) == (ours["top1"], ours["preprocess"])
    done = run(tmp_path / "theirs.onnx", *options)
    assert done.code == 2
    assert "--preprocess-from" in done.err
    smaller = write_onnx(tmp_path / "smaller.onnx", preprocess=PREPROCESS.to_json().replace("[8, 8]", "[4, 4]"))
    done = run(tmp_path / "theirs.onnx", *options, "--preprocess-from", smaller)
    assert done.code == 2
    assert "takes images float32 [N, 3, 8, 8]" in done.err


def test_classes_say_which_output_each_folder_is(run, tmp_path: Path):
    """Of a model of seven outputs images of three classes: by a list, and by what the file itself records."""
    rng = np.random.default_rng(5)
    for name in ("n10", "n2", "n7"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                tmp_path / "images" / name / f"{number}.png"
            )
    names = ["n1", "n2", "n3", "n4", "n5", "n7", "n10"]  # not in the order of text
    (tmp_path / "classes.txt").write_text("\n".join(names))
    model = write_onnx(tmp_path / "linear.onnx", preprocess=PREPROCESS.to_json())
    done = run(model, "--data", tmp_path / "images", "--json")
    assert (done.code, "3 class folders" in done.err, "--classes FILE" in done.err) == (2, True, True)
    result = json.loads(run(model, "--data", tmp_path / "images", "--json", "--classes", tmp_path / "classes.txt").out)

    source = open_images(tmp_path / "images")
    logits = load_sample(source, PREPROCESS).pixels.reshape(12, -1) @ weights()
    labels = np.array([names.index(name.split("/")[0]) for name in source.names])
    assert result["top1"] == pytest.approx(100 * (logits.argmax(axis=1) == labels).mean())
    assert result["class_order"] == f"of --classes {tmp_path / 'classes.txt'}"
    recording = onnx.load(model)
    recording.metadata_props.add(key="repq.classes", value=json.dumps(names))
    onnx.save(recording, tmp_path / "recording.onnx")
    recorded = json.loads(run(tmp_path / "recording.onnx", "--data", tmp_path / "images", "--json").out)
    assert recorded["top1"] == result["top1"]
    assert recorded["class_order"] == f"recorded in {tmp_path / 'recording.onnx'}"


def test_text_goes_to_stdout_only(run, linear: Path, data: Path):
    done = run(linear, "--data", data)
    assert done.code == 0
    assert "canonical ONNX (onnxruntime), top-1" in done.out
    assert "40 images" in done.out
    assert done.err == ""


def test_saved_model_equals_torch(run, saved: Path, tmp_path: Path):
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "x.npz", images=rng.integers(0, 256, (6, 32, 32), np.uint8), labels=rng.integers(0, 5, 6))
    result = json.loads(run(saved, "--data", tmp_path / "x.npz", "--json").out)
    model = quantized.load(saved)
    with torch.inference_mode():
        predicted = (
            model(torch.from_numpy(load_sample(tmp_path / "x.npz", _preprocess(model)).pixels)).argmax(1).numpy()
        )
    assert result["kind"] == "quantized model (PyTorch)"
    assert result["top1"] == pytest.approx(100 * (predicted == np.load(tmp_path / "x.npz")["labels"]).mean())
    assert result["top5"] is None


def _preprocess(model: quantized.QuantizedModel) -> Preprocess:
    return Preprocess.from_json(model.preprocess_json)


def _manifest(verdict: str = "PASSED") -> SimpleNamespace:
    return SimpleNamespace(
        metadata={"repq.preprocess": PREPROCESS.to_json()},
        backend="onnxruntime",
        outputs=CLASSES,
        input=ImageInput((8, 8)),
        validation=SimpleNamespace(verdict=verdict, reason="SQNR 3.0 dB is below 25.0 dB"),
    )


def test_an_engine_that_failed_is_measured_and_said(run, data: Path, monkeypatch: pytest.MonkeyPatch):
    runner = lambda images: images.reshape(len(images), -1) @ weights()  # noqa: E731
    monkeypatch.setattr(targets, "open_runner", lambda path: (runner, _manifest("FAILED")))
    done = run("linear.engine", "--data", data, "--json")
    assert json.loads(done.out)["kind"] == "engine (onnxruntime, FAILED)"
    assert "validation ended in FAILED: SQNR 3.0 dB is below 25.0 dB" in done.err


def test_engine_against_its_source(run, linear: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = _manifest()
    runner = lambda images: images.reshape(len(images), -1) @ weights()  # noqa: E731
    monkeypatch.setattr(targets, "open_runner", lambda path: (runner, manifest))
    result = json.loads(run("linear.engine", "--against", linear, "--data", data, "--json").out)
    assert result["kind"] == "engine (onnxruntime)"
    assert result["agreement"] == 100
    assert result["top1_difference"] == 0
    assert result["against"]["top1"] == result["top1"]
    text = run("linear.engine", "--against", linear, "--data", data).out
    assert "same top-1 class: 100.00 % of images; top-1 difference +0.00 points" in text


def test_named_model_with_random_weights(run):
    done = run("demo", "--no-pretrained", "--data", "demo", "--limit", 20, "--json")
    result = json.loads(done.out)
    assert (result["kind"], result["images"], result["data"]) == ("float model (PyTorch)", 20, "demo:test")
    assert "RANDOM WEIGHTS" in done.err


def test_demo_model_is_accurate(run):
    result = json.loads(run("demo", "--data", "demo", "--limit", 300, "--json").out)
    assert result["top1"] > 85


def test_limit_is_a_seeded_choice(run, linear: Path, data: Path):
    first, again, other = (
        json.loads(run(linear, "--data", data, "--limit", 15, "--seed", seed, "--json").out) for seed in (1, 1, 2)
    )
    assert first["images"] == 15
    assert first["top1"] == again["top1"]
    assert first["seed"] != other["seed"]


def test_dry_run_evaluates_nothing(run, linear: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("repq_deploy.evaluation.evaluate", None)
    assert "would evaluate on 40 images" in run(linear, "--data", data, "--dry-run").out
    assert json.loads(run(linear, "--data", data, "--dry-run", "--json").out)["images"] == 40


def test_agreement_on_unlabelled_images(run, linear: Path, tmp_path: Path):
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8))
    result = json.loads(run(linear, "--against", linear, "--data", tmp_path / "x.npz", "--json").out)
    assert (result["agreement"], result["top1"]) == (100, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{linear}", "--data", "{tmp}/none"], "none: no such file"),
        (["none.onnx", "--data", "{data}"], "none.onnx: no such file"),
        (["none.engine", "--data", "{data}"], "none.engine: no such file"),
        (["none.safetensors", "--data", "{data}"], "none.safetensors: no such file"),
        (
            ["{data}", "--data", "{data}"],
            "expected a file ending in .onnx, .xml, .engine, .safetensors, or a model's name",
        ),
        (["deit_q", "--data", "{data}"], "near names: deit_"),
        (["{linear}", "--data", "{data}", "--img-size", "8"], "are for a model's name"),
        (["{linear}", "--data", "demo"], "labels from 0 to 9"),
        (["{linear}", "--data", "{tmp}/unlabelled.npz"], "no labels"),
        (["{tmp}/silent.onnx", "--data", "{data}"], "does not say its preprocessing"),
        (["{linear}"], "--data"),
        (["{linear}", "--data", "{data}", "--limit", "0"], "--limit"),
    ],
)
def test_bad_input(run, linear: Path, data: Path, tmp_path: Path, arguments: list[str], message: str):
    np.savez(tmp_path / "unlabelled.npz", images=np.zeros((3, 8, 8), np.uint8))
    write_onnx(tmp_path / "silent.onnx", preprocess="")
    done = run(*(argument.format(linear=linear, data=data, tmp=tmp_path) for argument in arguments))
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.slow
def test_a_model_without_a_head_is_exported_built_and_compared_by_its_features(call, tmp_path):
    model = ("deit_t", "--no-pretrained", "--num-classes", 0, "--img-size", 32)
    assert call(export.main, *model, "--num-calib", 4, "--method", "repq", "-o", tmp_path / "m.onnx").code == 0
    assert call(export.main, *model, "--float", "-o", tmp_path / "float.onnx").code == 0
    built = call(build_engine.main, tmp_path / "m.onnx", "--backend", "onnxruntime", "--json")
    assert built.code == 0, built.err
    validation = json.loads(built.out)["engines"][0]["manifest"]["validation"]
    assert (validation["verdict"], validation["figures"]["agreement"]) == ("PASSED", None)
    engine = tmp_path / "m.onnxruntime.engine"
    alone = call(evaluate.main, engine, "--data", "demo")
    assert (alone.code, "gives features, which labels cannot score" in alone.err) == (2, True)
    both = call(evaluate.main, engine, "--data", "demo", "--against", tmp_path / "float.onnx", "--limit", 16)
    assert both.code == 0, both.err
    assert float(re.search(r"mean cosine of the features: (\S+) %", both.out)[1]) > 95
