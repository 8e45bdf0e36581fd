"""Opening folders and arrays: what is found, in which order, with which labels; and what is refused."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repq_deploy.calib_data import open_images
from repq_deploy.errors import BadInput


def write(path: Path, value: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), value if mode == "L" else (value,) * len(mode)).save(path)
    return path


def write_arrays(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_flat_folder(tmp_path: Path):
    for name in ("b.png", "a.JPG", ".hidden.png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_images(tmp_path)
    assert source.names == ("a.JPG", "b.png")
    assert source.labels is None
    assert source.class_names == ()


def test_class_folders_are_numbered_in_sorted_order(tmp_path: Path):
    for name in ("dog/2.png", "cat/deep/1.png", "cat/0.png", "dog/.trash/3.png", ".cache/4.png"):
        write(tmp_path / name)
    source = open_images(str(tmp_path))
    assert source.names == ("cat/0.png", "cat/deep/1.png", "dog/2.png")
    assert source.labels.tolist() == [0, 0, 1]
    assert source.class_names == ("cat", "dog")


def test_empty_class_keeps_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "ant").mkdir()
    write(tmp_path / "bee/0.png")
    with caplog.at_level(logging.WARNING, "repq_deploy"):
        source = open_images(tmp_path)
    assert source.labels.tolist() == [1]
    assert "ant holds no images" in caplog.text


def test_link_to_its_own_folder_ends(tmp_path: Path):
    write(tmp_path / "cat/0.png")
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat")
    assert open_images(tmp_path).names == ("cat/0.png",)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str):
    write(tmp_path / "a.tif", 200, mode)
    image = open_images(tmp_path).read(0)
    assert (image.mode, image.size) == ("RGB", (4, 4))


def test_hash_is_of_names_and_bytes(tmp_path: Path):
    first, second = write(tmp_path / "a.png", 1), write(tmp_path / "b.png", 2)
    digest = hashlib.sha256()
    for path in (first, second):
        content = path.read_bytes()
        digest.update(path.name.encode() + b"\0" + str(len(content)).encode() + b"\0" + content)
    source = open_images(tmp_path)
    assert source.sha256 == digest.hexdigest()
    assert source.select([1, 0]).sha256 == source.sha256
    assert source.select([1]).sha256 != source.sha256


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 3)])
def test_arrays(tmp_path: Path, shape: tuple[int, ...]):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = open_images(write_arrays(tmp_path / "x.npz", images=images, labels=np.array([2, 0, 1], np.uint8)))
    expected = images[1] if len(shape) == 4 else np.repeat(images[1][..., None], 3, axis=-1)
    np.testing.assert_array_equal(np.asarray(source.read(1)), expected)
    assert source.labels.tolist() == [2, 0, 1]
    assert source.labels.dtype == np.int64
    assert source.select([2, 0]).labels.tolist() == [1, 2]


@pytest.mark.parametrize(("spec", "count"), [("demo", 256), ("demo:calib", 256), ("demo:test", 2000)])
def test_demo(spec: str, count: int):
    source = open_images(spec)
    assert len(source) == count
    assert set(source.labels.tolist()) == set(range(10))
    assert source.read(0).size == (28, 28)


def test_demo_split_chosen_by_the_caller():
    assert open_images("demo", demo_split="test").origin == "demo:test"


def test_unreadable_image_is_named(tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    with pytest.raises(BadInput, match=r"bad\.png"):
        open_images(tmp_path).read(0)


def test_sixteen_bits_are_refused(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInput, match=r"deep\.png.*8 bits"):
        open_images(tmp_path).read(0)


def test_no_such_folder(tmp_path: Path):
    with pytest.raises(BadInput, match="no such file"):
        open_images(tmp_path / "none")


def test_file_of_another_kind(tmp_path: Path):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(BadInput, match="expected a folder"):
        open_images(tmp_path / "x.csv")


def test_no_images(tmp_path: Path):
    with pytest.raises(BadInput, match="found no images"):
        open_images(tmp_path)


def test_images_beside_class_folders(tmp_path: Path):
    write(tmp_path / "a.png")
    write(tmp_path / "cat/b.png")
    with pytest.raises(BadInput, match=r"a\.png.*beside folders \(cat"):
        open_images(tmp_path)


def test_unknown_demo_split():
    with pytest.raises(BadInput, match="demo:train"):
        open_images("demo:train")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 4, 4), np.uint8)}, "no array 'images'"),
        ({"images": np.zeros((2, 4, 4), np.float32)}, "float32"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, r"\[2, 3, 4, 4\]"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, r"\[0, 4, 4\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, r"labels are int64 \[3\]"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, "labels are float64"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str):
    with pytest.raises(BadInput, match=message):
        open_images(write_arrays(tmp_path / "x.npz", **arrays))


def test_arrays_that_would_run_code(tmp_path: Path):
    np.savez(tmp_path / "x.npz", images=np.array([{}], dtype=object))
    with pytest.raises(BadInput, match="not a readable"):
        open_images(tmp_path / "x.npz")


def test_damaged_arrays(tmp_path: Path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(BadInput, match="not a readable"):
        open_images(tmp_path / "x.npz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes in folders here")
def test_a_pipe_named_like_an_image_is_no_image(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert open_images(tmp_path).names == ("a/0.png", "b/0.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root, or Windows, may read every folder")
def test_a_class_folder_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "a").mkdir(mode=0)
    with pytest.raises(BadInput, match="a: cannot be read"):
        open_images(tmp_path)
