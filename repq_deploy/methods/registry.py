"""The registry of methods: the name a user types, and the steps it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from repq_deploy.errors import BadInput
from repq_deploy.models.legality import Rewrite
from repq_deploy.steps import Step

__all__ = ["METHODS", "Method", "find_method", "register"]

#: What the step ``rotate`` rotates, by the words of its option.
_ROTATED: tuple[Rewrite, ...] = ("stream", "heads")


@dataclass(frozen=True)
class Method:
    """A method: how it quantizes attention probabilities, its steps in order, and how many images it is meant for."""

    name: str
    softmax: str
    steps: tuple[Step, ...]
    images: int = 32

    def rewrites(self, softmax: str | None = None) -> set[Rewrite]:
        """The exact rewrites that its steps make wherever a model allows them; ``softmax`` is in place of its own."""
        found: set[Rewrite] = set() if (softmax or self.softmax) == "float" else {"bits"}
        for step in self.steps:
            if step.name == "rotate":
                found |= {part for part in _ROTATED if step.option("what") in (part, "both")}
            elif step.name == "center":
                found.add("center")
            elif step.name == "balance":
                found.add("balance")
            elif step.name == "ranges":
                found |= {"fold"} if step.option("post_norm") != "tensor" else set()
                found |= {"head_scales"} if step.option("attention") == "head" else set()
                found |= {"gelu"} if step.option("gelu") == "adalog" else set()
        return found


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
