"""The steps methods are made of, by name. Each is a function of a ``Calibration`` and of keyword options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

from repq_deploy.calibration.run import Calibration
from repq_deploy.errors import BadInput
from repq_deploy.steps import balance, bias_correction, center, dual_clip, fold, ranges, reconstruct, rotate, weights

__all__ = ["STEPS", "Step", "step"]

STEPS: dict[str, Callable[..., None]] = {
    "rotate": rotate.rotate,
    "center": center.center,
    "balance": balance.balance,
    "ranges": ranges.ranges,
    "dual_clip": dual_clip.dual_clip,
    "fold": fold.fold,
    "weights": weights.weights,
    "reconstruct": reconstruct.reconstruct,
    "bias_correction": bias_correction.bias_correction,
}


@dataclass(frozen=True)
class Step:
    """One step with its options, as a method or a recipe lists it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in STEPS:
            raise BadInput(f"step {self.name!r}: expected one of {', '.join(STEPS)}")
        known = {name: kind for name, kind in get_type_hints(STEPS[self.name]).items() if name not in ("run", "return")}
        for option, value in self.options.items():
            if option not in known:
                raise BadInput(f"step {self.name}: option {option!r}: expected one of {', '.join(known) or 'none'}")
            if expected := _misfit(value, known[option]):
                raise BadInput(f"step {self.name}: {option} is {value!r}, expected {expected}")

    def __call__(self, run: Calibration) -> None:
        STEPS[self.name](run, **self.options)

    def option(self, name: str) -> Any:
        """What the step takes for an option that it has, given or by default."""
        return self.options.get(name, signature(STEPS[self.name]).parameters[name].default)


def _misfit(value: Any, kind: Any) -> str | None:
    """What was expected in place of ``value``, an option of the type ``kind``; None where it fits."""
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(get_args(kind))}"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is int:
        return None if type(value) is int and value > 0 else "a whole number above 0"
    return None if type(value) in (int, float) and math.isfinite(value) and value >= 0 else "a number of at least 0"


def step(name: str, **options: Any) -> Step:
    """``Step(name, options)``, shorter where methods are listed."""
    return Step(name, options)
