"""What a family of models says of itself, in one file of ``repq_deploy.models.families``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from repq_deploy.models.sites import AttentionParts, Sites, Stage

__all__ = ["Family"]


def _nothing(_model: Any) -> None:
    """The model has the form of its sites as it is."""


def _always(_model: nn.Module) -> bool:
    """Every model of the class."""
    return True


def _own_size(_model: Any, _tensors: Mapping[str, Tensor]) -> None:
    """Nothing is resized."""


@dataclass(frozen=True)
class Family:
    """One class of models of one library. Only its file knows the library's names.

    Attributes:
        words: what users call it, for messages: "timm's VisionTransformer (ViT, DeiT, DINOv2)".
        model: the class of its models; models of subclasses belong to it too.
        sites: reads a float model that was prepared.
        stages: the model's forward pass in parts, of the float model and of the quantized one, from images
            [N, 3, H, W] by way of tokens to logits [N, classes], or features [N, channels] without classes.
        attention: reads one attention module of a prepared model, given the model and the module's name.
        image_sides: height and width in pixels that the model takes, and of one patch.
        accepts: whether a model of the class, wrapped or not, is of the family; it looks at modules, and runs nothing.
        prepare: brings a float model, in place, to the form that ``sites`` speaks of: q, k and v of one linear, their
            biases parameters of it, scales of a branch in a LayerScale or in the linear before it. The model computes
            the same. What has that form already stays as it is.
        own_image_size: height and width in pixels of the square images that a checkpoint's position embeddings are
            for; None where they are those of the model, or cannot be resized.
        resized: a checkpoint's tensors with position embeddings for the model's image size.
        derived_numbers: how many numbers an export stores beyond the model's parameters.
        detach_head: takes away, in place, all that stands behind the model's blocks, and gives the norm that stood
            there, an identity where there was none; None where features cannot be taken (``models.taps``).
    """

    words: str
    model: type[nn.Module]
    sites: Callable[[Any], Sites]
    stages: Callable[[Any], tuple[Stage, ...]]
    attention: Callable[[Any, str], AttentionParts]
    image_sides: Callable[[Any], tuple[tuple[int, int], tuple[int, int]]]
    accepts: Callable[[nn.Module], bool] = _always
    prepare: Callable[[Any], None] = _nothing
    own_image_size: Callable[[Any, Mapping[str, Tensor]], int | None] = _own_size
    resized: Callable[[Any, Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda model, tensors: tensors
    derived_numbers: Callable[[Any], int] = lambda model: 0
    detach_head: Callable[[Any], nn.Module] | None = None
