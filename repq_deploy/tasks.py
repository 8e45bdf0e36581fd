"""What a model's outputs are for: how two outputs are compared, what a tie is, and which score is reported.

A task is one object, and everything else asks it: proofs and verdicts, losses and sensitivities, evaluation. A model
with a classifier head has the task ``CLASSIFICATION``, one without has ``FEATURES``. Arrays are NumPy's or, where a
method says so, torch's; nothing here imports torch before calibration calls it.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["CLASSIFICATION", "FEATURES", "TASKS", "Scores", "Task", "decided"]

#: Noise of this many standard deviations on a difference of logits is taken for rounding, more for a wrong class.
_TIE_SIGMAS = 6.0


class Scores(abc.ABC):
    """The scores of one target over a stream of images."""

    @abc.abstractmethod
    def add(self, outputs: NDArray[np.float32], labels: NDArray[np.int64] | None) -> None:
        """Take the outputs [N, ...] of a batch, and its labels, where there are some."""

    @abc.abstractmethod
    def accuracy(self) -> tuple[float | None, float | None, float | None]:
        """The main score in percent, its standard error, and a second, more lenient score; None where there is none."""

    def of_classes(self) -> dict[int, tuple[int, int]]:
        """By class, how many images have that label, and how many of them it was decided for; empty without labels."""
        return {}

    @abc.abstractmethod
    def against(self, other: Any) -> tuple[float, float | None, float | None]:
        """How far two targets agree over the same images, in percent; then by how much this one's main score is
        higher, and the standard error of that difference; None without labels."""


class Task(abc.ABC):
    """One kind of outputs.

    Attributes:
        name: as files record it.
        outputs: what users call them.
        decides: whether outputs decide something about an image, which labels can score.
        agreeing: how the agreement of two targets, in percent, is said.
    """

    name: str
    outputs: str
    decides: bool
    agreeing: str

    @abc.abstractmethod
    def agreement(self, expected: NDArray[Any], found: NDArray[Any]) -> float | None:
        """The share of images that both outputs [N, ...] decide alike; None where outputs decide nothing."""

    @abc.abstractmethod
    def contradiction(self, expected: NDArray[Any], found: NDArray[Any], noise: NDArray[Any]) -> str | None:
        """The first image that ``found`` decides otherwise, and that is no tie: noise of the standard deviation
        ``noise`` [N] cannot explain it. None where there is none."""

    @abc.abstractmethod
    def essence(self, outputs: Tensor) -> Tensor:
        """What counts of outputs [N, ...] in a squared error, in float64."""

    @abc.abstractmethod
    def distance(self, found: Tensor, expected: Tensor) -> Tensor:
        """How far outputs are from the float model's, as a scalar to train with."""

    @abc.abstractmethod
    def likelihood(self, outputs: Tensor, generator: Generator) -> Tensor | None:
        """The summed log-likelihood of decisions that are drawn from the outputs' own probabilities, for the Fisher
        information; None where outputs are no probabilities."""

    @abc.abstractmethod
    def decisive(self, outputs: Tensor) -> Tensor | None:
        """The index [N] of the output that decides each image; None where outputs decide nothing."""

    @abc.abstractmethod
    def scores(self, size: int) -> Scores:
        """Where to gather the scores of a target with ``size`` outputs for each image."""


