"""Tiny models of the three classes of Swin Transformers, every part of which counts for the outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repq_deploy.models.zoo import ModelSpec, create

_SMALL = {"embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4), "num_classes": 5}
_V1 = "swin_tiny_patch4_window7_224"

#: By what is particular: timm's id, and arguments. All but "whole" and Swin V2's have windows that are padded.
MODELS = {
    "whole": (_V1, {"img_size": 56}),
    "padded": (_V1, {"img_size": (64, 80)}),
    "partitioned": (_V1, {"img_size": 36, "always_partition": True}),
    "any size": (_V1, {"img_size": 56, "strict_img_size": False}),
    "v2": ("swinv2_tiny_window8_256", {"img_size": 32, "window_size": 4}),
    "v2, other windows": (
        "swinv2_base_window12to16_192to256",
        {"img_size": 64, "window_size": 8, "pretrained_window_sizes": (6, 3)},
    ),
    "cr": ("swinv2_cr_tiny_ns_224", {"img_size": 32, "window_size": 4}),
    "cr, padded": ("swinv2_cr_small_224", {"img_size": (36, 52), "window_size": 4, "extra_norm_period": 1}),
}

#: What timm begins with zeros, or as small as if it were not there.
_SILENT = ("q_bias", "v_bias", "logit_scale", "qkv.bias", "cpb_mlp.2.weight", "meta_mlp.fc2.weight", "bias_table")


def spec_of(name: str) -> ModelSpec:
    timm_id, options = MODELS[name]
    return ModelSpec(f"tiny-{name}", timm_id, {**_SMALL, **options}, weights="random")


def model_of(name: str) -> nn.Module:
    """A tiny model whose norms, biases, scales and position biases are as uneven as trained ones."""
    model = create(spec_of(name), seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            spread = torch.randn(module.weight.shape, generator=generator)
            module.weight.data = torch.exp(spread)
            module.bias.data = torch.exp(spread) * torch.randn(spread.shape, generator=generator)
    for path, parameter in model.named_parameters():
        if path.endswith(_SILENT):
            parameter.data += torch.randn(parameter.shape, generator=generator)
    return model


def images_of(name: str, count: int = 4) -> Tensor:
    size = MODELS[name][1]["img_size"]
    sides = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, *sides, generator=torch.Generator().manual_seed(3))
