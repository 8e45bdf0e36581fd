"""Hugging Face's ViT, DeiT, DINOv2 and DINOv2 with registers as timm's VisionTransformer.

The files on the hub have the names of transformers 4, the models that transformers 5 builds have others: the tables
list both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from repq_deploy.models.libraries.hf_config import Config
from repq_deploy.models.libraries.twin import Twin, ratio

__all__ = ["deit", "dinov2", "vit"]

_EMBEDDINGS = {
    "patch_embed.proj": ["embeddings.patch_embeddings.projection"],
    "cls_token": ["embeddings.cls_token"],
    "pos_embed": ["embeddings.position_embeddings"],
    "norm": ["layernorm"],
    "head": ["classifier", "cls_classifier"],
}
_VIT = {
    **_EMBEDDINGS,
    "reg_token": ["embeddings.distillation_token"],
    "dist_token": ["embeddings.distillation_token"],
    "head_dist": ["distillation_classifier"],
    "blocks.{block}.norm1": ["encoder.layer.{block}.layernorm_before", "layers.{block}.layernorm_before"],
    "blocks.{block}.attn.qkv": [
        "encoder.layer.{block}.attention.attention.{query,key,value}",
        "layers.{block}.attention.{q_proj,k_proj,v_proj}",
    ],
    "blocks.{block}.attn.proj": ["encoder.layer.{block}.attention.output.dense", "layers.{block}.attention.o_proj"],
    "blocks.{block}.norm2": ["encoder.layer.{block}.layernorm_after", "layers.{block}.layernorm_after"],
    "blocks.{block}.mlp.fc1": ["encoder.layer.{block}.intermediate.dense", "layers.{block}.mlp.fc1"],
    "blocks.{block}.mlp.fc2": ["encoder.layer.{block}.output.dense", "layers.{block}.mlp.fc2"],
}
_DINOV2 = {
    **_EMBEDDINGS,
    "reg_token": ["embeddings.register_tokens"],
    "head.token": ["classifier_of_token"],
    "head.patches": ["classifier_of_patches"],
    "blocks.{block}.norm1": ["encoder.layer.{block}.norm1"],
    "blocks.{block}.attn.qkv": [
        "encoder.layer.{block}.attention.attention.{query,key,value}",
        "encoder.layer.{block}.attention.{q_proj,k_proj,v_proj}",
    ],
    "blocks.{block}.attn.proj": [
        "encoder.layer.{block}.attention.output.dense",
        "encoder.layer.{block}.attention.o_proj",
    ],
    "blocks.{block}.ls1.gamma": ["encoder.layer.{block}.layer_scale1.lambda1"],
    "blocks.{block}.norm2": ["encoder.layer.{block}.norm2"],
    "blocks.{block}.mlp.fc1": [
        "encoder.layer.{block}.mlp.fc1",
        "encoder.layer.{block}.mlp.weights_in",
        "encoder.layer.{block}.mlp.{gate_proj,up_proj}",
    ],
    "blocks.{block}.mlp.fc2": [
        "encoder.layer.{block}.mlp.fc2",
        "encoder.layer.{block}.mlp.weights_out",
        "encoder.layer.{block}.mlp.down_proj",
    ],
    "blocks.{block}.ls2.gamma": ["encoder.layer.{block}.layer_scale2.lambda1"],
}
#: Of pre-training; and the tanh behind a linear that some models put on their class token, which we give as it is.
_IGNORED = ("embeddings.mask_token", "pooler.*")


def vit(config: Config) -> Twin:
    """``ViTForImageClassification``, and ``ViTModel`` for its class token behind the last norm."""
    classifies = config.architecture(("ViTModel", "ViTForImageClassification")) != "ViTModel"
    kwargs = {**_arguments(config, patch=16, eps=1e-12), **_mlp(config, 3072)}
    return _twin("vit_base_patch16_224", kwargs, _VIT, "vit.", config, classifies=classifies)


def deit(config: Config) -> Twin:
    """``DeiTForImageClassification``, whose token of the teacher has no head, the one ``WithTeacher``, which gives the
    mean of both heads, and ``DeiTModel`` for its class token behind the last norm."""
    known = ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
    architecture = config.architecture(known)
    kwargs = {**_arguments(config, patch=16, eps=1e-12), **_mlp(config, 3072)}
    teacher = architecture.endswith("WithTeacher")
    timm_id = "deit_base_distilled_patch16_224" if teacher else "vit_base_patch16_224"
    kwargs |= {} if teacher else {"reg_tokens": 1}
    return _twin(timm_id, kwargs, _VIT, "deit.", config, classifies=architecture != "DeiTModel")


def dinov2(config: Config) -> Twin:
    """DINOv2, with or without registers, as features (the class token behind the last norm) or with a classifier."""
    registers = config.data.get("model_type") == "dinov2_with_registers"
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    features = f"{kind}Model"
    architecture = config.architecture((features, f"{kind}ForImageClassification", f"{kind}Backbone"))
    classifies = architecture.endswith("Classification")
    kwargs = _arguments(config, patch=14, eps=1e-6) | {"init_values": 1.0, "mlp_ratio": config.number("mlp_ratio", 4)}
    if registers:
        kwargs |= {"reg_tokens": config.count("num_register_tokens", 4), "no_embed_class": True}
    if gated := config.flag("use_swiglu_ffn", False):
        channels = kwargs["embed_dim"]
        hidden = (int(int(channels * kwargs["mlp_ratio"]) * 2 / 3) + 7) // 8 * 8
        kwargs |= {"mlp_ratio": ratio(2 * hidden, channels), "act_layer": "silu"}
    else:
        kwargs["act_layer"] = config.activation("gelu")
    if classifies:
        kwargs |= {"head": "token_and_patches", "global_pool": ""}

    def change(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        found = _split_classifier(tensors) if classifies else tensors
        return _class_position_apart(found) if registers else found

    more = {"change": change, "any_size": True, "antialias": registers}
    timm_id = "vit_giant_patch14_dinov2" if gated else "vit_base_patch14_dinov2"
    prefix = "dinov2_with_registers." if registers else "dinov2."
    return _twin(timm_id, kwargs, _DINOV2, prefix, config, classifies=classifies, **more)


def _twin(
    timm_id: str,
    kwargs: dict[str, Any],
    table: dict[str, list[str]],
    prefix: str,
    config: Config,
    *,
    classifies: bool,
    **more: Any,
) -> Twin:
    kwargs["num_classes"] = config.num_classes() if classifies else 0
    return Twin(timm_id, kwargs, table, prefix, _IGNORED, classes=config.classes() if classifies else (), **more)


def _arguments(config: Config, *, patch: int, eps: float) -> dict[str, Any]:
    return {
        "img_size": config.sides("image_size", 224),
        "patch_size": config.sides("patch_size", patch),
        "in_chans": config.count("num_channels", 3),
        "embed_dim": config.count("hidden_size", 768),
        "depth": config.count("num_hidden_layers", 12),
        "num_heads": config.count("num_attention_heads", 12),
        "qkv_bias": config.flag("qkv_bias", True),
        "norm_eps": config.number("layer_norm_eps", eps),
    }


def _mlp(config: Config, hidden: int) -> dict[str, Any]:
    channels = config.count("hidden_size", 768)
    return {
        "mlp_ratio": ratio(config.count("intermediate_size", hidden), channels),
        "act_layer": config.activation("gelu"),
    }


def _split_classifier(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The classifier of class token and mean of patches [classes, 2 * channels] as two linears."""
    if "classifier.weight" not in tensors:
        return tensors
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    token, patches = tensors["classifier.weight"].chunk(2, dim=1)
    found |= {"classifier_of_token.weight": token, "classifier_of_patches.weight": patches}
    if "classifier.bias" in tensors:
        found["classifier_of_token.bias"] = tensors["classifier.bias"]
    return found


def _class_position_apart(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Registers have no positions: the class token takes its own, and the rest are the patches'."""
    token, positions = "embeddings.cls_token", "embeddings.position_embeddings"
    if token not in tensors or positions not in tensors:
        return tensors
    both = tensors[positions]
    return {**tensors, token: tensors[token] + both[:, :1], positions: both[:, 1:]}
