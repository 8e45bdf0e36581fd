"""Preprocessing against Pillow and NumPy, and its record."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform

from repq_deploy.calib_data import Preprocess
from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput
from repq_deploy.models.preprocessing import preprocess_of

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def preprocess(**changes: object) -> Preprocess:
    fields = {"size": (16, 16), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic", **IMAGENET}
    return Preprocess(**(fields | changes))


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def normalized(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image, dtype=np.float64) / 255
    return ((pixels - IMAGENET["mean"]) / IMAGENET["std"]).transpose(2, 0, 1)


def test_whole_image_resized_bicubic():
    image = picture(32, 32)
    result = preprocess()(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, normalized(image.resize((16, 16), Image.Resampling.BICUBIC)), atol=1e-6)


def test_center_crop_of_an_oblong_image():
    image = picture(40, 60)
    resized = image.resize((30, 20), Image.Resampling.BILINEAR)  # 16 / 0.8 = 20 on the shorter side
    expected = normalized(resized.crop((7, 2, 23, 18)))
    np.testing.assert_allclose(preprocess(crop_pct=0.8, interpolation="bilinear")(image), expected, atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_every_bit_is_that_of_timms_transform(crop_mode, interpolation):
    for size, crop_pct in itertools.product([(16, 16), (14, 22), (31, 9)], [1.0, 0.95, 0.875, 0.7]):
        ours = preprocess(size=size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
        theirs = create_transform((3, *size), interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode)
        for height, width in ((16, 16), (1, 7), (33, 20), (61, 90), (12, 12), (200, 31)):
            image = picture(height, width)
            expected = theirs(image).numpy()
            assert np.array_equal(ours(image), expected), (size, crop_pct, height, width)


def test_model_with_another_image_size():
    model = timm.create_model("vit_small_patch14_dinov2", img_size=112, depth=1, num_classes=10)
    assert preprocess_of(model) == preprocess(size=(112, 112))


def test_model_at_timms_own_size():
    model = timm.create_model("deit_tiny_patch16_224", depth=1)
    assert preprocess_of(model) == preprocess(size=(224, 224), crop_pct=0.9)


def test_json_round_trip_is_stable():
    text = preprocess().to_json()
    assert Preprocess.from_json(text) == preprocess()
    assert Preprocess.from_json(text).to_json() == text
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable"),
        ("[]", "found keys"),
        ("{}", "found keys"),
        (preprocess().to_json().replace("bicubic", "cubist"), "interpolation is cubist"),
        (preprocess().to_json().replace("[16, 16]", "16"), "not readable"),
        (preprocess().to_json().replace("0.229", "0"), "std is"),
    ],
)
def test_bad_record(text: str, message: str):
    with pytest.raises(BadInput, match=message):
        Preprocess.from_json(text)


@pytest.mark.parametrize("changes", [{"size": (0, 16)}, {"crop_pct": 1.5}, {"crop_mode": "left"}, {"mean": (0.5,)}])
def test_bad_value(changes: dict[str, object]):
    with pytest.raises(BadInput, match=next(iter(changes))):
        preprocess(**changes)


def test_an_input_of_bytes_gets_what_is_normalized_otherwise():
    image, ours = picture(33, 20), preprocess(crop_pct=0.9)
    pixels = ours.for_input(image, ImageInput((16, 16), "uint8", "nhwc"))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (16, 16, 3))
    planes = ours.for_input(image, ImageInput((16, 16), "uint8", "nchw"))
    np.testing.assert_array_equal(planes, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(ours.normalized(pixels[None])[0], ours(image))
    np.testing.assert_array_equal(ours.for_input(image, ImageInput((16, 16))), ours(image))
