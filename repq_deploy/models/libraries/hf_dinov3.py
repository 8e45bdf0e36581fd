"""Hugging Face's DINOv3 ViT as timm's Eva."""

from __future__ import annotations

from repq_deploy.models.libraries.hf_config import Config
from repq_deploy.models.libraries.twin import Twin, ratio

__all__ = ["dinov3"]

_DINOV3 = {
    "patch_embed.proj": ["embeddings.patch_embeddings"],
    "cls_token": ["embeddings.cls_token"],
    "reg_token": ["embeddings.register_tokens"],
    "blocks.{block}.norm1": ["layer.{block}.norm1"],
    "blocks.{block}.attn.qkv": ["layer.{block}.attention.{q_proj,k_proj,v_proj}"],
    "blocks.{block}.attn.q_bias": ["layer.{block}.attention.q_proj.bias"],
    "blocks.{block}.attn.v_bias": ["layer.{block}.attention.v_proj.bias"],
    "blocks.{block}.attn.proj": ["layer.{block}.attention.o_proj"],
    "blocks.{block}.gamma_1": ["layer.{block}.layer_scale1.lambda1"],
    "blocks.{block}.norm2": ["layer.{block}.norm2"],
    "blocks.{block}.mlp.fc1": ["layer.{block}.mlp.up_proj"],
    "blocks.{block}.mlp.fc1_g": ["layer.{block}.mlp.gate_proj"],
    "blocks.{block}.mlp.fc1_x": ["layer.{block}.mlp.up_proj"],
    "blocks.{block}.mlp.fc2": ["layer.{block}.mlp.down_proj"],
    "blocks.{block}.gamma_2": ["layer.{block}.layer_scale2.lambda1"],
    "norm": ["norm"],
}


def dinov3(config: Config) -> Twin:
    """``DINOv3ViTModel`` for its class token behind the last norm; positions are an angle for each pair of channels."""
    config.architecture(("DINOv3ViTModel", "DINOv3ViTBackbone"))
    channels = config.count("hidden_size", 384)
    biases = {name: config.flag(f"{name}_bias", name != "key") for name in ("query", "key", "value", "proj", "mlp")}
    if biases["key"] or biases["query"] != biases["value"] or not biases["proj"] or not biases["mlp"]:
        raise config.error("biases", biases, "q and v with or both without one, k without, the others with")
    gated = config.flag("use_gated_mlp", False)
    activation = config.activation("gelu")
    if activation != ("silu" if gated else "gelu"):
        raise config.error("hidden_act", activation, "gelu, or silu where use_gated_mlp is true")
    kwargs = {
        "img_size": config.sides("image_size", 224),
        "patch_size": config.sides("patch_size", 16),
        "in_chans": config.count("num_channels", 3),
        "embed_dim": channels,
        "depth": config.count("num_hidden_layers", 12),
        "num_heads": config.count("num_attention_heads", 6),
        "mlp_ratio": ratio(config.count("intermediate_size", 1536), channels),
        "qkv_bias": biases["query"],
        "num_reg_tokens": int(config.number("num_register_tokens", 0)),
        "rope_temperature": config.number("rope_theta", 100.0),
        "norm_eps": config.number("layer_norm_eps", 1e-5),
        "global_pool": "token",
        "num_classes": 0,
    }
    timm_id = "vit_huge_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3"
    ignored = ("embeddings.mask_token", "rope_embeddings.*")
    # The encoder's own prefix came with transformers 5, and the embeddings have none.
    return Twin(timm_id, kwargs, _DINOV3, "model.", ignored, any_size=True)
