"""What images a model takes: shapes, layouts, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from repq_deploy.errors import BadInput
from repq_deploy.export import names
from repq_deploy.inputs import ImageInput


@pytest.mark.parametrize(
    ("form", "shape", "words"),
    [
        (ImageInput((4, 6)), (3, 4, 6), "float32 [N, 3, 4, 6]"),
        (ImageInput((4, 6), "uint8", "nhwc"), (4, 6, 3), "uint8 [N, 4, 6, 3]"),
        (ImageInput((4, 6), "uint8", "nchw"), (3, 4, 6), "uint8 [N, 3, 4, 6]"),
    ],
)
def test_a_form_comes_back_from_its_record(form, shape, words):
    assert (form.shape, str(form), str(form.numpy_dtype)) == (shape, words, form.dtype)
    assert names.recorded_input(names.input_entry(form), shape) == form


def test_pixels_are_put_into_the_layout():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    assert ImageInput((4, 6), "uint8", "nhwc").of_pixels(pixels) is pixels
    planes = ImageInput((4, 6), "uint8", "nchw").of_pixels(pixels)
    assert planes.flags.c_contiguous
    np.testing.assert_array_equal(planes, pixels.transpose(0, 3, 1, 2))


def test_what_no_model_takes():
    for arguments in (("int8", "nchw"), ("uint8", "hwcn"), ("float32", "nhwc")):
        with pytest.raises(BadInput, match="expected"):
            ImageInput((4, 6), *arguments)
    for metadata, shape in (
        ({}, (4, 6, 3)),
        ({}, (3, 4)),
        (names.input_entry(ImageInput((4, 6), "uint8", "nhwc")), (3, 4, 6)),
        ({names.INPUT_FORM: '{"type": "uint8"}'}, (3, 4, 6)),
        ({names.INPUT_FORM: "[]"}, (3, 4, 6)),
    ):
        with pytest.raises(ValueError, match="expected"):
            names.recorded_input(metadata, shape)
