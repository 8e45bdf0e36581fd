"""A family of tests: Vision Transformers put together of what encoders differ in, several differences in one model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.layers import RmsNorm, SwiGLU
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from repq_deploy.models.families import vit
from repq_deploy.models.family import Family
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked
from repq_deploy.models.timm_parts import block_linears, foldable, pool_linears
from repq_deploy.tasks import decided
from tests.models.toy_family import Turn

#: What a variant has: attention's parts, and options of timm's class. Each differs from a plain ViT in several places.
VARIANTS: dict[str, dict[str, Any]] = {
    "turned": {"qk": "rope", "v": "gate", "mlp_layer": SwiGLU, "scale_mlp_norm": True, "global_pool": "map"},
    "cosine": {"qk": "cosine", "v": "nothing", "block_fn": ResPostBlock, "biased": True, "global_pool": "avg"},
    "normed": {"qk": "norm", "v": "norm", "norm_layer": RmsNorm, "mlp_layer": SwiGLU},
}
TOKENS = 16


class Attention(nn.Module):
    """Attention with any of what may stand in it; ``qk`` and ``v`` as the facts of its site."""

    def __init__(self, channels: int, heads: int, tokens: int, qk: str, v: str, biased: bool) -> None:
        super().__init__()
        self.num_heads, size = heads, channels // heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels, bias=qk != "norm"), nn.Linear(channels, channels)
        self.scale: float | Tensor = size**-0.5
        self.turn = Turn(tokens, size) if qk == "rope" else None
        self.q_norm = Length() if qk == "cosine" else nn.LayerNorm(size) if qk == "norm" else None
        self.k_norm = Length() if qk == "cosine" else nn.LayerNorm(size) if qk == "norm" else None
        if qk == "cosine":
            self.scale = 5 + 5 * torch.rand(heads, 1, 1)
        self.norm = nn.LayerNorm(channels) if v == "norm" else None
        self.gate = nn.Linear(channels, channels) if v == "gate" else None
        self.position_bias = nn.Parameter(torch.randn(1, heads, tokens, tokens)) if biased else None

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (part if norm is None else norm(part) for part, norm in ((q, self.q_norm), (k, self.k_norm)))
        q, k = (part if self.turn is None else self.turn(part) for part in (q, k))
        logits = q @ k.mT * self.scale
        p = (logits if self.position_bias is None else logits + self.position_bias).softmax(-1)
        y = (p @ v).transpose(1, 2).flatten(-2)
        y = y if self.norm is None else self.norm(y)
        return self.proj(y if self.gate is None else y * self.gate(x).sigmoid())


class Length(nn.Module):
    """Vectors of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1)


class VariedTransformer(VisionTransformer):
    def __init__(self, variant: str) -> None:
        options = dict(VARIANTS[variant])
        qk, v, biased = options.pop("qk"), options.pop("v"), options.pop("biased", False)
        size = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
        super().__init__(class_token=False, **{"global_pool": "avg", **size, **options})
        self.facts: dict[str, Any] = {"between_qk": qk, "between_v": v}
        for block in self.blocks:
            block.attn = Attention(48, 3, TOKENS, qk, v, biased)


def varied_model(variant: str) -> VariedTransformer:
    """A model of random weights whose norms are uneven between channels, as those of trained models are."""
    torch.manual_seed(0)
    model = VariedTransformer(variant).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" in name:
            parameter.copy_(torch.exp(0.7 * torch.randn(len(parameter))) * (1 if name.endswith("weight") else 0.3))
        elif parameter.ndim == 2:  # timm begins with weights that leave branches out
            parameter.copy_(torch.randn(parameter.shape) * parameter.shape[1] ** -0.5)
    return model


def _sites(model: VariedTransformer) -> Sites:
    linears, attentions = [LinearSite("patch_embed.proj", "patch_embed")], []
    for index, block in enumerate(model.blocks):
        before = ("norm1", "norm2") if isinstance(block, Block) else (None, None)
        linears += block_linears(f"blocks.{index}", block, norms=before)
        attentions.append(AttentionSite(f"blocks.{index}.attn", block.attn.num_heads, **model.facts))
    if model.attn_pool is not None:
        linears += pool_linears("attn_pool", model.attn_pool, norm=foldable("norm", model.norm))
    linears.append(LinearSite("head", "head"))
    return checked(model, Sites(tuple(linears), tuple(attentions)))


def _attention(model: VariedTransformer, name: str) -> AttentionParts:
    own: Any = model.get_submodule(name)
    return AttentionParts(own.scale, own.q_norm, own.k_norm, own.norm, own.position_bias, own.turn, own.gate)


def _stages(model: VariedTransformer) -> tuple[Stage, ...]:
    *body, head = vit.FAMILY.stages(model)
    modules = ("norm", "attn_pool", "fc_norm", "head")
    return (*body, Stage("head", head.forward, modules, task=decided(model.num_classes)))


FAMILY: Family = replace(
    vit.FAMILY,
    words="varied transformers (VariedTransformer)",
    model=VariedTransformer,
    sites=_sites,
    attention=_attention,
    stages=_stages,
)
