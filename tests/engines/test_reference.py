"""The reference I/O: numbers against NumPy, equal bytes, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.reference import IMAGES, make_reference, read_reference
from repq_deploy.errors import BadInput
from tests.engines.graphs import SIDE, oracle, write_tiny


def test_logits_are_the_models(tmp_path: Path) -> None:
    source = write_tiny(tmp_path)
    reference = make_reference(source, data=None, seed=0)
    assert reference.images.shape == (IMAGES, 3, SIDE, SIDE)
    np.testing.assert_allclose(reference.logits, oracle(source.model, reference.images), atol=1e-4)
    assert reference.source_sha256 == source.sha256
    assert reference.rounding_sqnr_db["fp32"] > reference.rounding_sqnr_db["fp16"] > 20


def test_noise_is_normalized_seeded_and_smooth(tmp_path: Path) -> None:
    source = write_tiny(tmp_path)
    images = make_reference(source, data=None, seed=0).images
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    neighbours = (images[..., 1:] * images[..., :-1]).mean()
    assert neighbours > 0.3
    assert not np.array_equal(images, make_reference(source, data=None, seed=1).images)


def test_equal_references_give_equal_bytes_and_survive_the_file(tmp_path: Path) -> None:
    source = write_tiny(tmp_path)
    reference = make_reference(source, data=None, seed=3)
    assert reference.to_bytes() == make_reference(source, data=None, seed=3).to_bytes()
    path = tmp_path / "tiny.reference.npz"
    path.write_bytes(reference.to_bytes())
    read = read_reference(path)
    np.testing.assert_array_equal(read.images, reference.images)
    np.testing.assert_array_equal(read.logits, reference.logits)
    assert (read.source_sha256, read.inputs) == (source.sha256, "noise with a 1/f spectrum, seed 3")
    assert read.rounding_sqnr_db == reference.rounding_sqnr_db


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_images_of_a_file(tmp_path: Path, suffix: str) -> None:
    images = np.random.default_rng(0).normal(size=(7, 3, SIDE, SIDE))
    path = tmp_path / f"images{suffix}"
    if suffix == ".npy":
        np.save(path, images)
    else:
        np.savez(path, labels=np.arange(7), images=images)
    reference = make_reference(write_tiny(tmp_path), data=str(path), seed=0)
    np.testing.assert_array_equal(reference.images, images[:IMAGES].astype(np.float32))
    assert reference.inputs == f"file images{suffix}"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((5, 3, SIDE, SIDE), np.float32), "at least 6"),
        (np.zeros((6, 3, SIDE, SIDE), np.uint8), "uint8"),
        (np.zeros((6, SIDE, SIDE, 3), np.float32), "expected preprocessed float images"),
        (np.full((6, 3, SIDE, SIDE), np.nan, np.float32), "NaN"),
        (np.array([{}], dtype=object), r"not a readable .npz or .npy file of numbers"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "images.npy", array, allow_pickle=True)
    with pytest.raises(BadInput, match=words):
        make_reference(write_tiny(tmp_path), data=str(tmp_path / "images.npy"), seed=0)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", pickle.dumps(_Bomb())])
def test_a_file_that_is_no_reference_is_refused_unexecuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.reference.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"not a readable .*rebuild the engine"):
        read_reference(tmp_path / "x.reference.npz")
    assert not (tmp_path / "exploded").exists()


def test_a_reference_of_other_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.reference.npz"
    np.savez(path, images=np.zeros((6, 3, 8, 8), np.float32), logits=np.zeros((6, 10), np.float32))
    with pytest.raises(BadInput, match="holds no rounding_sqnr_db"):
        read_reference(path)
    rest = {"rounding_sqnr_db": np.zeros(2), "source_sha256": np.array(""), "inputs": np.array("")}
    np.savez(path, images=np.zeros((5, 3, 8, 8), np.float32), logits=np.zeros((5, 10), np.float32), **rest)
    with pytest.raises(BadInput, match="other arrays"):
        read_reference(path)


def test_a_reference_of_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.reference.npz"
    rest = {"rounding_sqnr_db": np.zeros(2), "source_sha256": np.array(""), "inputs": np.array("")}
    logits = np.full((6, 10), np.nan, np.float32)
    np.savez(path, images=np.zeros((6, 3, 8, 8), np.float32), logits=logits, **rest)
    with pytest.raises(BadInput, match="NaN or infinite"):
        read_reference(path)
