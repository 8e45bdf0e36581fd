"""Accuracy and confusion of the files of a report, on images that its reader names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.calib_data import ImageSource
from repq_deploy.evaluation import Target, evaluate
from repq_deploy.report.facts import Changes, Scored

__all__ = ["score"]

Array = NDArray[np.float32]


def score(
    target: Target,
    source: ImageSource,
    against: Target | None,
    *,
    batch_size: int = 32,
    on_images: Callable[[int], None] = lambda done: None,
) -> Scored:
    """Run ``target``, and ``against`` on the same images; what each decides is counted in pairs.

    Raises:
        BadInput, ValidationFailed: as ``evaluate``.
    """
    ours: list[NDArray[np.int64]] = []
    theirs: list[NDArray[np.int64]] = []
    evaluation = evaluate(
        _noting(target, ours),
        source,
        against=None if against is None else _noting(against, theirs),
        batch_size=batch_size,
        on_images=on_images,
    )
    changes = None
    if against is not None and target.task.decides:
        pairs = Counter(zip(np.concatenate(theirs).tolist(), np.concatenate(ours).tolist(), strict=True))
        ordered = sorted(((count, *pair) for pair, count in pairs.items()), key=lambda one: (-one[0], one[1:]))
        names = target.class_names or against.class_names
        changes = Changes(target.outputs, tuple((expected, found, count) for count, expected, found in ordered), names)
    name = None if against is None else against.name
    return Scored(source.origin, evaluation, name, changes, target.task.agreeing)


def _noting(target: Target, into: list[NDArray[np.int64]]) -> Target:
    """``target``, with what it decides for each image put ``into`` a list."""

    def predict(images: NDArray[Any]) -> Array:
        outputs = target.predict(images)
        if outputs.ndim == 2:
            into.append(outputs.argmax(axis=1))
        return outputs

    return replace(target, predict=predict)