class _Classification(Task):
    """Logits [N, classes]: the largest is the image's class."""

    name, outputs, decides, agreeing = "classification", "classes", True, "same top-1 class: {:.2f} % of images"

    def agreement(self, expected: NDArray[Any], found: NDArray[Any]) -> float:
        return float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())

    def contradiction(self, expected: NDArray[Any], found: NDArray[Any], noise: NDArray[Any]) -> str | None:
        picks, classes = found.argmax(axis=1), expected.argmax(axis=1)
        rows = np.arange(len(expected))
        margins = expected[rows, classes] - expected[rows, picks]
        for row in np.flatnonzero(margins > _TIE_SIGMAS * noise):
            return f"image {row}: class {picks[row]} instead of {classes[row]}, which leads by {margins[row]:.3g}"
        return None

    def essence(self, outputs: Tensor) -> Tensor:
        """Less the mean over the classes, which the softmax ignores."""
        outputs = outputs.double()
        return outputs - outputs.mean(dim=1, keepdim=True)

    def distance(self, found: Tensor, expected: Tensor) -> Tensor:
        """Kullback-Leibler divergence of the classes' probabilities."""
        from torch.nn import functional  # noqa: PLC0415 - only calibration needs torch

        return functional.kl_div(
            found.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
        )

    def likelihood(self, outputs: Tensor, generator: Generator) -> Tensor:
        scores = outputs.log_softmax(-1)
        drawn = scores.detach().exp().cpu().multinomial(1, generator=generator).to(outputs.device)
        return scores.gather(1, drawn).sum()

    def decisive(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def scores(self, size: int) -> Scores:
        return _Accuracy(size)


class _Features(Task):
    """Vectors [N, channels] for somebody else to read."""

    name, outputs, decides, agreeing = "features", "features", False, "mean cosine of the features: {:.2f} %"

    def agreement(self, expected: NDArray[Any], found: NDArray[Any]) -> None:
        return None

    def contradiction(self, expected: NDArray[Any], found: NDArray[Any], noise: NDArray[Any]) -> None:
        return None

    def essence(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def distance(self, found: Tensor, expected: Tensor) -> Tensor:
        """Squared error over the mean square of what is expected."""
        return (found - expected).square().mean() / expected.square().mean()

    def likelihood(self, outputs: Tensor, generator: Generator) -> None:
        return None

    def decisive(self, outputs: Tensor) -> None:
        return None

    def scores(self, size: int) -> Scores:
        return _Cosines()


class _Accuracy(Scores):
    """Top-1 and, where there are more than five classes, top-5."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.labels: list[NDArray[np.int64]] = []
        self.predicted: list[NDArray[np.int64]] = []
        self.top1: list[NDArray[np.bool_]] = []
        self.top5: list[NDArray[np.bool_]] = []

    def add(self, outputs: NDArray[np.float32], labels: NDArray[np.int64] | None) -> None:
        ranked = np.argsort(-outputs, axis=1, kind="stable")[:, :5]
        self.predicted.append(ranked[:, 0])
        if labels is not None:
            self.labels.append(labels)
            hits = ranked == labels[:, None]
            self.top1.append(hits[:, 0])
            self.top5.append(hits.any(axis=1))

    def accuracy(self) -> tuple[float | None, float | None, float | None]:
        if not self.top1:
            return None, None, None
        hits = np.concatenate(self.top1)
        top1 = float(hits.mean())
        top5 = 100 * float(np.concatenate(self.top5).mean()) if self.classes > 5 else None
        return 100 * top1, 100 * math.sqrt(top1 * (1 - top1) / len(hits)), top5

    def of_classes(self) -> dict[int, tuple[int, int]]:
        if not self.labels:
            return {}
        labels, hits = np.concatenate(self.labels), np.concatenate(self.top1)
        images, right = np.bincount(labels), np.bincount(labels, weights=hits)
        return {int(one): (int(images[one]), int(right[one])) for one in np.flatnonzero(images)}

    def against(self, other: _Accuracy) -> tuple[float, float | None, float | None]:
        agreement = 100 * float((np.concatenate(self.predicted) == np.concatenate(other.predicted)).mean())
        if not self.top1:
            return agreement, None, None
        difference = 100.0 * np.concatenate(self.top1) - 100.0 * np.concatenate(other.top1)
        return agreement, float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))


class _Cosines(Scores):
    """The mean cosine of two targets' features."""

    def __init__(self) -> None:
        self.directions: list[NDArray[np.float32]] = []

    def add(self, outputs: NDArray[np.float32], labels: NDArray[np.int64] | None) -> None:
        flat = outputs.reshape(len(outputs), -1)
        self.directions.append(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30))

    def accuracy(self) -> tuple[None, None, None]:
        return None, None, None

    def against(self, other: _Cosines) -> tuple[float, None, None]:
        mine, theirs = np.concatenate(self.directions), np.concatenate(other.directions)
        return 100 * float((mine * theirs).sum(axis=1).mean()), None, None


CLASSIFICATION: Task = _Classification()
FEATURES: Task = _Features()
TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, FEATURES)}


def decided(outputs: int) -> Task:
    """The task of a timm model with so many ``outputs`` of its classifier head; 0 where it has none."""
    return CLASSIFICATION if outputs > 0 else FEATURES
