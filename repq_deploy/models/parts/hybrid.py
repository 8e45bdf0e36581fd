"""timm's hybrid embeddings: a convolutional network before the blocks. It stays in float, save its last convolution."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import HybridEmbed, StdConv2d, StdConv2dSame
from timm.layers.conv2d_same import Conv2dSame
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

__all__ = ["embedding_convolution", "plain_convolutions", "whole_stride"]


def embedding_convolution(embed: HybridEmbed) -> str | None:
    """The name in ``embed`` of the convolution whose outputs are the patches' tokens.

    None where it is no plain one, without padding: what comes after it, or lies between its inputs, is not known.
    """
    name: str = "proj"
    conv: Any = embed.proj
    if isinstance(conv, nn.Identity) and type(embed.backbone) is ConvStem:  # MobileCLIP
        last = len(embed.backbone) - 1
        block: Any = embed.backbone[last]
        # Without a norm and an activation ``bn`` is an empty sequence.
        plain = not list(block.bn.children()) and isinstance(getattr(block, "aa", None) or nn.Identity(), nn.Identity)
        name, conv = f"backbone.{last}.conv", block.conv if plain else None
    is_plain = type(conv) is nn.Conv2d and not any(conv.padding) and conv.groups == 1
    return name if is_plain else None


def whole_stride(embed: HybridEmbed) -> tuple[int, int]:
    """Height and width in pixels that one patch is for.

    timm divides the image's side by the feature map's. That is less than the network's stride, a power of two, where
    the map's side was rounded up.
    """
    sides = zip(embed.img_size, embed.feature_size, embed.patch_size, strict=True)
    height, width = (2 ** round(math.log2(pixels / feature)) * patch for pixels, feature, patch in sides)
    return height, width


@torch.no_grad()
def plain_convolutions(model: nn.Module) -> None:
    """Give each convolution that standardizes its weight, whenever it runs, the standardized weight."""
    for name, module in list(model.named_modules()):
        if isinstance(module, StdConv2d | StdConv2dSame):
            model.set_submodule(name, _plain(module))


def _plain(conv: Any) -> nn.Conv2d:
    rows = conv.weight.double().flatten(1)
    variance, mean = torch.var_mean(rows, dim=1, correction=0, keepdim=True)
    weight = ((rows - mean) / torch.sqrt(variance + conv.eps)).view_as(conv.weight).to(conv.weight.dtype)
    kind = Conv2dSame if getattr(conv, "same_pad", False) else nn.Conv2d
    plain = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = conv.bias
    return plain
