"""The outputs of a model that has several, by name, and as the one array that proofs, scores and engines pass around.

Such an array is ``joined``: all numbers of an image in one row, output after output. A model that gives logits has one
output, which is its joined form already.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outputs", "joined", "leaves"]


@dataclass(frozen=True)
class Outputs:
    """Names of outputs, in order, with the shape of each for one image."""

    shapes: dict[str, tuple[int, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def numbers(self) -> int:
        """How many numbers all outputs have for an image."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def slices(self) -> Iterator[slice]:
        """Where each output stands in a row of the joined array."""
        ends = itertools.accumulate((math.prod(shape) for shape in self.shapes.values()), initial=0)
        return (slice(*pair) for pair in itertools.pairwise(ends))

    def named(self, rows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The inverse of ``joined``: each output [N, *shape] of ``rows`` [N, numbers]."""
        parts = zip(self.shapes.items(), self.slices(), strict=True)
        return {name: rows[:, part].reshape(len(rows), *shape) for (name, shape), part in parts}


def joined(outputs: Any) -> Any:
    """The outputs of a model for N images as one array or tensor [N, numbers]; one that is alone stays as it is."""
    if not isinstance(outputs, list | tuple | Mapping):
        return outputs
    rows = [one.reshape(len(one), -1) for one in leaves(outputs).values()]
    if isinstance(rows[0], np.ndarray):
        return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
    import torch  # noqa: PLC0415 - what runs engines has none

    return torch.cat(rows, dim=1)


def leaves(outputs: Any, name: str = "") -> dict[str, Any]:
    """The arrays or tensors in nested lists, tuples and mappings, in order, by names of their own.

    A key is a name, an index stands behind one: ``{"boxes": a, "maps": [b, c]}`` has boxes, maps_0, maps_1; what has no
    key is called "output". None is left out.
    """
    if outputs is None:
        return {}
    if isinstance(outputs, Mapping):
        each = [(f"{name}_{key}" if name else str(key), one) for key, one in outputs.items()]
    elif isinstance(outputs, list | tuple):
        each = [(f"{name or 'output'}_{index}", one) for index, one in enumerate(outputs)]
    else:
        return {name or "output": outputs}
    return {key: leaf for inner, one in each for key, leaf in leaves(one, inner).items()}
