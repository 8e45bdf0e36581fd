"""The reference of a canonical ONNX file: images and the outputs that ONNX Runtime gives with no optimizations.

``<name>.reference.npz`` holds ``images``, six as the model takes them, and ``logits`` float32 [6, classes] (with other
outputs: all their numbers), the model's own SQNR under rounding (see ``rounding.py``), the SHA-256 of the ONNX file,
and in words where the images come from. A machine with the GPU needs nothing else to validate an engine. There are six
images, so that a batch of one and a batch of five are both checked.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.backends.onnxruntime import open_reference
from repq_deploy.engines.batching import Runner
from repq_deploy.engines.prove_engine import sqnr_db
from repq_deploy.engines.rounding import MANTISSA_BITS, round_constants, round_mantissa
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BadInput
from repq_deploy.export.names import PREPROCESS
from repq_deploy.inputs import DTYPES, ImageInput
from repq_deploy.system.files import read_arrays

if TYPE_CHECKING:
    from repq_deploy.calib_data.preprocess import Preprocess

__all__ = ["IMAGES", "Reference", "make_reference", "read_reference", "run_batches"]

IMAGES = 6
_FIELDS = ("images", "logits", "rounding_sqnr_db", "source_sha256", "inputs")


@dataclass(frozen=True)
class Reference:
    """Images [6, ...] as the model takes them, their logits float32 [6, classes], and what they belong to.

    ``rounding_sqnr_db`` maps a precision to how near (in dB) the logits stay when constants are rounded to it.
    """

    images: NDArray[Any]
    logits: NDArray[np.float32]
    rounding_sqnr_db: dict[str, float]
    source_sha256: str
    inputs: str

    def to_bytes(self) -> bytes:
        """The npz file; equal references give equal bytes."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            images=self.images,
            logits=self.logits,
            rounding_sqnr_db=np.array([self.rounding_sqnr_db[precision] for precision in MANTISSA_BITS]),
            source_sha256=np.array(self.source_sha256),
            inputs=np.array(self.inputs),
        )
        return buffer.getvalue()


def make_reference(source: SourceModel, *, data: str | None, seed: int) -> Reference:
    """Run ``source`` on six images.

    ``data`` is an npz or npy file of images as the model takes them, or what ``calib_data`` takes: an image folder.
    None means seeded noise with the spectrum of photographs.
    """
    if data is None:
        images, inputs = _noise_images(source, seed), f"noise with a 1/f spectrum, seed {seed}"
    elif data.endswith((".npz", ".npy")):
        images, inputs = _images_of_file(Path(data), source.input), f"file {Path(data).name}"
    else:
        images, inputs = _images_of_folder(data, source, seed), f"images of {Path(data).name}, seed {seed}"
    logits = run_batches(open_reference(source), images)
    if not np.isfinite(logits).all():
        raise BadInput(f"model {source.path}: gives NaN or infinite logits on {inputs}; export it again")
    rounding = {name: sqnr_db(logits, _rounded_logits(source, images, bits)) for name, bits in MANTISSA_BITS.items()}
    return Reference(images, logits, rounding, source.sha256, inputs)


def run_batches(runner: Runner, images: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of the first image alone, then of the rest as one batch."""
    return np.concatenate([runner(images[:1]), runner(images[1:])])


def read_reference(path: Path) -> Reference:
    """Read what ``Reference.to_bytes`` gave.

    Raises:
        BadInput: there is no such file, or it is not a reference.
    """
    arrays = read_arrays(path, "reference", advice="rebuild the engine")
    if missing := [field for field in _FIELDS if field not in arrays]:
        raise BadInput(f"reference {path}: holds no {missing[0]}, so it is no engine's reference; rebuild the engine")
    images, logits, rounding, source_sha256, inputs = (arrays[field] for field in _FIELDS)
    shapes_fit = images.ndim == 4 and logits.ndim == 2 and len(images) == len(logits) == IMAGES
    shapes_fit = shapes_fit and rounding.shape == (len(MANTISSA_BITS),) and rounding.dtype == np.float64
    if not shapes_fit or images.dtype.name not in DTYPES or logits.dtype != np.float32:
        raise BadInput(f"reference {path}: holds other arrays than {IMAGES} images and logits; rebuild the engine")
    if not (np.isfinite(images).all() and np.isfinite(logits).all() and not np.isnan(rounding).any()):
        raise BadInput(f"reference {path}: holds NaN or infinite values; rebuild the engine")
    by_precision = dict(zip(MANTISSA_BITS, rounding.tolist(), strict=True))
    return Reference(images, logits, by_precision, str(source_sha256), str(inputs))


def _rounded_logits(source: SourceModel, images: NDArray[Any], bits: int) -> NDArray[np.float32]:
    data = round_constants(source.model, bits).SerializeToString()
    rounded = images if source.input.takes_pixels else round_mantissa(images, bits)
    return run_batches(open_reference(source, data=data), rounded)


def _noise_images(source: SourceModel, seed: int) -> NDArray[Any]:
    """Noise as the model takes it; bytes are those that it normalizes to nearly the same noise."""
    images = _noise(source.input.sides, seed)
    return source.input.of_pixels(_preprocess(source).denormalized(images)) if source.input.takes_pixels else images


def _noise(sides: tuple[int, int], seed: int) -> NDArray[np.float32]:
    """Images [6, 3, H, W] of zero mean and unit variance whose amplitude falls with frequency, as in photographs.

    White noise would average out within a patch and leave every token alike.
    """
    height, width = sides
    white = np.random.default_rng(seed).standard_normal((IMAGES, 3, height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    images = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(height, width))
    return (images / images.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


def _images_of_file(path: Path, form: ImageInput) -> NDArray[Any]:
    arrays = read_arrays(path, "reference data")
    images = arrays.get("images", next(iter(arrays.values()), np.empty(0)))
    fits = images.dtype == np.uint8 if form.takes_pixels else images.dtype.kind == "f"
    if not fits or images.shape[1:] != form.shape or len(images) < IMAGES:
        kind = "RGB images in uint8" if form.takes_pixels else "preprocessed float images"
        raise BadInput(
            f"reference data {path}: {images.dtype} {list(images.shape)}, expected {kind} "
            f"[at least {IMAGES}, {', '.join(map(str, form.shape))}]"
        )
    images = images[:IMAGES].astype(form.dtype)
    if not np.isfinite(images).all():
        raise BadInput(f"reference data {path}: holds NaN or infinite values")
    return images


def _images_of_folder(data: str, source: SourceModel, seed: int) -> NDArray[Any]:
    from repq_deploy.calib_data.images import load_sample  # noqa: PLC0415 (pillow only where images are decoded)

    return load_sample(data, _preprocess(source), count=IMAGES, seed=seed, form=source.input).pixels


def _preprocess(source: SourceModel) -> Preprocess:
    from repq_deploy.calib_data.preprocess import Preprocess  # noqa: PLC0415 (pillow only where images are made)

    if not source.metadata.get(PREPROCESS):
        raise BadInput(f"model {source.path}: says no preprocessing ({PREPROCESS}); give --reference-data as an npz")
    return Preprocess.from_json(source.metadata[PREPROCESS])
