"""The verdict also compares equal images in other rows, and in batches of other sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.judge import batches_to_try, judge
from repq_deploy.engines.prove_engine import FAILED, PASSED, Rows
from repq_deploy.engines.reference import Reference
from tests.triton.engines import CLASSES, MANIFEST, SIDE

PROFILE = Profile(1, 4, 16)
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((3 * SIDE * SIDE, CLASSES)).astype(np.float32)
IMAGES = RNG.standard_normal((6, 3, SIDE, SIDE)).astype(np.float32)


def logits(images: np.ndarray) -> np.ndarray:
    """Each row by itself: BLAS's products are not the same for every number of rows."""
    return np.stack([(image.reshape(-1)[:, None] * WEIGHT).sum(axis=0) for image in images])


REFERENCE = Reference(IMAGES, logits(IMAGES), {"fp16": 50.0, "fp32": 60.0}, MANIFEST.source.sha256, "noise")


def judged(runner: Any, profile: Profile | None = None) -> Any:
    return judge(runner, MANIFEST, REFERENCE, profile)


def test_rows_that_do_not_matter():
    sizes = []

    def run(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return logits(images)

    found = judged(run)
    assert (found.verdict, found.rows) == (PASSED, Rows((1, 4, 16), 0.0))
    assert sizes == [1, 5, 1, 4, 16]
    assert judged(logits, Profile(2, 2, 3)).rows == Rows((2, 3), 0.0)


def test_a_small_difference_is_recorded():
    def run(images: np.ndarray) -> np.ndarray:
        found = logits(images)
        found[5:] += np.float32(0.25)  # only the largest batch has so many rows
        return found

    found = judged(run)
    assert found.verdict == PASSED
    assert found.rows.max_difference == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("row", "said"),
    [(15, "in other rows of a batch of 16: "), (3, "in other rows of a batch of ")],
)
def test_a_row_that_is_wrong(row: int, said: str):
    def run(images: np.ndarray) -> np.ndarray:
        found = logits(images)
        if len(images) != len(IMAGES) - 1:  # all is right where the reference itself is run
            found[row:] *= -1
        return found

    found = judged(run)
    assert (found.verdict, found.rows) == (FAILED, None)
    assert found.reason.startswith(said)


def test_a_wrong_answer_is_not_run_again():
    found = judged(lambda images: -logits(images))
    assert (found.verdict, found.rows) == (FAILED, None)
    assert "rows" not in found.reason


def test_the_largest_batch_is_bounded_by_sizes_not_by_time():
    big = dataclasses.replace(MANIFEST, image_shape=(3, 224, 224), profile=Profile(1, 8, 8192))
    assert batches_to_try(big.profile, big) == (1, 8, 32)
    huge = dataclasses.replace(MANIFEST, image_shape=(3, 1024, 1024))
    assert batches_to_try(huge.profile, huge) == (1, 2)
    assert batches_to_try(Profile(1, 1, 1), huge) == (1,)
    assert batches_to_try(Profile(16, 16, 64), huge) == (16,)
    wide = dataclasses.replace(MANIFEST, outputs=2**21, metadata={})
    assert batches_to_try(wide.profile, wide) == (1, 4)
