"""A small model of each class of transformers that is supported, with random weights, and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
MLP = {"intermediate_size": 72}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 64}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "an owl"}}

#: The class of the model, the class of its configuration, and that one's arguments.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", {**SIZES, **MLP, **LABELS}),
    "vit-features": ("ViTModel", "ViTConfig", {**SIZES, **MLP, "layer_norm_eps": 1e-3, "hidden_act": "gelu_new"}),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**SIZES, **MLP}),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**SIZES, **MLP}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**SIZES, **LABELS}),
    "dinov2-swiglu": ("Dinov2Model", "Dinov2Config", {**SIZES, "use_swiglu_ffn": True}),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {**SIZES, "num_register_tokens": 3},
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**SIZES, **MLP, "num_register_tokens": 4}),
    "dinov3-gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {**SIZES, **MLP, "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
    ),
    "swin": ("SwinForImageClassification", "SwinConfig", SWIN),
    "swin-features": ("SwinModel", "SwinConfig", SWIN),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", {**SIZES, **MLP}),
    "siglip-classes": (
        "SiglipForImageClassification",
        "SiglipConfig",
        {"vision_config": {**SIZES, **MLP}, "text_config": {**TEXT, **ENDS}},
    ),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", {**SIZES, **MLP}),
    "clip-projected": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**SIZES, **MLP, "projection_dim": 24}),
    "clip-classes": (
        "CLIPForImageClassification",
        "CLIPConfig",
        {"vision_config": {**SIZES, **MLP}, "text_config": {**TEXT, **ENDS}},
    ),
}


def make(name: str, **changes: Any) -> Any:
    """The model ``name``, always the same; every parameter is random, and none of the norms is the identity."""
    import transformers

    kind, config, arguments = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return randomized(getattr(transformers, kind)(getattr(transformers, config)(**{**arguments, **changes})))


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@torch.no_grad()
def outputs(name: str, model: Callable[..., Any], images: Tensor, **more: Any) -> Tensor:
    """What we take for the outputs of a model of transformers."""
    found = model(pixel_values=images, **more)
    if name == "vit-features":  # without the linear and the tanh that its class token goes through
        return found.last_hidden_state[:, 0]
    return next(found[key] for key in ("logits", "image_embeds", "pooler_output") if key in found)
