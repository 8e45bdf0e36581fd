"""The score of anything that turns images into outputs, as its task defines it, and how far two such things agree.

Images are streamed, so a validation set need not fit in memory. All accuracies are in percent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.calib_data import ImageSource, Preprocess, iterate_batches
from repq_deploy.errors import BadInput, ValidationFailed
from repq_deploy.inputs import ImageInput
from repq_deploy.tasks import CLASSIFICATION, Task

__all__ = ["ClassFigures", "Evaluation", "Figures", "Target", "check_data", "evaluate"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """Something to evaluate.

    ``predict`` maps images [N, ...] to float32 [N, outputs], for any N of at least 1; ``task`` says what the outputs
    are for, ``input`` what images it takes, None for float32 of the size that ``preprocess`` makes.
    ``kind`` is for the reader: "float model", "engine (onnxruntime)". ``class_names`` name its outputs, where known.
    """

    name: str
    kind: str
    predict: Callable[[NDArray[Any]], Array]
    preprocess: Preprocess
    outputs: int
    class_names: tuple[str, ...] = ()
    task: Task = CLASSIFICATION
    input: ImageInput | None = None


@dataclass(frozen=True)
class ClassFigures:
    """The top-1 accuracy, in percent, on the images of one class."""

    name: str
    images: int
    top1: float


@dataclass(frozen=True)
class Figures:
    """One target's accuracy. The three accuracies are None where the images have no labels, and ``top5`` also where
    there are at most 5 classes.

    ``images_per_second`` counts the time of ``predict`` alone; images are decoded meanwhile. ``classes`` are those that
    have a name and images, the least accurate first.
    """

    images: int
    top1: float | None
    top1_standard_error: float | None
    top5: float | None
    images_per_second: float
    classes: tuple[ClassFigures, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The figures of a target and, if it was compared with a second one, those of the second.

    ``agreement`` is, in percent, how far both agree: images in the same class, or the mean cosine of features.
    ``top1_difference`` is the target's top-1 minus the other's, in percentage points; its standard error is that of the
    differences on each image, as both targets saw the same images. ``largest_difference`` is that of an output number,
    None where the two have different outputs, and ``equal`` whether all outputs are equal to the bit.
    """

    target: Figures
    against: Figures | None = None
    agreement: float | None = None
    top1_difference: float | None = None
    top1_difference_standard_error: float | None = None
    largest_difference: float | None = None
    equal: bool | None = None


def evaluate(
    target: Target,
    source: ImageSource,
    *,
    against: Target | None = None,
    batch_size: int = 32,
    on_images: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run ``target``, and ``against`` on the same images, each with its own preprocessing.

    Args:
        on_images: called after each batch with the number of images done.

    Raises:
        BadInput: the classes do not fit, there is nothing to compute without labels, or too many unreadable images.
        ValidationFailed: outputs are NaN or infinite, or not of the shape that the target promises.
    """
    if batch_size < 1:
        raise BadInput(f"batch size {batch_size}: expected at least 1")
    targets = [target] if against is None else [target, against]
    check_data(targets, source)
    tallies = [_Tally(each, each.class_names or source.class_names) for each in targets]
    done, largest, equal = 0, 0.0, True
    for batches, labels in _streams(targets, source, batch_size):
        rows = [tally.add(images, labels) for tally, images in zip(tallies, batches, strict=True)]
        equal = equal and rows[0].tobytes() == rows[-1].tobytes()
        if not equal and target.outputs == targets[-1].outputs:
            largest = max(largest, float(np.abs(rows[0] - rows[-1]).max()))
        done += len(batches[0])
        on_images(done)
    if not done:
        raise BadInput(f"images {source.origin}: none can be read")
    if against is None:
        return Evaluation(tallies[0].figures())
    ours, theirs = tallies
    agreement, difference, error = ours.scores.against(theirs.scores)
    comparable = target.outputs == against.outputs
    return Evaluation(
        ours.figures(), theirs.figures(), agreement, difference, error, largest if comparable else None, equal
    )


def check_data(targets: Sequence[Target], source: ImageSource) -> None:
    """Refuse images that cannot be scored: they have no labels for a single target, or not the targets' classes."""
    first = targets[0]
    if other := next((target for target in targets if target.task is not first.task), None):
        raise BadInput(f"{first.name} gives {first.task.outputs}, {other.name} {other.task.outputs}: not comparable")
    if len(targets) == 1 and not first.task.decides:
        raise BadInput(
            f"{first.name}: gives {first.task.outputs}, which labels cannot score; expected a second target to compare "
            "with (--against), or a model with a head (--num-classes and a checkpoint)"
        )
    if source.labels is None and len(targets) == 1:
        raise BadInput(
            f"images {source.origin}: no labels, so there is no accuracy to measure; "
            "expected one folder a class, or a second target to compare with"
        )
    folders = len(source.class_names)
    for target in targets:
        if not target.task.decides:
            continue
        if folders and folders != target.outputs:
            raise BadInput(
                f"images {source.origin}: {folders} class folders, {target.name} has {target.outputs} classes; "
                "labels would not fit; use the data it was trained for, or --classes FILE with the names of its outputs"
            )
        if source.labels is not None and not 0 <= source.labels.min() <= source.labels.max() < target.outputs:
            raise BadInput(
                f"images {source.origin}: labels from {source.labels.min()} to {source.labels.max()}, "
                f"{target.name} has {target.outputs} classes"
            )


class _Tally:
    """What a target computed so far."""

    def __init__(self, target: Target, class_names: Sequence[str]) -> None:
        self.target, self.class_names = target, class_names
        self.scores = target.task.scores(target.outputs)
        self.images = 0
        self.seconds = 0.0

    def add(self, images: NDArray[Any], labels: NDArray[np.int64] | None) -> Array:
        """Run a batch; its outputs."""
        started = time.perf_counter()
        outputs = self.target.predict(images)
        self.seconds += time.perf_counter() - started
        expected = (len(images), self.target.outputs)
        if outputs.shape != expected:
            raise ValidationFailed(f"{self.target.name}: outputs {list(outputs.shape)}, expected {list(expected)}")
        if not np.isfinite(outputs).all():
            raise ValidationFailed(f"{self.target.name}: NaN or infinite outputs; the model or engine is broken")
        self.scores.add(outputs, labels)
        self.images += len(images)
        return outputs

    def figures(self) -> Figures:
        top1, error, top5 = self.scores.accuracy()
        found = self.scores.of_classes() if self.class_names else {}
        classes = [ClassFigures(self.class_names[one], n, 100 * right / n) for one, (n, right) in found.items()]
        classes.sort(key=lambda one: (one.top1, -one.images))
        return Figures(self.images, top1, error, top5, self.images / max(self.seconds, 1e-9), tuple(classes))


def _streams(
    targets: Sequence[Target], source: ImageSource, batch_size: int
) -> Iterator[tuple[list[NDArray[Any]], NDArray[np.int64] | None]]:
    """Batches of the same images as each target takes them; those of one kind are decoded once."""
    kinds = [(target.preprocess, target.input) for target in targets]
    distinct = list(dict.fromkeys(kinds))
    streams = [iterate_batches(source, preprocess, batch_size, form) for preprocess, form in distinct]
    for batches in zip(*streams, strict=True):
        made = {kind: images for kind, (images, _) in zip(distinct, batches, strict=True)}
        yield [made[kind] for kind in kinds], batches[0][1]
