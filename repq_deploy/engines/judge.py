"""The verdict on whatever runs an engine, here or behind a server: its reference, in any row of a batch of any size.

An image's outputs must not depend on what else is in its batch. They may where a runtime takes another kernel for
another size, or leaves a batch's last rows to another code path; then a server, which forms batches of what comes,
would answer one request now this way and now that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repq_deploy.engines.batching import Profile, Runner
from repq_deploy.engines.manifest import Manifest
from repq_deploy.engines.prove_engine import PASSED, Rows, Tolerance, Validation, compare_each, tolerance
from repq_deploy.engines.reference import Reference, run_batches
from repq_deploy.export.names import recorded_task

__all__ = ["allowed_for", "batches_to_try", "judge"]

#: Of the batches that are run for their rows, so that it takes no more than some seconds and megabytes: pixels (32
#: images of 224 x 224), and numbers in the outputs.
_MOST_PIXELS, _MOST_NUMBERS = 32 * 224 * 224, 2**23


def allowed_for(bits: str, precision: str, reference: Reference, rounded_db: float | None) -> Tolerance:
    """``rounded_db`` is given where the lowering was allowed to round: the engine cannot be nearer than that."""
    rounding = reference.rounding_sqnr_db[precision]
    return tolerance(bits, precision, rounding_sqnr_db=rounding if rounded_db is None else min(rounding, rounded_db))


def judge(runner: Runner, manifest: Manifest, reference: Reference, profile: Profile | None = None) -> Validation:
    """Run the reference on ``runner``, then its images again, in other rows of the batches of ``batches_to_try``.

    Args:
        profile: the batch sizes that ``runner`` takes, None for the manifest's.

    Returns:
        FAILED also where only another row or batch is beyond the tolerance; ``rows`` says by how much rows differ.
    """
    allowed = allowed_for(manifest.bits, manifest.precision, reference, manifest.rounded_sqnr_db)
    task, named = recorded_task(manifest.metadata), manifest.named
    first = run_batches(runner, reference.images)
    found = compare_each(reference.logits, first, allowed, task, named)
    if found.verdict != PASSED:
        return found
    lowest, highest = first.copy(), first.copy()
    sizes = batches_to_try(profile or manifest.profile, manifest)
    for size in sizes:
        # Others than in the first run: there an image stood alone, and the rest in their order.
        order = (np.arange(size) + len(first) // 2) % len(first)
        rows = runner(reference.images[order])
        moved = compare_each(reference.logits[order], rows, allowed, task, named)
        if moved.verdict != PASSED:
            return replace(moved, reason=f"in other rows of a batch of {size}: {moved.reason}")
        for image, outputs in zip(order, rows, strict=True):
            np.minimum(lowest[image], outputs, out=lowest[image])
            np.maximum(highest[image], outputs, out=highest[image])
    return replace(found, rows=Rows(sizes, float((highest - lowest).max())))


def batches_to_try(profile: Profile, manifest: Manifest) -> tuple[int, ...]:
    """The smallest, the best and the largest batch, the latter two no larger than takes some seconds.

    They depend on no clock, so that two builds write the same manifest.
    """
    height, width = manifest.input.sides
    most = max(2, profile.min, min(_MOST_PIXELS // (height * width), _MOST_NUMBERS // manifest.outputs))
    return tuple(sorted({min(size, most) for size in (profile.min, profile.opt, profile.max)}))
