"""Recipes: a YAML file that says how a model is quantized, for ``repq-export --recipe``.

::

    bits: w4a4,blocks.0.attn.qkv=w5a5
    preset: paper
    method: repq

or, in place of a registered method, with steps of one's own (``repq_deploy.steps``), as the files in ``methods`` list
them::

    method: mine
    softmax: log_sqrt2
    images: 128
    steps:
      - ranges: {weights: false}
      - fold
      - weights: {ridge: 0.5, rounding: gptq}

Every key is optional. An option that is given on the command line wins over the recipe; a key that is missing is left
to the command's default.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from repq_deploy.bits import BitWidths
from repq_deploy.errors import BadInput, one_line
from repq_deploy.system.files import existing_file, write_atomically

__all__ = ["Recipe", "load_recipe", "save_recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says; None for a missing key.

    ``bits`` and ``preset`` are as for ``BitWidths.parse``; ``method`` is a registered name, or any beside ``steps``.
    ``steps`` holds (name, options) pairs, ``softmax`` one of ``repq_deploy.quant.softmax.SOFTMAX_KINDS``;
    ``images`` is how many calibration images the method is meant for.
    """

    bits: str | None = None
    preset: str | None = None
    method: str | None = None
    softmax: str | None = None
    images: int | None = None
    steps: tuple[tuple[str, Mapping[str, Any]], ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is said."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.steps is not None:
            said["steps"] = [{name: dict(options)} for name, options in self.steps]
        return {key: value for key, value in said.items() if value is not None}


#: A recipe of a thousand sites has some 50 kB.
_MOST_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses aliases, as a few lines of them make gigabytes, and a key that is given twice, as YAML
    would take the last one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := next((key for index, key in enumerate(keys) if key in keys[:index]), None):
            raise ValueError(f"key {twice!r} is there twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        BadInput: no such file, not YAML, a key that is unknown or there twice, or a value of the wrong form.
    """
    content = _content(path)
    expected = [field.name for field in fields(Recipe)]
    if not isinstance(content, dict):
        raise BadInput(f"recipe {path}: found {type(content).__name__}, expected keys {', '.join(expected)}")
    for key, value in content.items():
        if key not in expected:
            raise BadInput(f"recipe {path}: key {reprlib.repr(key)} is unknown; expected {', '.join(expected)}")
        if key == "images":
            if type(value) is not int or value < 1:
                raise BadInput(f"recipe {path}: images is {reprlib.repr(value)}, expected a whole number above 0")
        elif key != "steps" and not isinstance(value, str):
            raise BadInput(f"recipe {path}: {key} is {reprlib.repr(value)}, expected text")
    if "steps" in content:
        content = {**content, "steps": _steps(content["steps"], path)}
    recipe = Recipe(**content)
    try:
        BitWidths.parse(recipe.bits or "w8a8", preset=recipe.preset or "deploy")
    except BadInput as error:
        raise BadInput(f"recipe {path}: {error}") from error
    return recipe


def _content(path: Path) -> Any:
    existing_file(path, "recipe")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise BadInput(f"recipe {path}: {size} bytes; expected a text of at most {_MOST_BYTES}")
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506
    except RecursionError as error:
        raise BadInput(f"recipe {path}: not a recipe in YAML: nested too deeply") from error
    except OSError as error:
        raise BadInput(f"recipe {path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:  # what looks like a date and is none is a ValueError
        raise BadInput(f"recipe {path}: not a recipe in YAML: {one_line(error, 160)}") from error
    if content is None:
        raise BadInput(f"recipe {path}: holds nothing; expected at least one of bits, preset, method, steps")
    return content


def _steps(found: Any, path: Path) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """``- name`` or ``- name: {option: value}`` each."""
    steps: list[tuple[str, Mapping[str, Any]]] = []
    for entry in found if isinstance(found, list) else [found]:
        if isinstance(entry, str):
            steps.append((entry, {}))
            continue
        single = isinstance(entry, dict) and len(entry) == 1
        name, options = next(iter(entry.items())) if single else (None, None)
        if not isinstance(name, str) or not isinstance(options, dict):
            raise BadInput(f"recipe {path}: step {reprlib.repr(entry)}: expected a name, or one name with options")
        steps.append((name, {option: _number(value) for option, value in options.items()}))
    if not steps:
        raise BadInput(f"recipe {path}: steps is empty; expected at least ranges and fold")
    return tuple(steps)


def _number(value: Any) -> Any:
    """YAML reads 1e-3, which has no point, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe in one step."""
    # Overrides are one line: folded at spaces, of which there are none, they read back as they were.
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, width=10**6)
    write_atomically(path, f"# for repq-export --recipe\n{text}".encode())
