"""Hugging Face's vision towers of CLIP and SigLIP as timm's VisionTransformer."""

from __future__ import annotations

from typing import Any

from repq_deploy.models.libraries.hf_config import Config
from repq_deploy.models.libraries.names import split_in_proj
from repq_deploy.models.libraries.twin import Twin, ratio

__all__ = ["clip", "siglip"]

_TOWER = {
    "patch_embed.proj": ["embeddings.patch_embedding"],
    "cls_token": ["embeddings.class_embedding"],
    "pos_embed": ["embeddings.position_embedding.weight"],
    "norm_pre": ["pre_layrnorm"],  # their spelling
    "blocks.{block}.norm1": ["encoder.layers.{block}.layer_norm1"],
    "blocks.{block}.attn.qkv": ["encoder.layers.{block}.self_attn.{q_proj,k_proj,v_proj}"],
    "blocks.{block}.attn.proj": ["encoder.layers.{block}.self_attn.out_proj"],
    "blocks.{block}.norm2": ["encoder.layers.{block}.layer_norm2"],
    "blocks.{block}.mlp.fc1": ["encoder.layers.{block}.mlp.fc1"],
    "blocks.{block}.mlp.fc2": ["encoder.layers.{block}.mlp.fc2"],
    "norm": ["post_layernorm"],
    "attn_pool.latent": ["head.probe"],
    "attn_pool.q": ["head.attention.q_proj"],
    "attn_pool.kv": ["head.attention.{k_proj,v_proj}"],
    "attn_pool.proj": ["head.attention.out_proj"],
    "attn_pool.norm": ["head.layernorm"],
    "attn_pool.mlp.fc1": ["head.mlp.fc1"],
    "attn_pool.mlp.fc2": ["head.mlp.fc2"],
}
#: The tower of the text, what compares it with the image, and numbers of positions that old files hold.
_IGNORED: tuple[str, ...] = ("text_*", "logit_scale", "logit_bias", "embeddings.position_ids")


def clip(config: Config) -> Twin:
    """CLIP's tower: its class token behind the last norm, that projected, or a classifier of the patches' mean."""
    whole = config.data.get("model_type") == "clip"
    of_tower = ("CLIPVisionModel", "CLIPVisionModelWithProjection")
    architecture = config.architecture(("CLIPModel", "CLIPForImageClassification") if whole else of_tower)
    vision = config.part("vision_config") if whole else config
    kwargs = {**_arguments(vision, patch=32, eps=1e-5, activation="quick_gelu"), "pre_norm": True, "num_classes": 0}
    if architecture == "CLIPForImageClassification":
        kwargs |= {"global_pool": "avg", "final_norm": False, "num_classes": config.num_classes()}
        head, unused, classes = {"head": ["classifier"]}, "post_layernorm.*", config.classes()
    elif architecture == "CLIPVisionModel":
        head, unused, classes = {}, "visual_projection.*", ()
    else:
        kwargs["projection"] = config.count("projection_dim", 512)
        head, unused, classes = {"head": ["visual_projection"]}, "", ()
    ignored = (*_IGNORED, unused)
    return Twin("vit_base_patch16_clip_224", kwargs, _TOWER | head, "vision_model.", ignored, classes=classes)


def siglip(config: Config) -> Twin:
    """SigLIP's tower: pooled by attention, or a classifier of the mean of the patches."""
    whole = config.data.get("model_type") == "siglip"
    known = ("SiglipModel", "SiglipForImageClassification") if whole else ("SiglipVisionModel",)
    architecture = config.architecture(known)
    vision = config.part("vision_config") if whole else config
    kwargs = _arguments(vision, patch=16, eps=1e-6, activation="gelu_pytorch_tanh")
    kwargs |= {"class_token": False, "fc_norm": False}
    if architecture == "SiglipForImageClassification":
        kwargs |= {"global_pool": "avg", "num_classes": config.num_classes()}
        head, unused, classes = {"head": ["classifier"]}, "head.*", config.classes()
    else:
        pooled = vision.flag("vision_use_head", True)
        kwargs |= {"global_pool": "map" if pooled else "avg", "num_classes": 0}
        head, unused, classes = {}, "", ()
    ignored = (*_IGNORED, unused)
    return Twin("vit_base_patch16_siglip_224", kwargs, _TOWER | head, "vision_model.", ignored, split_in_proj, classes)


def _arguments(config: Config, *, patch: int, eps: float, activation: str) -> dict[str, Any]:
    channels = config.count("hidden_size", 768)
    return {
        "img_size": config.sides("image_size", 224),
        "patch_size": config.sides("patch_size", patch),
        "in_chans": config.count("num_channels", 3),
        "embed_dim": channels,
        "depth": config.count("num_hidden_layers", 12),
        "num_heads": config.count("num_attention_heads", 12),
        "mlp_ratio": ratio(config.count("intermediate_size", 3072), channels),
        "act_layer": config.activation(activation),
        "norm_eps": config.number("layer_norm_eps", eps),
    }
