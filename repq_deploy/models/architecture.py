"""The record of a model, and the timm model that it builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
from torch import nn

from repq_deploy.bounds import check_arguments
from repq_deploy.errors import BadInput
from repq_deploy.models.families import find_family, known_family
from repq_deploy.models.libraries.parts import OWN_ARGUMENTS, apply_own
from repq_deploy.models.taps import Features, tapped
from repq_deploy.records import decode

__all__ = ["ModelSpec", "Weights", "as_asked", "build_architecture", "build_timm"]

#: "own": of a module that somebody else has built; no record of ours builds it again.
Weights = Literal["pretrained", "checkpoint", "random", "demo", "own"]


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to build a model again: JSON-serializable, no paths in it.

    ``name`` is what the user said, ``kwargs`` the arguments of ``timm.create_model`` beside the id, and
    some of our own (``OWN_ARGUMENTS``). A model with ``features`` gives these in place of logits.
    """

    name: str
    timm_id: str
    kwargs: dict[str, Any]
    checkpoint_sha256: str | None = None
    weights: Weights = "pretrained"
    features: Features | None = None

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        if self.features is None:
            del found["features"]
        return found

    @classmethod
    def from_dict(cls, data: Any) -> ModelSpec:
        """The inverse of ``to_dict``, for data of a file that somebody may have changed. It can only name one of timm's
        own models and set its sizes.

        Raises:
            ValueError: a field is missing, unknown or of another type; a model that timm does not have, or an argument
                that is not one of those we set, or is out of bounds.
        """
        spec: ModelSpec = decode(cls, data, "model record")
        if spec.timm_id.partition(".")[0] not in timm.list_models():
            raise ValueError(f"model record: timm_id {spec.timm_id[:60]!r} is no model of timm's own")
        check_arguments(spec.kwargs)
        return spec


def build_architecture(spec: ModelSpec) -> nn.Module:
    """The model of ``spec`` with random weights, in evaluation mode: nothing is read or downloaded."""
    return as_asked(build_timm(spec, pretrained=False), spec)


def as_asked(model: nn.Module, spec: ModelSpec) -> nn.Module:
    """The whole ``model`` of a ``spec``, or, with features in it, the model that gives these."""
    return model if spec.features is None else tapped(model, find_family(model), spec.features)


def build_timm(spec: ModelSpec, *, pretrained: bool) -> nn.Module:
    """The whole model of ``spec`` in evaluation mode, with timm's pretrained weights or with random ones.

    Raises:
        BadInput: timm cannot build it with the arguments of its record.
    """
    ours = {key: value for key, value in spec.kwargs.items() if key in OWN_ARGUMENTS}
    theirs = {key: value for key, value in spec.kwargs.items() if key not in OWN_ARGUMENTS}
    try:
        model = timm.create_model(spec.timm_id, pretrained=pretrained, **theirs)
        apply_own(model, ours)
    except (TypeError, ValueError, AssertionError) as error:
        arguments = ", ".join(f"{key}={value}" for key, value in spec.kwargs.items())
        reason = str(error) or "it does not say why; sides of images have to be multiples of the patch's"
        raise BadInput(
            f"model {spec.name}: timm cannot build it with {arguments or 'its defaults'}: {reason}"
        ) from error
    if (family := known_family(model)) is not None:
        config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        own = config.get("input_size", (3, 0, 0))[1:]
        for pixels, patch, trained in zip(*family.image_sides(model), own, strict=True):
            # A few were trained at such sizes: they do not see the last pixels.
            if pixels % patch and pixels != trained:
                raise BadInput(f"model {spec.name}: --img-size {pixels} is not a multiple of its patch size {patch}")
    return model.eval()
