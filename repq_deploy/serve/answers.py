"""What a client asked of the outputs, and what it gets: numbers, or the classes that lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.serve.refusals import Reason, Refused

__all__ = ["Answer", "Wanted", "answers", "check_wanted", "classes_of"]


@dataclass(frozen=True)
class Wanted:
    """An output by name; as its ``classes`` leading classes where that is not 0, as Triton's extension has it.

    ``binary``: as bytes behind the JSON, where the answer is JSON.
    """

    name: str
    classes: int = 0
    binary: bool = False


@dataclass(frozen=True)
class Answer:
    """An output as it is sent: float32 numbers, or texts as bytes (datatype BYTES), in an array of its shape."""

    name: str
    datatype: str
    values: NDArray[Any]
    binary: bool

    def to_bytes(self) -> bytes:
        """In row-major order; a text has its length before it, as 4 little-endian bytes."""
        if self.datatype != "BYTES":
            return self.values.tobytes()
        return b"".join(len(text).to_bytes(4, "little") + text for text in self.values.ravel().tolist())

    def to_list(self) -> list[float] | list[str]:
        """Flat, in row-major order, as JSON holds it."""
        flat = self.values.ravel().tolist()
        return [text.decode() for text in flat] if self.datatype == "BYTES" else flat


def check_wanted(wanted: Sequence[Wanted], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise Refused where an output of ``wanted`` is none of ``shapes``, is there twice, or has no classes."""
    for place, each in enumerate(wanted):
        if each.name not in shapes:
            raise Refused(Reason.INVALID, f"output {each.name[:60]!r}: expected one of {', '.join(shapes)}")
        if any(each.name == other.name for other in wanted[:place]):
            raise Refused(Reason.INVALID, f"output {each.name!r}: is asked for twice")
        shape = shapes[each.name]
        if each.classes and (len(shape) != 1 or not 1 <= each.classes <= shape[0]):
            found = f"output {each.name!r}: classification of {each.classes} classes"
            raise Refused(Reason.INVALID, f"{found}, of an output of shape {[-1, *shape]}")


def answers(outputs: Mapping[str, NDArray[np.float32]], wanted: Sequence[Wanted], names: Sequence[str]) -> list[Answer]:
    """The ``wanted`` of ``outputs`` [N, ...], in that order. ``names`` are a classifier's classes, or empty."""
    return [
        Answer(each.name, "BYTES", classes_of(outputs[each.name], each.classes, names), each.binary)
        if each.classes
        else Answer(each.name, "FP32", outputs[each.name], each.binary)
        for each in wanted
    ]


def classes_of(logits: NDArray[np.float32], count: int, names: Sequence[str] = ()) -> NDArray[Any]:
    """The ``count`` leading classes of each row of ``logits`` [N, classes] as texts [N, count], the largest first:
    ``VALUE:INDEX``, and ``VALUE:INDEX:NAME`` where classes have names. Of equal values the lower index leads."""
    leading = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(logits, leading, axis=1)
    texts = np.empty(leading.shape, object)
    for place, index in np.ndenumerate(leading):
        label = f":{names[int(index)]}" if names else ""
        texts[place] = f"{values[place]:f}:{index}{label}".encode()
    return texts
