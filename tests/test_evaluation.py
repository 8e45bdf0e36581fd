"""Accuracies against counts made by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.calib_data import ImageSource, Preprocess, open_images
from repq_deploy.errors import BadInput, ValidationFailed
from repq_deploy.evaluation import Target, evaluate
from repq_deploy.inputs import ImageInput
from repq_deploy.tasks import FEATURES

PREPROCESS = Preprocess((2, 2), 1.0, "center", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
#: What the first image, the second, ... is; the image's gray value is its number.
LABELS = [0, 1, 2, 3, 4, 5, 6, 6]
CLASSES = 7


def source(tmp_path: Path, labels: list[int] | None = LABELS) -> ImageSource:
    images = np.broadcast_to(np.arange(len(LABELS), dtype=np.uint8)[:, None, None], (len(LABELS), 2, 2))
    arrays = {"images": images} | ({} if labels is None else {"labels": np.array(labels)})
    np.savez(tmp_path / "x.npz", **arrays)
    return open_images(tmp_path / "x.npz")


def target(name: str, logits: np.ndarray, preprocess: Preprocess = PREPROCESS) -> Target:
    """Gives image i row i of ``logits``, whichever batch it comes in."""
    gray: Callable[[np.ndarray], np.ndarray] = lambda images: np.rint(255 * images[:, 0, 0, 0]).astype(int)  # noqa: E731
    return Target(name, "table", lambda images: logits[gray(images)], preprocess, logits.shape[1])


def predicting(classes: list[int]) -> np.ndarray:
    """Logits whose order is: the class given, then 0, 1, 2, ..."""
    logits = np.tile(-np.arange(CLASSES, dtype=np.float32), (len(classes), 1))
    logits[np.arange(len(classes)), classes] = 1
    return logits


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_accuracy(tmp_path: Path, batch_size: int):
    done: list[int] = []
    logits = predicting([0, 1, 2, 0, 0, 0, 0, 6])  # right: 0, 1, 2, 7; label 3 and 4 are fourth and fifth, 5 and 6 not
    result = evaluate(target("t", logits), source(tmp_path), batch_size=batch_size, on_images=done.append).target
    assert result.images == 8
    assert result.top1 == 50
    assert result.top1_standard_error == pytest.approx(100 * math.sqrt(0.5 * 0.5 / 8))
    assert result.top5 == 75
    assert result.images_per_second > 0
    assert done[-1] == 8


def test_no_top5_up_to_five_classes(tmp_path: Path):
    logits = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0, 0, 0]]
    result = evaluate(target("t", logits), source(tmp_path, [0, 1, 2, 3, 4, 4, 4, 4])).target
    assert (result.top1, result.top5) == (62.5, None)


@pytest.mark.parametrize("other_size", [2, 4], ids=["same preprocessing", "another"])
def test_comparison(tmp_path: Path, other_size: int):
    ours, theirs = [0, 1, 2, 0, 0, 0, 0, 6], [0, 1, 3, 3, 0, 0, 0, 6]
    other = Preprocess((other_size, other_size), 1.0, "center", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    result = evaluate(
        target("a", predicting(ours)), source(tmp_path), against=target("b", predicting(theirs), other), batch_size=3
    )
    difference = 100 * (np.equal(ours, LABELS).astype(float) - np.equal(theirs, LABELS))
    assert result.agreement == 75
    assert (result.target.top1, result.against.top1) == (50, 50)
    assert result.top1_difference == 0
    assert result.top1_difference_standard_error == pytest.approx(difference.std() / math.sqrt(8))


def test_agreement_without_labels(tmp_path: Path):
    logits = predicting(LABELS)
    result = evaluate(target("a", logits), source(tmp_path, None), against=target("b", logits))
    assert result.agreement == 100
    assert (result.target.top1, result.top1_difference) == (None, None)


def test_no_labels_and_nothing_to_compare_with(tmp_path: Path):
    with pytest.raises(BadInput, match="no labels"):
        evaluate(target("a", predicting(LABELS)), source(tmp_path, None))


def test_label_beyond_the_classes(tmp_path: Path):
    with pytest.raises(BadInput, match="labels from 0 to 6, a has 5 classes"):
        evaluate(target("a", np.zeros((8, 5), np.float32)), source(tmp_path))


def test_another_number_of_class_folders(tmp_path: Path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "0.png")
    with pytest.raises(BadInput, match="2 class folders, a has 7 classes"):
        evaluate(target("a", predicting(LABELS)), open_images(tmp_path))


def test_no_head(tmp_path: Path):
    features = dataclasses.replace(target("a", np.ones((8, 4), np.float32)), task=FEATURES)
    with pytest.raises(BadInput, match="a: gives features, which labels cannot score"):
        evaluate(features, source(tmp_path))
    assert evaluate(features, source(tmp_path), against=features).agreement == pytest.approx(100)
    with pytest.raises(BadInput, match="not comparable"):
        evaluate(features, source(tmp_path), against=target("b", predicting(LABELS)))


def test_not_finite(tmp_path: Path):
    logits = predicting(LABELS)
    logits[3, 3] = np.nan
    with pytest.raises(ValidationFailed, match="a: NaN or infinite"):
        evaluate(target("a", logits), source(tmp_path))


def test_logits_of_another_shape(tmp_path: Path):
    broken = Target("a", "table", lambda images: np.zeros((len(images), 3), np.float32), PREPROCESS, CLASSES)
    with pytest.raises(ValidationFailed, match=r"outputs \[8, 3\], expected \[8, 7\]"):
        evaluate(broken, source(tmp_path))


def test_batch_size_must_be_positive(tmp_path: Path):
    with pytest.raises(BadInput, match="batch size 0"):
        evaluate(target("a", predicting(LABELS)), source(tmp_path), batch_size=0)


def test_a_target_of_bytes_sees_the_same_images_as_one_of_numbers(tmp_path: Path):
    numbers, logits = target("a", predicting(LABELS)), predicting(LABELS)
    form = ImageInput((2, 2), "uint8", "nhwc")
    pixels = dataclasses.replace(numbers, predict=lambda images: logits[images[:, 0, 0, 0]], input=form)
    result = evaluate(pixels, source(tmp_path), against=numbers, batch_size=3)
    assert (result.target.top1, result.agreement) == (100, 100)


def test_classes_with_names_are_told_the_worst_first(tmp_path: Path):
    logits = predicting([0, 1, 2, 0, 4, 5, 6, 0])
    named = dataclasses.replace(target("t", logits), class_names=tuple("abcdefg"))
    classes = evaluate(named, source(tmp_path)).target.classes
    assert [(one.name, one.images, one.top1) for one in classes[:3]] == [("d", 1, 0), ("g", 2, 50), ("a", 1, 100)]
    assert evaluate(target("t", logits), source(tmp_path)).target.classes == ()
