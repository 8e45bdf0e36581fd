"""Exports that take bytes: the same codes from an image as from what its preprocessing makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import repq_deploy
from repq_deploy.calib_data import Preprocess
from repq_deploy.engines.source import read_source
from repq_deploy.errors import BadInput
from repq_deploy.export import names
from repq_deploy.export.canonical import write_canonical
from repq_deploy.export.float_model import float_onnx
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.inputs import ImageInput
from repq_deploy.models.families import find_family
from repq_deploy.models.loading import FloatModel
from repq_deploy.models.taps import Features, tapped
from tests.conftest import SPECS, float_model, images_for
from tests.export.test_whole import Detector

PREPROCESS = Preprocess((32, 32), 1.0, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FAST = {"bits": "w8a8", "method": "minmax"}
FORM = ImageInput((32, 32), "uint8", "nhwc")


def run(file: Path, pixels: np.ndarray) -> list[np.ndarray]:
    return reference_session(onnx.load(file)).run(None, {"images": pixels})


def test_a_quantized_model_takes_bytes(tmp_path):
    model = FloatModel(float_model("vit"), SPECS["vit"], PREPROCESS)
    images = images_for("vit")
    quantized = repq_deploy.quantize(model, images, **FAST)
    file = tmp_path / "m.onnx"
    written = repq_deploy.export_onnx(quantized, file, images, input="uint8")
    assert written.agreement.failing == ()
    assert written.agreement.sites[0].equal == 1.0  # of the images: nothing but the normalization stands before it
    assert read_source(file).input == FORM
    pixels = FORM.random(3)
    (logits,) = run(file, pixels)
    with torch.no_grad():
        expected = quantized(torch.from_numpy(PREPROCESS.normalized(pixels))).numpy()
    assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < 0.02
    for options, message in (
        ({"input": "int8"}, "images of type 'int8': expected one of float32, uint8"),
        ({"input_layout": "nhwc"}, "float32 images in the layout nhwc"),
        ({"input": "uint8", "input_layout": "chw"}, "images of layout 'chw'"),
    ):
        with pytest.raises(BadInput, match=message):
            repq_deploy.export_onnx(quantized, file, images, **options)


def test_a_float_model_and_its_features_take_bytes(tmp_path):
    network = float_model("vit")
    features = tapped(network, find_family(network), Features((0, 1), layout="maps"))
    pixels = FORM.random(3)
    with torch.no_grad():
        expected = features(torch.from_numpy(PREPROCESS.normalized(pixels)))
    model = float_onnx(features, (3, 32, 32), form=FORM, preprocess=PREPROCESS.to_json())
    write_canonical(model, tmp_path / "f.onnx")
    assert read_source(tmp_path / "f.onnx").input == FORM
    for one, other in zip(run(tmp_path / "f.onnx", pixels), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-3)


def test_a_module_of_ones_own_needs_to_say_its_preprocessing(tmp_path):
    quantized = repq_deploy.quantize(float_model("vit"), images_for("vit"), **FAST)
    with pytest.raises(BadInput, match="give quantize a Preprocess, or take float32"):
        repq_deploy.export_onnx(quantized, tmp_path / "m.onnx", images_for("vit"), input="uint8")
    said = repq_deploy.quantize(float_model("vit"), images_for("vit"), preprocess=PREPROCESS, **FAST)
    assert said.preprocess_json == PREPROCESS.to_json()


@pytest.mark.slow
@torch.no_grad()
def test_a_whole_model_around_a_part_takes_bytes(tmp_path):
    detector, images = Detector("features"), images_for("vit")
    quantized = repq_deploy.quantize(detector, images, part="*.encoder", preprocess=PREPROCESS, **FAST)
    file = tmp_path / "m.onnx"
    options = {"whole": detector, "part": "*.encoder", "input": "uint8", "input_layout": "nchw"}
    assert repq_deploy.export_onnx(quantized, file, images, **options).agreement.failing == ()
    source = read_source(file)
    assert (source.input.layout, source.metadata[names.PREPROCESS]) == ("nchw", PREPROCESS.to_json())
    pixels = FORM.random(3)
    expected = detector(torch.from_numpy(PREPROCESS.normalized(pixels)))
    found = run(file, source.input.of_pixels(pixels))
    assert np.linalg.norm(found[0] - expected["boxes"].numpy()) / expected["boxes"].norm() < 0.05
