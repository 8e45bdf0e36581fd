"""The registry of methods: the name a user types, and what it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from repq_deploy.errors import BadInput
from repq_deploy.quantized import QuantizedModel
from repq_deploy.quantizers import SoftmaxQuantizer

__all__ = ["METHODS", "Calibrate", "Method", "find_method", "register"]

#: Calibrates a wrapped model in place from normalized images [N, 3, H, W].
Calibrate = Callable[[QuantizedModel, Tensor], None]


@dataclass(frozen=True)
class Method:
    """A method: its function, and how it quantizes attention probabilities."""

    name: str
    calibrate: Calibrate
    softmax: SoftmaxQuantizer


METHODS: dict[str, Method] = {}


def register(name: str, *, softmax: SoftmaxQuantizer) -> Callable[[Calibrate], Calibrate]:
    """Enter a function under ``name``."""

    def enter(function: Calibrate) -> Calibrate:
        if name in METHODS:
            raise ValueError(f"method {name!r} is registered twice")
        METHODS[name] = Method(name, function, softmax)
        return function

    return enter


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise BadInput(f"method {name!r}: expected one of {', '.join(sorted(METHODS))}")
    return METHODS[name]
