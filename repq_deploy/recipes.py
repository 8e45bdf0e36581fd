"""Recipes: a YAML file that says how a model is quantized, for ``repq-export --recipe``.

::

    bits: w4a4,blocks.0.attn.qkv=w5a5
    preset: paper
    method: repq

Every key is optional; what is absent is left to the command's options and defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from repq_deploy.bits import BitWidths
from repq_deploy.errors import BadInput
from repq_deploy.files import existing_file, write_atomically

__all__ = ["Recipe", "load_recipe", "save_recipe"]


@dataclass(frozen=True)
class Recipe:
    """``bits`` and ``preset`` as ``BitWidths.parse`` takes them, ``method`` a registered name; None: not said."""

    bits: str | None = None
    preset: str | None = None
    method: str | None = None

    def to_dict(self) -> dict[str, str]:
        """What is said."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: value for key, value in said.items() if value is not None}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        BadInput: no such file, not YAML, an unknown key, or a value of the wrong form.
    """
    try:
        content: Any = yaml.safe_load(existing_file(path, "recipe").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"recipe {path}: not YAML: {' '.join(str(error).split())[:160]}") from error
    content = {} if content is None else content
    expected = [field.name for field in fields(Recipe)]
    if not isinstance(content, dict):
        raise BadInput(f"recipe {path}: found {type(content).__name__}, expected keys {', '.join(expected)}")
    for key, value in content.items():
        if key not in expected:
            raise BadInput(f"recipe {path}: key {key!r} is unknown; expected {', '.join(expected)}")
        if not isinstance(value, str):
            raise BadInput(f"recipe {path}: {key} is {value!r}, expected text")
    recipe = Recipe(**content)
    try:
        BitWidths.parse(recipe.bits or "w8a8", preset=recipe.preset or "deploy")
    except BadInput as error:
        raise BadInput(f"recipe {path}: {error}") from error
    return recipe


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe in one step."""
    # Overrides are one line: folded at spaces, of which there are none, they read back as they were.
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False, width=10**6)
    write_atomically(path, text.encode())
