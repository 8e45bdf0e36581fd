"""Models of Hugging Face's transformers: their ``model_type``, and who reads their configuration.

Nothing here needs transformers: a configuration is JSON, weights are tensors, and no code of a model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.libraries.hf_config import Config
from repq_deploy.models.libraries.hf_dinov3 import dinov3
from repq_deploy.models.libraries.hf_swin import swin
from repq_deploy.models.libraries.hf_towers import clip, siglip
from repq_deploy.models.libraries.hf_vit import deit, dinov2, vit
from repq_deploy.models.libraries.twin import Twin

__all__ = ["MODEL_TYPES", "is_model", "twin_of_config", "twin_of_model"]

#: Who reads the configuration of which ``model_type``.
MODEL_TYPES: dict[str, Callable[[Config], Twin]] = {
    "vit": vit,
    "deit": deit,
    "dinov2": dinov2,
    "dinov2_with_registers": dinov2,
    "dinov3_vit": dinov3,
    "swin": swin,
    "siglip": siglip,
    "siglip_vision_model": siglip,
    "clip": clip,
    "clip_vision_model": clip,
}


def twin_of_config(data: Mapping[str, Any], where: str) -> Twin:
    """The timm model of a configuration, that is the content of a ``config.json``.

    Raises:
        BadInput: a model type that is not supported, or a value that its reader does not know; ``where`` names it.
    """
    kind = data.get("model_type")
    if kind not in MODEL_TYPES:
        if "architecture" in data and kind is None:
            raise BadInput(f"{where}: is a model of timm's, {str(data['architecture'])[:60]}; give that name instead")
        raise BadInput(f"{where}: model_type {str(kind)[:60]!r} is not supported; expected {', '.join(MODEL_TYPES)}")
    return MODEL_TYPES[kind](Config(data, where))


def is_model(model: nn.Module) -> bool:
    """Whether a module is a model of transformers, or of a class derived from one."""
    return any(kind.__module__.startswith("transformers.models.") for kind in type(model).__mro__)


def twin_of_model(model: Any) -> Twin:
    """The timm model of a model object of transformers, whose class decides, not what its configuration says of it.

    Raises:
        BadInput: as ``twin_of_config`` does.
    """
    kind = next(kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers.models."))
    return twin_of_config({**model.config.to_dict(), "architectures": [kind.__name__]}, kind.__name__)
