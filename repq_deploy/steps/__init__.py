"""The steps methods are made of, by name. Each is a function of a ``Calibration`` and of keyword options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from repq_deploy.calibration import Calibration
from repq_deploy.errors import BadInput
from repq_deploy.steps.bias_correction import bias_correction
from repq_deploy.steps.dual_clip import dual_clip
from repq_deploy.steps.ranges import fold, ranges
from repq_deploy.steps.reconstruct import reconstruct
from repq_deploy.steps.rotate import rotate
from repq_deploy.steps.weights import weights

__all__ = ["STEPS", "Step", "step"]

STEPS: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (rotate, ranges, dual_clip, fold, weights, reconstruct, bias_correction)
}


@dataclass(frozen=True)
class Step:
    """One step with its options, as a method or a recipe lists it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in STEPS:
            raise BadInput(f"step {self.name!r}: expected one of {', '.join(STEPS)}")
        known = list(inspect.signature(STEPS[self.name]).parameters)[1:]
        if unknown := sorted(set(self.options) - set(known)):
            raise BadInput(f"step {self.name}: option {unknown[0]!r}: expected one of {', '.join(known) or 'none'}")

    def __call__(self, run: Calibration) -> None:
        STEPS[self.name](run, **self.options)


def step(name: str, **options: Any) -> Step:
    """``Step(name, options)``, shorter where methods are listed."""
    return Step(name, options)
