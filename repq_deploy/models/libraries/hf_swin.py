"""Hugging Face's Swin as timm's SwinTransformer."""

from __future__ import annotations

from repq_deploy.models.libraries.hf_config import Config
from repq_deploy.models.libraries.twin import Twin

__all__ = ["swin"]

_BLOCK = "encoder.layers.{stage}.blocks.{block}"
_SWIN = {
    "patch_embed.proj": ["embeddings.patch_embeddings.projection"],
    "patch_embed.norm": ["embeddings.norm"],
    "layers.{stage}.downsample.norm": ["encoder.layers.{before}.downsample.norm"],
    "layers.{stage}.downsample.reduction": ["encoder.layers.{before}.downsample.reduction"],
    "layers.{stage}.blocks.{block}.norm1": [f"{_BLOCK}.layernorm_before"],
    "layers.{stage}.blocks.{block}.attn.qkv": [
        f"{_BLOCK}.attention.self.{{query,key,value}}",
        f"{_BLOCK}.attention.{{q_proj,k_proj,v_proj}}",
    ],
    "layers.{stage}.blocks.{block}.attn.relative_position_bias_table": [
        f"{_BLOCK}.attention.self.relative_position_bias_table",
        f"{_BLOCK}.attention.relative_position_bias.relative_position_bias_table",
    ],
    "layers.{stage}.blocks.{block}.attn.proj": [f"{_BLOCK}.attention.output.dense", f"{_BLOCK}.attention.o_proj"],
    "layers.{stage}.blocks.{block}.norm2": [f"{_BLOCK}.layernorm_after"],
    "layers.{stage}.blocks.{block}.mlp.fc1": [f"{_BLOCK}.intermediate.dense", f"{_BLOCK}.mlp.fc1"],
    "layers.{stage}.blocks.{block}.mlp.fc2": [f"{_BLOCK}.output.dense", f"{_BLOCK}.mlp.fc2"],
    "norm": ["layernorm"],
    "head.fc": ["classifier"],
}


def swin(config: Config) -> Twin:
    """``SwinForImageClassification``, and ``SwinModel`` for the mean of its tokens."""
    classifies = config.architecture(("SwinModel", "SwinForImageClassification")) != "SwinModel"
    if config.flag("use_absolute_embeddings", False):
        raise config.error("use_absolute_embeddings", True, "false")
    # Theirs of the norms between stages, and behind the patches, are always those of PyTorch.
    if (eps := config.number("layer_norm_eps", 1e-5)) != 1e-5:
        raise config.error("layer_norm_eps", eps, "1e-05, which the norms between stages have")
    if (activation := config.activation("gelu")) != "gelu":
        raise config.error("hidden_act", activation, "gelu")
    kwargs = {
        "img_size": config.sides("image_size", 224),
        "patch_size": config.count("patch_size", 4),
        "in_chans": config.count("num_channels", 3),
        "embed_dim": config.count("embed_dim", 96),
        "depths": config.counts("depths", (2, 2, 6, 2)),
        "num_heads": config.counts("num_heads", (3, 6, 12, 24)),
        "window_size": config.count("window_size", 7),
        "mlp_ratio": config.number("mlp_ratio", 4.0),
        "qkv_bias": config.flag("qkv_bias", True),
        "norm_eps": eps,
        "num_classes": config.num_classes() if classifies else 0,
    }
    ignored = ("embeddings.mask_token", "*.relative_position_index")
    classes = config.classes() if classifies else ()
    return Twin("swin_tiny_patch4_window7_224", kwargs, _SWIN, "swin.", ignored, classes=classes)
