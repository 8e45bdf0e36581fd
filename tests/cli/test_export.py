"""``repq-export`` in process: what it writes, and one clear line with the right exit code for every bad input."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from repq_deploy.api import load_images
from repq_deploy.calib_data.demo import DEMO_WEIGHTS
from repq_deploy.cli import export
from repq_deploy.errors import BadInput
from repq_deploy.export import prove_export as agreement
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.models.loading import load_model
from repq_deploy.quant import saved as quantized


@pytest.fixture
def run(call):
    def _run(*arguments: object):
        return call(export.main, *arguments)

    return _run


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def test_it_writes_a_proven_graph_and_the_torch_model(run, tmp_path):
    output, saved = tmp_path / "demo.onnx", tmp_path / "demo.safetensors"
    done = run("demo", "--bits", "w4a4", "-o", output, "--save-quantized", saved, "--num-calib", 16, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["codes_equal_worst"] >= 0.999
    assert result["bytes"] == output.stat().st_size
    assert result["calibration_images"] == 16
    model = onnx.load(output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["repq.bits"] == "w4a4"
    assert metadata["repq.preprocess"] == quantized.load(saved).preprocess_json
    images = torch.randn(2, 3, 28, 28)
    (logits,) = reference_session(model).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = quantized.load(saved)(images).numpy()
    assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < 0.3


@pytest.mark.slow
def test_a_calibration_is_kept_until_its_file_is_written(run, tmp_path, monkeypatch):
    """So a full disk does not cost the hours before it."""
    work, options = tmp_path / "work", ("demo", "--bits", "w4a4", "--method", "minmax", "--num-calib", 4)
    with monkeypatch.context() as patched:
        patched.setattr("repq_deploy.api.write_canonical", mock.Mock(side_effect=BadInput("disk is full")))
        failed = run(*options, "-o", tmp_path / "m.onnx", "--work-dir", work)
    assert failed.code == 2
    assert "disk is full" in failed.err
    assert len(list(work.iterdir())) == 1
    monkeypatch.setattr("repq_deploy.steps.Step.__call__", mock.Mock(side_effect=AssertionError("calibrated again")))
    assert run(*options, "-o", tmp_path / "m.onnx", "--work-dir", work).code == 0
    assert not list(work.iterdir())


def test_people_read_what_was_done_and_what_is_next(run, tmp_path):
    output = tmp_path / "demo.onnx"
    done = run("demo", "--bits", "w6a6", "--method", "minmax", "-o", output, "--num-calib", 8)
    assert done.code == 0
    assert "codes equal in PyTorch and ONNX Runtime" in done.out
    assert "run on the INT8 grid" in done.out
    assert f"next: repq-build-engine {output}" in done.out


def test_dry_run_writes_nothing(run, tmp_path):
    done = run("demo", "--bits", "w4a4,blocks.1.*=w8a8", "-o", tmp_path / "demo.onnx", "--dry-run", "--json")
    assert done.code == 0
    sites = json.loads(done.out)["sites"]
    assert sites["blocks.0.mlp.fc1"] == "w4a4"
    assert sites["blocks.1.mlp.fc1"] == "w8a8"
    assert sites["head"] == "w8a8"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_random_weights_are_said_loudly(run, tmp_path):
    arguments = ("vit_t", "--no-pretrained", "--img-size", 32, "--num-calib", 2, "-o", tmp_path / "m.onnx")
    done = run(*arguments)
    assert done.code == 0
    assert "RANDOM WEIGHTS" in done.err


def test_too_little_agreement_writes_nothing(run, tmp_path, monkeypatch):
    wrong = agreement.SiteAgreement("blocks.0.attn.q", 1000, 0.5, 500, 16, 4)
    found = agreement.ExportAgreement((wrong,), 1.0, 1.0, 0.0)
    monkeypatch.setattr("repq_deploy.api.compare_export", lambda *_, given: found)
    done = run("demo", "-o", tmp_path / "demo.onnx", "--num-calib", 4)
    assert done.code == 1
    assert "blocks.0.attn.q: 500 of its 1000 codes in ONNX Runtime differ" in done.err
    assert list(tmp_path.iterdir()) == []


BAD = [
    (("demo", "--bits", "w9a4"), "weight width 9 is outside 2 to 8"),
    (("demo", "--bits", "w4a4,haed=w8a8"), "'haed' matches no site"),
    (("demo", "--method", "repk"), "expected one of best, best-high, dopq, erq"),
    (("demo", "--float", "--bits", "w4a4"), "--bits: has no effect beside --float"),
    (("demo", "--float", "--save-quantized", "q.safetensors"), "--save-quantized: has no effect beside --float"),
    (("demo", "--dry-run", "--calib-data", "no-such-folder"), "no-such-folder: no such file"),
    (("demo", "--recipe", "none.yaml"), "none.yaml: no such file"),
    (("demo", "--preset", "fast"), "expected one of deploy, paper"),
    (("diet_s",), "deit_s"),
    (("resnet18", "--no-pretrained"), "model family ResNet is not supported"),
    (("deit_t", "--checkpoint", "none.safetensors"), "none.safetensors: no such file"),
    (("demo", "--calib-data", "no-such-folder"), "no-such-folder"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gets_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "-o", "m.onnx")
    assert done.code == 2
    assert message in done.err
    assert done.err.splitlines()[-1].startswith("repq-export: error: ")
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [("missing/m.onnx", "folder missing does not exist"), (".", "is a folder; name a file")],
)
def test_an_output_that_cannot_be_written_is_refused_first(run, tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    done = run("demo", "-o", output)
    assert done.code == 2
    assert message in done.err


def test_a_checkpoint_of_other_classes_is_refused(run, tmp_path):
    done = run("vit_tiny_patch16_224", "--checkpoint", DEMO_WEIGHTS, "--num-classes", 1000, "-o", tmp_path / "m.onnx")
    assert done.code == 2
    assert "10 classes" in done.err
    assert "--num-classes" in done.err


def test_weights_that_are_not_numbers_are_refused(run, tmp_path):
    tensors = load_file(DEMO_WEIGHTS)
    tensors["blocks.3.mlp.fc1.weight"][5, 7] = float("nan")
    checkpoint = tmp_path / "nan.safetensors"
    save_file(tensors, checkpoint)
    done = run("vit_tiny_patch16_224", "--checkpoint", checkpoint, "-o", tmp_path / "m.onnx")
    assert done.code == 2
    assert "blocks.3.mlp.fc1.weight" in done.err
    assert not (tmp_path / "m.onnx").exists()


def test_too_few_images_are_refused(run, tmp_path):
    folder = write_images(tmp_path / "images", 3)
    done = run("demo", "--calib-data", folder, "--num-calib", 8, "-o", tmp_path / "m.onnx")
    assert done.code == 2
    assert "3" in done.err
    assert "8" in done.err


def test_corrupt_images_are_named_then_refused(run, tmp_path):
    folder = write_images(tmp_path / "images", 12)
    (folder / "4.png").write_bytes(b"not a picture")
    done = run("demo", "--calib-data", folder, "--num-calib", 10, "-o", tmp_path / "m.onnx")
    assert done.code == 0, done.err
    for index in range(8):
        (folder / f"{index}.png").write_bytes(b"not a picture")
    done = run("demo", "--calib-data", folder, "--num-calib", 4, "-o", tmp_path / "n.onnx")
    assert done.code == 2
    assert ".png" in done.err
    assert not (tmp_path / "n.onnx").exists()


def test_a_recipe_of_steps_is_a_method_and_options_go_before_it(run, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "bits: w4a4\nmethod: mine\nsoftmax: tan\nimages: 6\nsteps:\n"
        "  - ranges: {weights: false}\n  - fold\n  - weights: {ridge: 0.5, rounding: gptq}\n"
    )
    output = tmp_path / "demo.onnx"
    done = run("demo", "--recipe", recipe, "--bits", "w5a5", "-o", output, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["bits"], result["method"], result["softmax"]) == ("w5a5", "mine", "tan")
    assert result["calibration_images"] == 6
    nodes = {node.op_type for node in onnx.load(output).graph.node}
    assert {"AtanQuantizeLinear", "TableDequantizeLinear"} <= nodes


def test_a_recipe_may_change_the_softmax_of_a_method(run, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("bits: w4a4\nmethod: repq\nsoftmax: log2\n")
    done = run("demo", "--recipe", recipe, "--num-calib", 8, "-o", tmp_path / "demo.onnx", "--json")
    assert done.code == 0, done.err
    assert (json.loads(done.out)["method"], json.loads(done.out)["softmax"]) == ("repq", "log2")
    # Of another method than its own, neither the softmax nor the images are taken.
    recipe.write_text("bits: w4a4\nmethod: minmax\nsoftmax: log2\nimages: 3\n")
    options = ("--method", "repq", "-o", tmp_path / "demo.onnx", "--json")
    result = json.loads(run("demo", "--recipe", recipe, *options).out)
    assert (result["softmax"], result["calibration_images"]) == ("log_sqrt2", 32)


@pytest.mark.parametrize(
    "step",
    [
        "- gptqq",
        "- weights: {rigde: 1}",
        "- [fold]",
        "3",
        "- ranges: {post_norm: chanel}",
        "- weights: {rounding: gtpq}",
        "- weights: {images: 0}",
        "- weights: {images: .inf}",
        "- weights: {images: 4.0}",
        "- ranges: {images: '4'}",
        "- ranges: {weights: 1}",
        "- reconstruct: {drop: -1}",
    ],
)
def test_a_recipe_with_a_wrong_step_is_refused(run, tmp_path, step):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"steps:\n  {step}\n")
    done = run("demo", "--recipe", recipe, "-o", tmp_path / "demo.onnx")
    assert done.code == 2
    assert "step" in done.err
    assert not (tmp_path / "demo.onnx").exists()


@pytest.mark.parametrize("option", ["--checkpoint", "--recipe", "--calib-data"])
def test_an_output_that_is_also_an_input_is_refused_before_any_work(run, tmp_path, option):
    kept = tmp_path / "kept"
    kept.write_bytes(b"mine")
    arguments = ("--float",) if option == "--checkpoint" else ()
    done = run("demo", *arguments, option, kept, "-o", kept)
    assert done.code == 2
    assert f"is also {option}" in done.err
    assert "which would be lost" in done.err
    assert kept.read_bytes() == b"mine"


@pytest.mark.slow
def test_features_are_written_with_their_names(run, tmp_path):
    quantized_file, float_file = tmp_path / "f.onnx", tmp_path / "float.onnx"
    options = ("--features", "1,3", "--feature-layout", "maps", "--feature-norm")
    done = run("demo", "--bits", "w8a8", "--method", "minmax", "--num-calib", 8, *options, "-o", quantized_file)
    assert done.code == 0, done.err
    assert run("demo", "--float", *options, "-o", float_file).code == 0
    images = load_images("demo:calib", load_model("demo"), count=2).pixels
    found, expected = (
        reference_session(onnx.load(file)).run(None, {"images": images}) for file in (quantized_file, float_file)
    )
    assert [one.shape for one in found] == [(2, 96, 7, 7)] * 2
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) / np.linalg.norm(other) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--features", "3,1"), "expected indexes of blocks, in rising order"),
        (("--features", "6"), "features 6: the model has the blocks 0 to 5"),
        (("--features", "two"), "--features 'two': expected indexes of blocks such as 2,5,8,11"),
        (("--features", "1", "--feature-layout", "rows"), "--feature-layout 'rows': expected tokens or maps"),
        (("--feature-norm",), "give --features 2,5,8,11"),
    ],
)
def test_features_that_cannot_be_given_are_one_line(run, tmp_path, options, message):
    done = run("demo", *options, "-o", tmp_path / "x.onnx")
    assert done.code == 2
    assert message in done.err


def test_images_of_bytes_are_an_option_and_a_layout_belongs_to_them(run, tmp_path):
    output = tmp_path / "m.onnx"
    done = run("demo", "-o", output, "--input", "uint8", "--input-layout", "nchw", "--dry-run", "--json")
    assert json.loads(done.out)["input"] == "uint8 nchw"
    assert "images in uint8 nhwc" in run("demo", "-o", output, "--input", "uint8", "--dry-run").out
    for options, message in (
        (("--input-layout", "nhwc"), "belongs to --input uint8"),
        (("--input", "int8"), "images of type 'int8': expected one of float32, uint8"),
        (("--input", "uint8", "--input-layout", "chw"), "images of layout 'chw'"),
    ):
        done = run("demo", "-o", output, "--dry-run", *options)
        assert (done.code, message in done.err) == (2, True), done.err
