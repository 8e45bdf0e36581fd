"""Verdicts on outputs that are right, slightly off, wrong, and not numbers."""

from __future__ import annotations

import numpy as np
import pytest

from repq_deploy.engines.prove_engine import (
    FAILED,
    NOT_RUN,
    PASSED,
    Tolerance,
    compare,
    compare_each,
    not_run,
    sqnr_db,
    tolerance,
)
from repq_deploy.outputs import Outputs
from repq_deploy.tasks import FEATURES

ALLOWED = Tolerance(min_sqnr_db=30.0, rounding_sqnr_db=40.0)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 100)).astype(np.float32)


def test_exact_outputs_pass_with_a_finite_figure(logits: np.ndarray) -> None:
    result = compare(logits, logits.copy(), ALLOWED)
    assert result.verdict == PASSED
    assert result.figures is not None
    assert result.figures.sqnr_db == pytest.approx(200)
    assert (result.figures.max_abs_error, result.figures.cosine) == (0, pytest.approx(1))
    assert result.figures.agreement == 1


@pytest.mark.parametrize(("level_db", "verdict"), [(31.0, PASSED), (29.0, FAILED)])
def test_the_ratio_decides(logits: np.ndarray, level_db: float, verdict: str) -> None:
    noise = np.random.default_rng(1).normal(size=logits.shape)
    noise *= np.sqrt(np.square(logits).sum() / np.square(noise).sum()) * 10 ** (-level_db / 20)
    outputs = (logits + noise).astype(np.float32)
    result = compare(logits, outputs, ALLOWED)
    assert result.verdict == verdict
    assert result.figures is not None
    assert result.figures.sqnr_db == pytest.approx(level_db, abs=0.01) == sqnr_db(logits, outputs)
    assert result.figures.mean_abs_error == pytest.approx(np.abs(outputs - logits).mean())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_that_is_no_number_fails(logits: np.ndarray, value: float) -> None:
    outputs = logits.copy()
    outputs[3, 7] = value
    result = compare(logits, outputs, ALLOWED)
    assert (result.verdict, result.reason) == (FAILED, "1 of 600 outputs are NaN or infinite")
    assert result.figures is None


def test_another_shape_fails(logits: np.ndarray) -> None:
    result = compare(logits, logits[:, :99], ALLOWED)
    assert (result.verdict, result.reason) == (FAILED, "outputs of shape [6, 99] instead of [6, 100]")


def test_all_zeros_fail_and_zeros_for_zeros_pass(logits: np.ndarray) -> None:
    assert compare(logits, np.zeros_like(logits), ALLOWED).verdict == FAILED
    assert compare(np.zeros_like(logits), np.zeros_like(logits), ALLOWED).verdict == PASSED


def test_one_wrong_image_among_right_ones_fails() -> None:
    logits = np.random.default_rng(0).normal(size=(6, 100)).astype(np.float32)
    logits[2] *= 0.05
    outputs = logits.copy()
    outputs[2] = -outputs[2]
    result = compare(logits, outputs, Tolerance(20.0, 40.0))
    assert result.figures is not None
    assert result.figures.sqnr_db > 20
    assert (result.verdict, "one image's SQNR -6.0 dB" in result.reason) == (FAILED, True)


def test_a_class_swapped_beyond_rounding_fails_and_a_tie_does_not() -> None:
    logits = np.full((6, 1000), 1.0, np.float32)
    logits[:, 3], logits[:, 5] = 1.9, 1.89
    tied, swapped = logits.copy(), logits.copy()
    tied[:, 5] = 1.91
    assert compare(logits, tied, ALLOWED).verdict == PASSED
    swapped[1, 8] = 3.0
    result = compare(logits, swapped, ALLOWED)
    assert (result.verdict, result.reason) == (FAILED, "image 1: class 8 instead of 3, which leads by 0.9")


def test_tolerance_follows_the_bits_the_precision_and_the_model() -> None:
    assert tolerance("w8a8", "fp32", rounding_sqnr_db=130).min_sqnr_db == 25
    assert tolerance("w4a4", "fp32", rounding_sqnr_db=130).min_sqnr_db == 6
    assert tolerance("w8a8", "fp32", rounding_sqnr_db=20).min_sqnr_db == 17
    assert tolerance("w8a8", "fp16", rounding_sqnr_db=20).min_sqnr_db == 14
    assert tolerance("w4a4", "fp16", rounding_sqnr_db=2).min_sqnr_db == 3


def test_an_engine_that_did_not_run_never_passes() -> None:
    assert not_run("no GPU", ALLOWED).verdict == NOT_RUN == "BUILT, NOT RUN"


def test_a_small_output_that_is_wrong_is_not_hidden_by_a_large_one() -> None:
    named = Outputs({"features_2": (4, 5), "features_11": (4, 5)})
    reference = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32) * np.repeat([0.01, 1], 20)
    reference = reference.astype(np.float32)
    outputs = reference.copy()
    outputs[:, :20] = 0
    assert compare(reference, outputs, ALLOWED, FEATURES).verdict == PASSED
    judged = compare_each(reference, outputs, ALLOWED, FEATURES, named)
    assert (judged.verdict, judged.figures is not None and judged.figures.sqnr_db) == (FAILED, pytest.approx(0))
    assert judged.reason.startswith("features_2, the worst of 2 outputs: SQNR 0.0 dB is below 30.0 dB")
    fine = compare_each(reference, reference, ALLOWED, FEATURES, named)
    assert fine.verdict == PASSED
    assert compare_each(reference, outputs[:, :39], ALLOWED, FEATURES, named).verdict == FAILED
