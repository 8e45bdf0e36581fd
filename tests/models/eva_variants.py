"""Tiny models of each kind that timm's Eva comes in, of random weights that let every part count."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

__all__ = ["IMAGE", "VARIANTS", "eva", "images"]

#: Height and width: not square, so that rows and columns of a table cannot change places unseen.
IMAGE = (24, 16)
_SIZES: dict[str, Any] = {
    "img_size": IMAGE,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov3": ("vit_small_patch16_dinov3", {}),  # halves, registers, LayerScale as a parameter
    "dinov3_swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "eva": ("eva_giant_patch14_clip_224", {}),  # no rotation
    "eva02": ("eva02_base_patch14_448", {}),  # q, k and v apart, SwiGLU with a norm inside, neighbours
    "eva02_clip": ("eva02_base_patch16_clip_224", {}),  # a norm in attention
    "eva02_enormous": ("eva02_enormous_patch14_clip_224", {}),  # norms after the branches
    "eva02_tiny": ("eva02_tiny_patch14_336", {}),  # one fc1 for both halves of SwiGLU
    "gap": ("vit_mediumd_patch16_rope_reg1_gap_256", {}),  # no class token, a norm behind the average
    "gated": ("vit_small_patch16_dinov3", {}),
    "mixed": ("vit_small_patch16_rope_mixed_ape_224", {}),  # a table for each block and head
    "pe_core": ("vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 2}),  # a norm before the blocks, a pooling
    "pe_lang": ("vit_pe_lang_large_patch14_448", {}),  # no norm behind the blocks
    "sapiens2": ("vit_base_patch16_sapiens2", {"num_kv_heads": 1}),  # RMS norms, also of q and k; grouped queries
}


def eva(variant: str) -> nn.Module:
    name, options = VARIANTS[variant]
    model: Any = timm.create_model(name, **{**_SIZES, **options}).eval().requires_grad_(False)
    if variant == "gated":  # no model of timm's has it so far
        for block in model.blocks:
            block.attn.gate = nn.Linear(24, 24)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            normal = torch.randn(parameter.shape, generator=generator)
            scales = parameter.ndim == 1 and "bias" not in parameter_name
            parameter.data = normal * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3) + scales
    return model.requires_grad_(False)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, *IMAGE, generator=torch.Generator().manual_seed(1))
