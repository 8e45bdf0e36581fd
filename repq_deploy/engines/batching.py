"""Running any number of images on an engine that takes a limited number at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput

__all__ = ["THREADS", "BatchedRunner", "GraphRunner", "Profile", "Runner"]

#: The first is the largest batch of any engine. The second is the largest that an engine's smallest batch may be, as
#: its validation runs on that many images.
LARGEST_BATCH, LARGEST_LEAST = 8192, 256

#: Session option of the CPU backends: how many threads to use; the runtime's own choice where it is not given.
THREADS = "threads"

Array = NDArray[np.float32]

#: Computes all outputs of a graph from its inputs, both by name.
GraphRunner = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


class Runner(Protocol):
    """Computes the outputs float32 [N, numbers] of images [N, ...], as an ``ImageInput`` says, for any N of at least 1:
    logits, or all outputs ``joined``."""

    def __call__(self, images: NDArray[Any], /) -> Array: ...


@dataclass(frozen=True)
class Profile:
    """The batch sizes an engine accepts, and the one it is tuned for."""

    min: int = 1
    opt: int = 8
    max: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= LARGEST_BATCH or self.min > LARGEST_LEAST:
            raise BadInput(
                f"batch sizes min {self.min}, opt {self.opt}, max {self.max}: expected 1 <= min <= opt <= max <= "
                f"{LARGEST_BATCH}, min at most {LARGEST_LEAST}; change --min-batch, --opt-batch or --max-batch"
            )


@dataclass(frozen=True)
class BatchedRunner:
    """A ``Runner`` made of ``run``, which takes between ``profile.min`` and ``profile.max`` images."""

    run: Callable[[NDArray[Any]], Array]
    profile: Profile
    images: ImageInput

    def __call__(self, images: NDArray[Any]) -> Array:
        # Bytes taken for normalized numbers, or these cut to bytes, would give wrong answers and no error.
        fits = images.dtype == np.uint8 if self.images.takes_pixels else images.dtype.kind == "f"
        if images.shape[1:] != self.images.shape or len(images) == 0 or not fits:
            raise BadInput(f"images {images.dtype} {list(images.shape)}: this engine takes {self.images}")
        images = np.ascontiguousarray(images, dtype=self.images.dtype)
        chunks = [images[start : start + self.profile.max] for start in range(0, len(images), self.profile.max)]
        return np.concatenate([self._run_chunk(chunk) for chunk in chunks])

    def _run_chunk(self, chunk: NDArray[Any]) -> Array:
        missing = self.profile.min - len(chunk)
        if missing <= 0:
            return self.run(chunk)
        return self.run(np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]))[: len(chunk)]
