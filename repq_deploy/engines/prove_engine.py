"""Does an engine compute what the reference computes? Figures, tolerances and the verdict.

Two correct implementations of one quantized graph differ where a value lies within rounding error of the border between
two codes: one rounds it up, the other down, and the result differs by a whole step. How much that costs is a property
of the model and of the precision around Q/DQ that ``rounding.py`` measures: an engine must stay within a margin of it.
Where rounding moved no code on the reference's images, it may still move one in the engine. The coarser the activations
are, the larger is such a step; so the most that is ever required depends on the smallest activation width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repq_deploy.bits import smallest_activation_bits
from repq_deploy.outputs import Outputs
from repq_deploy.tasks import CLASSIFICATION, Task

__all__ = [
    "FAILED",
    "NOT_RUN",
    "PASSED",
    "Figures",
    "Rows",
    "Tolerance",
    "Validation",
    "compare",
    "compare_each",
    "not_run",
    "sqnr_db",
    "tolerance",
]

PASSED = "PASSED"
FAILED = "FAILED"
NOT_RUN = "BUILT, NOT RUN"

#: The most that is asked, by smallest activation bits: signal-to-quantization-noise ratio in dB with a few codes moved.
_MOST_DB = {8: 25.0, 7: 20.0, 6: 15.0, 5: 10.0, 4: 6.0, 3: 4.0, 2: 3.0}

#: An engine may be noisier than the model is when only its constants are rounded: in FP32 by twice the noise power, in
#: FP16 by four times, because there every intermediate result is rounded as coarsely.
_MARGIN_DB = {"fp32": 3.0, "fp16": 6.0}

#: Outputs of zero have 0 dB. Correct engines of 4-bit models come within 9 dB of that on images unlike any they were
#: trained on. The passes are proven exact before the build: this only tells an engine from a broken one.
_LEAST_DB = 3.0

#: A single image may be this much worse than all together; one wrong image among right ones is far worse.
_ONE_IMAGE_DB = 6.0

#: An exact match has an infinite ratio, which JSON cannot hold.
_MAX_SQNR_DB = 200.0


@dataclass(frozen=True)
class Tolerance:
    """The SQNR an engine must reach, and the one the model itself has under rounding of its constants, in dB."""

    min_sqnr_db: float
    rounding_sqnr_db: float


@dataclass(frozen=True)
class Figures:
    """How far outputs are from the reference. ``sqnr_db`` is over all images together, ``worst_image_sqnr_db`` over the
    worst image alone; ``agreement`` is the share of images decided alike, None where outputs decide nothing."""

    images: int
    max_abs_error: float
    mean_abs_error: float
    cosine: float
    sqnr_db: float
    worst_image_sqnr_db: float
    agreement: float | None


@dataclass(frozen=True)
class Rows:
    """How far the outputs of an image depend on its row and its batch: the sizes of the ``batches`` that were run, and
    the largest difference of an output number between two rows that held the same image."""

    batches: tuple[int, ...]
    max_difference: float


@dataclass(frozen=True)
class Validation:
    """A verdict, why, and what it rests on. ``figures`` is None where nothing comparable was computed, and ``rows``
    where they were not compared: before them the engine failed, or it was validated by an older version."""

    verdict: str
    reason: str
    tolerance: Tolerance
    figures: Figures | None = None
    rows: Rows | None = None


def tolerance(bits: str, precision: str, *, rounding_sqnr_db: float) -> Tolerance:
    """What to ask of an engine of ``bits`` with ``precision`` "fp16" or "fp32" around Q/DQ."""
    most = _MOST_DB[smallest_activation_bits(bits)]
    return Tolerance(max(_LEAST_DB, min(most, rounding_sqnr_db - _MARGIN_DB[precision])), rounding_sqnr_db)


def sqnr_db(reference: NDArray[np.float32], outputs: NDArray[np.float32]) -> float:
    """Signal-to-quantization-noise ratio of all ``outputs`` together."""
    expected = reference.astype(np.float64)
    return float(_decibel(np.square(expected).sum(), np.square(outputs - expected).sum()))


def compare(
    reference: NDArray[np.float32], outputs: NDArray[np.float32], allowed: Tolerance, task: Task = CLASSIFICATION
) -> Validation:
    """Judge ``outputs`` against ``reference``, both [N, ...], of a model with the ``task``."""
    if outputs.shape != reference.shape:
        reason = f"outputs of shape {list(outputs.shape)} instead of {list(reference.shape)}"
        return Validation(FAILED, reason, allowed)
    if not np.isfinite(outputs).all():
        reason = f"{np.count_nonzero(~np.isfinite(outputs))} of {outputs.size} outputs are NaN or infinite"
        return Validation(FAILED, reason, allowed)
    expected, found = reference.astype(np.float64), outputs.astype(np.float64)
    figures, limit = _figures(expected, found, task), allowed.min_sqnr_db
    noise = np.sqrt(np.square(expected).mean(axis=1)) * 10 ** (-limit / 20)
    wrong = task.contradiction(expected, found, noise)
    if figures.sqnr_db < limit:
        wrong = f"SQNR {figures.sqnr_db:.1f} dB is below {limit:.1f} dB"
    elif figures.worst_image_sqnr_db < limit - _ONE_IMAGE_DB:
        wrong = f"one image's SQNR {figures.worst_image_sqnr_db:.1f} dB is below {limit - _ONE_IMAGE_DB:.1f} dB"
    if wrong is not None:
        return Validation(FAILED, wrong, allowed, figures)
    return Validation(PASSED, f"SQNR {figures.sqnr_db:.1f} dB is at least {limit:.1f} dB", allowed, figures)


def compare_each(
    reference: NDArray[np.float32], outputs: NDArray[np.float32], allowed: Tolerance, task: Task, named: Outputs
) -> Validation:
    """``compare`` of each of several outputs, ``joined`` in both arrays; the verdict on the worst of them.

    Later features are larger than earlier ones, whose errors would not be seen among all numbers.
    """
    if len(named.shapes) == 1 or outputs.shape != reference.shape:
        return compare(reference, outputs, allowed, task)
    each = [
        (name, compare(reference[:, part], outputs[:, part], allowed, task))
        for name, part in zip(named.names, named.slices(), strict=True)
    ]
    name, worst = min(each, key=lambda one: (one[1].verdict == PASSED, one[1].figures.sqnr_db if one[1].figures else 0))
    return replace(worst, reason=f"{name}, the worst of {len(each)} outputs: {worst.reason}")


def not_run(reason: str, allowed: Tolerance) -> Validation:
    """The verdict on an engine that this machine can build but not run."""
    return Validation(NOT_RUN, reason, allowed)


def _decibel(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ratio as dB, without a division by zero: no noise is the maximum, whatever the signal."""
    tiny = np.finfo(np.float64).tiny
    ratio = 10 * (np.log10(np.maximum(signal, tiny)) - np.log10(np.maximum(noise, tiny)))
    return np.where(noise == 0, _MAX_SQNR_DB, np.minimum(ratio, _MAX_SQNR_DB))


def _figures(expected: NDArray[np.float64], found: NDArray[np.float64], task: Task) -> Figures:
    error = np.abs(found - expected)
    tiny = np.finfo(np.float64).tiny
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return Figures(
        images=len(expected),
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        cosine=float((((expected * found).sum(axis=1) + tiny) / (norms + tiny)).min()),
        sqnr_db=float(_decibel(np.square(expected).sum(), np.square(error).sum())),
        worst_image_sqnr_db=float(_decibel(np.square(expected).sum(axis=1), np.square(error).sum(axis=1)).min()),
        agreement=task.agreement(expected, found),
    )
