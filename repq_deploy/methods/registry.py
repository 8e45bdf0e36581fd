"""The registry of methods: the name a user types, and the steps it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from repq_deploy.errors import BadInput
from repq_deploy.steps import Step

__all__ = ["METHODS", "Method", "find_method", "register"]


@dataclass(frozen=True)
class Method:
    """A method: how it quantizes attention probabilities, its steps in order, and how many images it is meant for."""

    name: str
    softmax: str
    steps: tuple[Step, ...]
    images: int = 32


METHODS: dict[str, Method] = {}


def register(name: str, *, softmax: str, steps: tuple[Step, ...], images: int = 32) -> Method:
    """Enter a method under ``name``."""
    if name in METHODS:
        raise ValueError(f"method {name!r} is registered twice")
    METHODS[name] = Method(name, softmax, steps, images)
    return METHODS[name]


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        BadInput: there is none; the message lists those there are.
    """
    if name not in METHODS:
        raise BadInput(f"method {name!r}: expected one of {', '.join(sorted(METHODS))}")
    return METHODS[name]
