"""A tensor as a client of the protocol sends it, and the images that an engine takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.manifest import Manifest
from repq_deploy.export.names import INPUT
from repq_deploy.outputs import Outputs
from repq_deploy.serve.refusals import Reason, Refused

__all__ = ["DATATYPES", "Tensor", "TensorMetadata", "images_of", "input_metadata", "output_metadata"]

#: The protocol's names of the types that engines take and give, and NumPy's of the same bytes.
DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}

#: Names and shapes of clients are quoted up to here.
_QUOTED = 60


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor of a model: its name, the protocol's name of its type, and its shape, whose -1 is any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """What a client sent: ``data`` are bytes in row-major order, or numbers as JSON has them, nested or flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview | Sequence[Any]


def input_metadata(manifest: Manifest) -> TensorMetadata:
    """The images [N, ...] that the engine takes."""
    return TensorMetadata(INPUT, "UINT8" if manifest.input.takes_pixels else "FP32", (-1, *manifest.input.shape))


def output_metadata(outputs: Outputs) -> tuple[TensorMetadata, ...]:
    """The outputs [N, ...] of an engine, float32 all of them."""
    return tuple(TensorMetadata(name, "FP32", (-1, *shape)) for name, shape in outputs.shapes.items())


def images_of(tensors: Sequence[Tensor], expected: TensorMetadata, most: int) -> NDArray[Any]:
    """The images [N, ...] of a request, N from 1 to ``most``, without a copy where bytes were sent.

    Raises:
        Refused: not the one input that is expected, of its type and shape, with finite numbers.
    """
    if len(tensors) != 1 or tensors[0].name != expected.name:
        found = ", ".join(repr(tensor.name[:_QUOTED]) for tensor in tensors[:4]) or "none"
        raise _invalid(f"inputs {found}: expected one, {expected.name!r}")
    (tensor,) = tensors
    if tensor.datatype != expected.datatype:
        raise _invalid(f"input {tensor.name!r}: datatype {tensor.datatype[:_QUOTED]!r}, expected {expected.datatype}")
    if tensor.shape[1:] != expected.shape[1:] or not 1 <= tensor.shape[0] <= most:
        wanted = f"[1 to {most}, {', '.join(map(str, expected.shape[1:]))}]"
        raise _invalid(f"input {tensor.name!r}: shape {str(list(tensor.shape))[:_QUOTED]}, expected {wanted}")
    dtype = DATATYPES[expected.datatype]
    if isinstance(tensor.data, bytes | bytearray | memoryview):
        images = _from_bytes(tensor, tensor.data, dtype)
    else:
        images = _from_numbers(tensor, tensor.data, dtype)
    if dtype.kind == "f" and not np.isfinite(images).all():
        raise _invalid(f"input {tensor.name!r}: holds NaN or infinite values")
    return images.reshape(tensor.shape)


def _from_bytes(tensor: Tensor, data: bytes | bytearray | memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise _invalid(
            f"input {tensor.name!r}: {len(data)} bytes, expected {expected} for shape {list(tensor.shape)} of "
            f"{tensor.datatype}"
        )
    return np.frombuffer(data, dtype)


def _from_numbers(tensor: Tensor, data: Sequence[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    problem = _invalid(f"input {tensor.name!r}: data are no numbers of {tensor.datatype} in shape {list(tensor.shape)}")
    try:
        numbers = np.asarray(data)
    except (ValueError, TypeError, OverflowError) as error:  # ragged, or nested deeper than an array has axes
        raise problem from error
    if numbers.shape not in (tensor.shape, (math.prod(tensor.shape),)) or numbers.dtype.kind not in "iuf":
        raise problem
    if dtype.kind == "u" and (numbers.dtype.kind == "f" or numbers.min() < 0 or numbers.max() > np.iinfo(dtype).max):
        raise problem
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and said to be
        return numbers.astype(dtype)


def _invalid(message: str) -> Refused:
    return Refused(Reason.INVALID, message)
