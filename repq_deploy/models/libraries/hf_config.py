"""Reading ``config.json`` of Hugging Face's transformers, which somebody else has written: value by value, with bounds.

Files leave out what is the default of their model type, so each reader says the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repq_deploy.calib_data.classes import check_names
from repq_deploy.errors import BadInput

__all__ = ["Config"]

#: transformers' names of activations, and timm's of the same functions.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
_LARGEST = 10**6


@dataclass(frozen=True)
class Config:
    """A configuration ``data`` of the model at ``where``. Each method raises BadInput for a value of another kind."""

    data: Mapping[str, Any]
    where: str

    def part(self, name: str) -> Config:
        """The configuration in a configuration."""
        found = self.data.get(name)
        if not isinstance(found, dict):
            raise self.error(name, found, "an object")
        return Config(found, self.where)

    def count(self, name: str, default: int) -> int:
        found = self._or_default(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= _LARGEST:
            raise self.error(name, found, f"a number from 1 to {_LARGEST}")
        return found

    def counts(self, name: str, default: tuple[int, ...]) -> list[int]:
        """A list of numbers, such as one for each stage."""
        found = self._or_default(name, list(default))
        fits = isinstance(found, list) and 0 < len(found) <= 16
        if not fits or not all(isinstance(one, int) and 0 < one <= _LARGEST for one in found):
            raise self.error(name, found, "a list of numbers")
        return list(found)

    def sides(self, name: str, default: int) -> int | list[int]:
        """Pixels of both sides, or height and width."""
        found = self._or_default(name, default)
        return self.counts(name, ()) if isinstance(found, list) else self.count(name, default)

    def number(self, name: str, default: float) -> float:
        found = self._or_default(name, default)
        if not isinstance(found, int | float) or isinstance(found, bool) or not 0 <= found <= _LARGEST:
            raise self.error(name, found, "a number that is not negative")
        return float(found)

    def flag(self, name: str, default: bool) -> bool:
        found = self._or_default(name, default)
        if not isinstance(found, bool):
            raise self.error(name, found, "true or false")
        return found

    def activation(self, default: str) -> str:
        """timm's name of the MLPs' activation."""
        found = self._or_default("hidden_act", default)
        if found not in _ACTIVATIONS:
            raise self.error("hidden_act", found, ", ".join(_ACTIVATIONS))
        return _ACTIVATIONS[found]

    def architecture(self, known: tuple[str, ...]) -> str:
        """The class of the model, one of ``known``, whose first one is what a file means that says none."""
        found = self.data.get("architectures")
        name = found[0] if isinstance(found, list) and found else known[0]
        if name not in known:
            raise self.error("architectures", name, " or ".join(known))
        return str(name)

    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where they are the numbers that transformers makes up."""
        labels = self._labels()
        names = [str(labels[number]) for number in sorted(labels)]
        if len(set(names)) < len(names) or all(name == f"LABEL_{number}" for number, name in enumerate(names)):
            return ()
        return check_names([" ".join(name.split()) for name in names], f"{self.where}: id2label")

    def num_classes(self) -> int:
        labels = self._labels()
        return len(labels) if labels else self.count("num_labels", 2)

    def _labels(self) -> dict[int, Any]:
        found = self.data.get("id2label") or {}
        if not isinstance(found, dict) or len(found) > _LARGEST or not all(key.isdecimal() for key in map(str, found)):
            raise self.error("id2label", found, "an object from numbers to names")
        labels = {int(key): value for key, value in found.items()}
        if sorted(labels) != list(range(len(labels))):
            raise self.error("id2label", found, "every number from 0 on")
        return labels

    def _or_default(self, name: str, default: Any) -> Any:
        found = self.data.get(name)
        return default if found is None else found

    def error(self, name: str, found: Any, expected: str) -> BadInput:
        return BadInput(f"{self.where}: {name} is {str(found)[:60]!r}, expected {expected}")
