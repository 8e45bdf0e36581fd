"""Images as a model's input: a seeded choice for calibration, a stream of batches for evaluation."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.calib_data.sources import ImageSource, UnreadableImage, open_images
from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput

__all__ = ["ImageSource", "LoadedImages", "choose", "iterate_batches", "load_sample", "open_images"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedImages:
    """``pixels`` is float32 [N, 3, H, W], or as another ``ImageInput`` has them; ``source`` holds the same N images, so
    its labels and SHA-256 are theirs."""

    pixels: np.ndarray
    source: ImageSource


def load_sample(
    spec: str | Path | ImageSource,
    preprocess: Preprocess,
    *,
    count: int | None = None,
    seed: int = 0,
    form: ImageInput | None = None,
) -> LoadedImages:
    """Choose ``count`` images at random and load them.

    The choice is the beginning of one shuffle of all images, of all classes alike: the same ``seed`` and files give the
    same images in the same order, and a larger ``count`` begins with the images of a smaller one. An unreadable image
    is named in a warning and the shuffle's next takes its place; more than a tenth of ``count`` (but at least one) of
    them is an error.

    Args:
        spec: what ``open_images`` takes, or what it gives.
        count: how many, at least 1; default: all, in the source's order.
        form: what the images become; default: float32, normalized.

    Raises:
        BadInput: too few images, or too many unreadable ones.
    """
    source = spec if isinstance(spec, ImageSource) else open_images(spec)
    wanted = len(source) if count is None else count
    if wanted < 1:
        raise BadInput(f"number of images {wanted}: expected at least 1")
    if wanted > len(source):
        raise BadInput(
            f"images {source.origin}: found {len(source)}, expected at least {wanted}; add some or ask fewer"
        )
    order = range(len(source)) if count is None else choose(source, len(source), seed)
    reader = _Reader(source, preprocess, form, limit=max(1, wanted // 10))
    chosen: list[tuple[int, np.ndarray]] = []
    with ThreadPoolExecutor(_threads()) as pool:
        rest = iter(order)
        while len(chosen) < wanted:
            batch = list(itertools.islice(rest, wanted - len(chosen)))
            if not batch:
                break
            chosen += reader.kept(batch, list(pool.map(reader.load, batch)))
    if len(chosen) < wanted and count is not None:
        raise BadInput(f"images {source.origin}: only {len(chosen)} can be read, expected {wanted}; ask for fewer")
    if not chosen:
        raise BadInput(f"images {source.origin}: none can be read")
    return LoadedImages(np.stack([pixels for _, pixels in chosen]), source.select([index for index, _ in chosen]))


def choose(source: ImageSource, count: int, seed: int) -> list[int]:
    """The first ``count`` indices of a seeded shuffle of ``source``."""
    return np.random.default_rng(seed).permutation(len(source))[:count].tolist()


def iterate_batches(
    source: ImageSource, preprocess: Preprocess, batch_size: int, form: ImageInput | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """All images in order, as (images [B, ...], int64 [B] or None), B at most ``batch_size``. ``form`` is what they
    become, float32 [B, 3, H, W] where it is not given.

    The next batch is decoded by threads while the caller works on this one. An unreadable image is named in a warning
    and left out.

    Raises:
        BadInput: more than a tenth of the images (but at least one) are unreadable.
    """
    reader = _Reader(source, preprocess, form, limit=max(1, len(source) // 10))
    batches = [range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    with ThreadPoolExecutor(_threads()) as pool:
        pending = [pool.submit(reader.load, index) for index in batches[0]] if batches else []
        for batch, following in zip(batches, [*batches[1:], range(0)], strict=True):
            current, pending = pending, [pool.submit(reader.load, index) for index in following]
            kept = reader.kept(batch, _results(current))
            if kept:
                labels = None if source.labels is None else source.labels[[index for index, _ in kept]]
                yield np.stack([pixels for _, pixels in kept]), labels


class _Reader:
    """Loads images of one source and counts the unreadable ones."""

    def __init__(self, source: ImageSource, preprocess: Preprocess, form: ImageInput | None, *, limit: int) -> None:
        self.source = source
        self.preprocess = preprocess
        self.form = form or ImageInput(preprocess.size)
        self.limit = limit
        self.unreadable = 0

    def load(self, index: int) -> np.ndarray | UnreadableImage:
        """One image, or why there is none. Called from threads."""
        try:
            return self.preprocess.for_input(self.source.read(index), self.form)
        except UnreadableImage as error:
            return error

    def kept(
        self, indices: Sequence[int], loaded: Sequence[np.ndarray | UnreadableImage]
    ) -> list[tuple[int, np.ndarray]]:
        """Drop the unreadable ones with a warning each, up to the limit."""
        kept = []
        for index, item in zip(indices, loaded, strict=True):
            if isinstance(item, UnreadableImage):
                self.unreadable += 1
                logger.warning("%s; left out", item)
                if self.unreadable > self.limit:
                    raise BadInput(
                        f"{item}; {self.unreadable} unreadable images, allowed are {self.limit}; remove them"
                    )
            else:
                kept.append((index, item))
        return kept


def _results(futures: list[Future[np.ndarray | UnreadableImage]]) -> list[np.ndarray | UnreadableImage]:
    return [future.result() for future in futures]


def _threads() -> int:
    return min(8, os.cpu_count() or 1)
