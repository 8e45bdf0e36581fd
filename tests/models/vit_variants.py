"""One tiny model of each variant of timm's VisionTransformer, with norms as uneven as trained ones are."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import LayerScale, RmsNorm
from torch import nn

_FEATURES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_FEATURES |= {"num_classes": 0}
_SMALL = _FEATURES | {"num_classes": 5}


#: timm's id, and its arguments.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "siglip": ("vit_base_patch16_siglip_224", _FEATURES),
    "pool and head": ("test_vit3", _SMALL),
    "clip": ("vit_base_patch16_clip_224", _SMALL),
    "clip without head": ("vit_base_patch16_clip_quickgelu_224", _FEATURES),
    "aimv2": ("aimv2_large_patch14_224", _FEATURES),
    "aimv2 and head": ("aimv2_large_patch14_224", _SMALL),
    "packed swiglu": ("vit_giant_patch14_dinov2", _FEATURES),
    "no final norm": ("vit_base_patch16_radio_v3", _FEATURES),
    "mean without head": ("vit_base_patch16_siglip_gap_224", _FEATURES),
    "norm behind the pool": ("vit_base_patch16_224", _FEATURES | {"global_pool": "avg"}),
    "largest": ("vit_base_patch16_224", _SMALL | {"global_pool": "max"}),
    "norm behind the branch": ("vit_base_patch16_rpn_224", _SMALL),
    "parallel": ("vit_pwee_patch16_reg1_gap_256", _SMALL),
    "parallel, qk norm": ("vit_pwee_patch16_reg1_gap_256", _SMALL | {"qk_norm": True, "qkv_bias": False}),
    "gated": ("vit_tiny_patch16_224", _SMALL),  # timm has the gate, and no argument for it
    "hybrid": ("vit_tiny_r_s16_p8_224", _SMALL | {"img_size": (64, 96)}),
}


def variant(name: str) -> nn.Module:
    """A float model with random weights: norms' channels some thirty times apart, branches as large as the stream."""
    timm_id, arguments = VARIANTS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = timm.create_model(timm_id, **arguments)
        if name == "gated":
            for block in model.blocks:
                block.attn.gate = nn.Linear(model.embed_dim, model.embed_dim)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | RmsNorm):
                module.weight.data = torch.randn(module.weight.shape).exp()
                if isinstance(module, nn.LayerNorm):
                    module.bias.data = torch.randn(module.bias.shape)
            elif isinstance(module, LayerScale):
                module.gamma.data = 0.3 + torch.rand(module.gamma.shape)
            elif isinstance(module, nn.Linear):
                module.weight.data = torch.randn(module.weight.shape) / module.in_features**0.5
    return model.eval().requires_grad_(False)


def images_for(model: Any, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(3))
