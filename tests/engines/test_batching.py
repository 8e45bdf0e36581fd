"""Any number of images goes through an engine of limited batch size, in order."""

from __future__ import annotations

import numpy as np
import pytest

from repq_deploy.engines.batching import BatchedRunner, Profile
from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput


@pytest.mark.parametrize(
    ("count", "profile", "batches"),
    [
        (5, Profile(1, 2, 2), [2, 2, 1]),
        (3, Profile(1, 1, 8), [3]),
        (1, Profile(4, 4, 4), [4]),
        (6, Profile(4, 4, 4), [4, 4]),
    ],
)
def test_chunks(count: int, profile: Profile, batches: list[int]) -> None:
    seen = []

    def run(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.sum(axis=(1, 2, 3))[:, None]

    images = np.arange(count * 12, dtype=np.float32).reshape(count, 3, 2, 2)
    logits = BatchedRunner(run, profile, ImageInput((2, 2)))(images)
    assert seen == batches
    np.testing.assert_array_equal(logits, images.sum(axis=(1, 2, 3))[:, None])


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (0, 3, 2, 2), (3, 2, 2)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    runner = BatchedRunner(lambda images: images, Profile(), ImageInput((2, 2)))
    with pytest.raises(BadInput, match=r"this engine takes float32 \[N, 3, 2, 2\]"):
        runner(np.zeros(shape, np.float32))


def test_bytes_and_numbers_are_not_taken_for_each_other() -> None:
    pixels = np.full((2, 2, 2, 3), 200, np.uint8)
    takes_pixels = BatchedRunner(lambda images: images, Profile(), ImageInput((2, 2), "uint8", "nhwc"))
    assert takes_pixels(pixels).dtype == np.uint8
    takes_numbers = BatchedRunner(lambda images: images, Profile(), ImageInput((2, 2)))
    assert takes_numbers(np.zeros((1, 3, 2, 2), np.float64)).dtype == np.float32
    for runner, images in ((takes_pixels, pixels / 255), (takes_numbers, pixels.transpose(0, 3, 1, 2))):
        with pytest.raises(BadInput, match=rf"images {images.dtype} .*: this engine takes {runner.images.dtype}"):
            runner(images)


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 3), (1, 5, 4)])
def test_batch_sizes_out_of_order_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(BadInput, match="expected 1 <= min <= opt <= max"):
        Profile(*sizes)
