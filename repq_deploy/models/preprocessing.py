"""The preprocessing that a model was trained with."""

from __future__ import annotations

from timm.data import resolve_data_config
from torch import nn

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.models.families import known_family

__all__ = ["preprocess_of"]


def preprocess_of(model: nn.Module) -> Preprocess:
    """A timm model's own preprocessing, at the image size that it was built for."""
    config = resolve_data_config({}, model=model)
    family = known_family(model)
    # The configuration is the pretrained weights'; a model built with another img_size says so here only.
    size = config["input_size"][1:] if family is None else family.image_sides(model)[0]
    return Preprocess(
        size=(int(size[0]), int(size[1])),
        crop_pct=float(config["crop_pct"]),
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
