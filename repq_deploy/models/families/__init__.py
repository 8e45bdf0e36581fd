"""Families of models, one file each: a new file with a ``FAMILY`` is a new family, nothing else names it."""

from __future__ import annotations

import importlib
import pkgutil

from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.family import Family
from repq_deploy.models.sites import Sites, Stage
from repq_deploy.models.taps import Tapped
from repq_deploy.tasks import CLASSIFICATION, Task

__all__ = ["FAMILIES", "find_family", "find_sites", "known_family", "prepare", "stages", "task_of"]

FAMILIES: tuple[Family, ...] = tuple(
    importlib.import_module(f"{__name__}.{module.name}").FAMILY for module in pkgutil.iter_modules(__path__)
)


def known_family(model: nn.Module) -> Family | None:
    """The family of a model, wrapped or not: that of its nearest class; None where there is none for it."""
    if isinstance(model, Tapped):
        return model.family
    kinds = type(model).__mro__
    found = [family for family in FAMILIES if family.model in kinds and family.accepts(model)]
    return min(found, key=lambda family: kinds.index(family.model), default=None)


def find_family(model: nn.Module) -> Family:
    """The family of a model, wrapped or not.

    Raises:
        BadInput: there is none for the model's class.
    """
    family = known_family(model)
    if family is None:
        *others, last = sorted((family.words for family in FAMILIES), reverse=True)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise BadInput(f"model family {type(model).__name__} is not supported; expected {expected}")
    return family


def find_sites(model: nn.Module) -> Sites:
    """The sites of a float model, which is brought to the form that they speak of (``Family.prepare``).

    Raises:
        BadInput: the model's class is of no supported family, or it has a block that the family's reading does not fit.
    """
    return prepare(model).sites(model)


def prepare(model: nn.Module) -> Family:
    """Bring a float model, in place, to the form that its sites speak of; it computes the same.

    Returns:
        The model's family.

    Raises:
        BadInput: there is none for the model's class.
    """
    family = find_family(model)
    family.prepare(model)
    return family


def stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a model, wrapped or not, whose forward passes one after the other are the model's."""
    return find_family(model).stages(model)


def task_of(model: nn.Module) -> Task:
    """What the outputs of a model, wrapped or not, are for; of a model of no supported family, classification."""
    family = known_family(model)
    task = None if family is None else family.stages(model)[-1].task
    return task or CLASSIFICATION
