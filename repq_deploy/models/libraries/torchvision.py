"""torchvision's VisionTransformer and SwinTransformer as timm's."""

from __future__ import annotations

from typing import Any

from torch import nn

from repq_deploy.errors import BadInput
from repq_deploy.models.libraries.names import split_in_proj
from repq_deploy.models.libraries.twin import Twin, ratio

__all__ = ["is_model", "twin_of_model"]

_VIT = {
    "cls_token": ["class_token"],
    "patch_embed.proj": ["conv_proj"],
    "pos_embed": ["encoder.pos_embedding"],
    "blocks.{block}.norm1": ["encoder.layers.encoder_layer_{block}.ln_1"],
    "blocks.{block}.attn.qkv": ["encoder.layers.encoder_layer_{block}.self_attention.{q_proj,k_proj,v_proj}"],
    "blocks.{block}.attn.proj": ["encoder.layers.encoder_layer_{block}.self_attention.out_proj"],
    "blocks.{block}.norm2": ["encoder.layers.encoder_layer_{block}.ln_2"],
    "blocks.{block}.mlp.fc1": ["encoder.layers.encoder_layer_{block}.mlp.0"],
    "blocks.{block}.mlp.fc2": ["encoder.layers.encoder_layer_{block}.mlp.3"],
    "norm": ["encoder.ln"],
    "head": ["heads.head", "heads.0", "heads"],
}
_BLOCK = "features.{odd}.{block}"
_SWIN = {
    "patch_embed.proj": ["features.0.0"],
    "patch_embed.norm": ["features.0.2"],
    "layers.{stage}.downsample.norm": ["features.{even}.norm"],
    "layers.{stage}.downsample.reduction": ["features.{even}.reduction"],
    "layers.{stage}.blocks.{block}.norm1": [f"{_BLOCK}.norm1"],
    "layers.{stage}.blocks.{block}.attn.qkv": [f"{_BLOCK}.attn.qkv"],
    "layers.{stage}.blocks.{block}.attn.proj": [f"{_BLOCK}.attn.proj"],
    "layers.{stage}.blocks.{block}.attn.relative_position_bias_table": [f"{_BLOCK}.attn.relative_position_bias_table"],
    "layers.{stage}.blocks.{block}.norm2": [f"{_BLOCK}.norm2"],
    "layers.{stage}.blocks.{block}.mlp.fc1": [f"{_BLOCK}.mlp.0"],
    "layers.{stage}.blocks.{block}.mlp.fc2": [f"{_BLOCK}.mlp.3"],
    "norm": ["norm"],
    "head.fc": ["head"],
}
_READERS = {
    "torchvision.models.vision_transformer.VisionTransformer": "vit",
    "torchvision.models.swin_transformer.SwinTransformer": "swin",
}


def is_model(model: nn.Module) -> bool:
    """Whether a module is a model of torchvision, or of a class derived from one."""
    return any(kind.__module__.startswith("torchvision.models.") for kind in type(model).__mro__)


def twin_of_model(model: Any, img_size: int | tuple[int, int] | None = None) -> Twin:
    """The timm model of a model object of torchvision.

    Args:
        img_size: of a Swin, which does not know it; default: 224.

    Raises:
        BadInput: a class that is not supported, or a variant of it.
    """
    names = [f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__]
    found = next((_READERS[name] for name in names if name in _READERS), None)
    if found is None:
        raise BadInput(f"torchvision's {type(model).__name__} is not supported; expected {' or '.join(_READERS)}")
    return _vit(model) if found == "vit" else _swin(model, img_size or 224)


def _vit(model: Any) -> Twin:
    _check(isinstance(model.conv_proj, nn.Conv2d), "a stem of convolutions", "one convolution")
    block = model.encoder.layers[0]
    kwargs = {
        "img_size": int(model.image_size),
        "patch_size": int(model.patch_size),
        "embed_dim": int(model.hidden_dim),
        "depth": len(model.encoder.layers),
        "num_heads": int(block.num_heads),
        "mlp_ratio": ratio(block.mlp[0].out_features, int(model.hidden_dim)),
        "norm_eps": float(model.encoder.ln.eps),
        "num_classes": _classes(model.heads),
    }
    return Twin("vit_base_patch16_224", kwargs, _VIT, change=split_in_proj)


def _swin(model: Any, img_size: int | tuple[int, int]) -> Twin:
    stages = list(model.features)[1::2]
    blocks = [block for stage in stages for block in stage]
    kinds = {type(block).__name__ for block in blocks}
    _check(kinds == {"SwinTransformerBlock"}, ", ".join(sorted(kinds)), "SwinTransformerBlock: Swin's first version")
    first = blocks[0]
    patch, window = model.features[0][0].kernel_size, first.attn.window_size
    _check(patch[0] == patch[1] and window[0] == window[1], "patches or windows that are not square", "square ones")
    kwargs = {
        "img_size": img_size if isinstance(img_size, int) else list(img_size),
        "patch_size": int(patch[0]),
        "embed_dim": int(model.features[0][0].out_channels),
        "depths": [len(stage) for stage in stages],
        "num_heads": [int(stage[0].attn.num_heads) for stage in stages],
        "window_size": int(window[0]),
        "mlp_ratio": ratio(first.mlp[0].out_features, first.mlp[0].in_features),
        "norm_eps": float(model.norm.eps),
        "num_classes": _classes(model.head),
    }
    return Twin("swin_tiny_patch4_window7_224", kwargs, _SWIN, ignored=("*.relative_position_index",))


def _classes(head: Any) -> int:
    """How many classes a linear ``head`` has, maybe in a Sequential of its own; 0 of an identity."""
    only = head[0] if isinstance(head, nn.Sequential) and len(head) == 1 else head
    _check(isinstance(only, nn.Linear | nn.Identity), f"{type(only).__name__} as its head", "one linear layer, or none")
    return only.out_features if isinstance(only, nn.Linear) else 0


def _check(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise BadInput(f"torchvision model not supported: found {found}, expected {expected}")
