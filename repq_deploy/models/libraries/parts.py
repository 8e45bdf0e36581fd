"""What other libraries' models have and timm's classes do not: the arguments of a model record that are our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["OWN_ARGUMENTS", "TokenAndPatches", "apply_own"]

#: Arguments of a model record beside those of ``timm.create_model``.
#:
#: * ``norm_eps``: the epsilon of every layer norm;
#: * ``head``: "token_and_patches" classifies by the class token and the mean of the patches, as DINOv2 does;
#: * ``projection``: a linear without bias to so many features, behind the pooling, as CLIP has it.
OWN_ARGUMENTS = ("norm_eps", "head", "projection")


class TokenAndPatches(nn.Module):
    """A classifier that reads the class token and the mean of the patches, [N, tokens, channels] to [N, classes].

    One linear of both, as DINOv2 has it, is one linear of each, and a sum.
    """

    def __init__(self, channels: int, classes: int, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.token = nn.Linear(channels, classes)
        self.patches = nn.Linear(channels, classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.token(tokens[:, 0]) + self.patches(tokens[:, self.prefix :].mean(dim=1))
        return found


def apply_own(model: Any, arguments: Mapping[str, Any]) -> None:
    """Give a new timm model, in place, what ``OWN_ARGUMENTS`` say.

    Raises:
        ValueError: a head that the model cannot have.
    """
    if (eps := arguments.get("norm_eps")) is not None:
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = float(eps)
    if "head" in arguments:
        if getattr(model, "global_pool", None) != "" or not getattr(model, "has_class_token", False):
            raise ValueError("a head of class token and patches needs a model with a class token and no pooling")
        model.head = TokenAndPatches(model.embed_dim, model.num_classes, model.num_prefix_tokens)
    if (features := arguments.get("projection")) is not None:
        if model.num_classes:
            raise ValueError("a projection needs a model without classes")
        with torch.no_grad():
            model.head = nn.Linear(model.num_features, features, bias=False)
        model.num_features = features
