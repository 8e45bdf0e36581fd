"""The seeded choice, the stream, and what unreadable images do to both."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repq_deploy.calib_data import ImageSource, Preprocess, iterate_batches, load_sample, open_images
from repq_deploy.errors import BadInput

PREPROCESS = Preprocess((4, 4), 1.0, "center", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images in two classes; every pixel of image i is i."""
    for index in range(20):
        path = tmp_path / "ab"[index // 10] / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), index).save(path)
    return tmp_path


def damage(folder: Path, *indices: int) -> None:
    for index in indices:
        (folder / "ab"[index // 10] / f"{index:02d}.png").write_bytes(b"damaged")


def values(pixels: np.ndarray) -> list[int]:
    """Which images these are."""
    return np.rint(255 * pixels[:, 0, 0, 0]).astype(int).tolist()


def test_shape_and_values(folder: Path):
    pixels = load_sample(folder, PREPROCESS).pixels
    assert (pixels.shape, pixels.dtype) == ((20, 3, 4, 4), np.float32)
    np.testing.assert_allclose(
        pixels, np.broadcast_to(np.arange(20)[:, None, None, None] / 255, pixels.shape), atol=1e-7
    )


def test_choice_is_seeded_and_nested(folder: Path):
    eight = values(load_sample(folder, PREPROCESS, count=8, seed=3).pixels)
    assert eight == np.random.default_rng(3).permutation(20)[:8].tolist()
    assert values(load_sample(folder, PREPROCESS, count=5, seed=3).pixels) == eight[:5]
    assert values(load_sample(folder, PREPROCESS, count=8, seed=4).pixels) != eight


def test_sample_knows_its_images(folder: Path):
    sample = load_sample(folder, PREPROCESS, count=6, seed=1)
    assert sample.source.names == tuple(f"{'ab'[i // 10]}/{i:02d}.png" for i in values(sample.pixels))
    assert sample.source.labels.tolist() == [i // 10 for i in values(sample.pixels)]


def test_unreadable_image_is_named_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture):
    order = np.random.default_rng(0).permutation(20).tolist()
    damage(folder, order[2])
    with caplog.at_level(logging.WARNING, "repq_deploy"):
        pixels = load_sample(folder, PREPROCESS, count=5).pixels
    assert values(pixels) == [*order[:2], *order[3:6]]
    assert f"{order[2]:02d}.png" in caplog.text


def test_too_many_unreadable_images(folder: Path):
    order = np.random.default_rng(0).permutation(20).tolist()
    damage(folder, *order[:2])
    with pytest.raises(BadInput, match="2 unreadable images, allowed are 1"):
        load_sample(folder, PREPROCESS, count=5)


def test_too_few_images(folder: Path):
    with pytest.raises(BadInput, match="found 20, expected at least 21"):
        load_sample(folder, PREPROCESS, count=21)


def test_too_few_readable_images(folder: Path):
    damage(folder, 7)
    with pytest.raises(BadInput, match="only 19 can be read, expected 20"):
        load_sample(folder, PREPROCESS, count=20)
    assert len(load_sample(folder, PREPROCESS).pixels) == 19


def test_count_must_be_positive(folder: Path):
    with pytest.raises(BadInput, match="at least 1"):
        load_sample(folder, PREPROCESS, count=0)


def collected(source: ImageSource, batch_size: int) -> list[tuple[list[int], list[int] | None]]:
    batches = iterate_batches(source, PREPROCESS, batch_size)
    return [(values(pixels), None if labels is None else labels.tolist()) for pixels, labels in batches]


def test_stream_is_in_order_with_labels(folder: Path):
    batches = collected(open_images(folder), 8)
    assert [len(pixels) for pixels, _ in batches] == [8, 8, 4]
    assert [value for pixels, _ in batches for value in pixels] == list(range(20))
    assert [label for _, labels in batches for label in labels or []] == [0] * 10 + [1] * 10


def test_stream_of_a_flat_folder_has_no_labels(folder: Path):
    assert collected(open_images(folder / "b"), 10) == [(list(range(10, 20)), None)]


def test_stream_leaves_unreadable_images_out(folder: Path, caplog: pytest.LogCaptureFixture):
    damage(folder, 4, 10)
    with caplog.at_level(logging.WARNING, "repq_deploy"):
        batches = collected(open_images(folder), 5)
    assert batches[0] == ([0, 1, 2, 3], [0] * 4)
    assert batches[2] == ([11, 12, 13, 14], [1] * 4)
    assert "04.png" in caplog.text
    assert "10.png" in caplog.text


def test_stream_stops_at_too_many_unreadable_images(folder: Path):
    damage(folder, 1, 2, 3)
    with pytest.raises(BadInput, match="allowed are 2"):
        collected(open_images(folder), 5)
