"""Tiny models that give features, with layer norms as uneven as those of ``conftest``."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from repq_deploy.models.families import find_family
from repq_deploy.models.loading import FloatModel
from repq_deploy.models.taps import Features, tapped
from tests.conftest import SPECS, float_model

__all__ = ["tapped_model", "timm_model"]


def timm_model(family: str) -> nn.Module:
    """The whole model that ``tapped_model`` is a part of."""
    return float_model(family)


def tapped_model(family: str, features: Features) -> FloatModel:
    """The model of a family of ``conftest``, as it gives ``features``."""
    network = float_model(family)
    return FloatModel(tapped(network, find_family(network), features), replace(SPECS[family], features=features), None)
