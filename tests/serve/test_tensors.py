"""Images of a request: bytes without a copy, numbers of JSON, and each in the datatype that the engine takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.manifest import read_manifest
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.tensors import Tensor, TensorMetadata, images_of, input_metadata, output_metadata

PIXELS = TensorMetadata("images", "UINT8", (-1, 2, 2, 3))


def pixels(data: object, shape: tuple[int, ...] = (1, 2, 2, 3), datatype: str = "UINT8") -> np.ndarray:
    return images_of([Tensor("images", datatype, shape, data)], PIXELS, 4)  # type: ignore[arg-type]


def test_bytes_are_the_images_themselves():
    data = bytes(range(24))
    found = pixels(memoryview(data), (2, 2, 2, 3))
    assert found.dtype == np.uint8 and found.shape == (2, 2, 2, 3) and found.ravel().tolist() == [*range(24)]
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


def test_numbers_of_json_flat_or_nested():
    flat = [0, 255, *range(10)]
    nested = np.array(flat).reshape(1, 2, 2, 3).tolist()
    assert pixels(flat).ravel().tolist() == pixels(nested).ravel().tolist() == flat
    assert pixels(flat).dtype == np.uint8


@pytest.mark.parametrize("data", [[-1] * 12, [256] * 12, [0.5] * 12, [True] * 12, [10**30] * 12, [[1] * 12], [1] * 11])
def test_numbers_that_are_no_bytes(data):
    with pytest.raises(Refused, match=r"no numbers of UINT8 in shape \[1, 2, 2, 3\]") as refused:
        pixels(data)
    assert refused.value.reason is Reason.INVALID


def test_floats_for_an_engine_of_pixels():
    with pytest.raises(Refused, match="datatype 'FP32', expected UINT8"):
        pixels(bytes(48), datatype="FP32")


def test_what_an_engine_takes_and_gives(engine: Path):
    manifest = read_manifest(engine)
    assert input_metadata(manifest) == TensorMetadata("images", "FP32", (-1, 3, 8, 8))
    assert output_metadata(manifest.named) == (TensorMetadata("logits", "FP32", (-1, 10)),)
    entries = {**manifest.metadata, "repq.input": '{"dtype": "uint8", "layout": "nhwc"}'}
    of_pixels = dataclasses.replace(manifest, metadata=entries, image_shape=(8, 8, 3))
    assert input_metadata(of_pixels) == TensorMetadata("images", "UINT8", (-1, 8, 8, 3))
