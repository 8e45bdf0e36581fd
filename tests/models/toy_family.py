"""A family of models in one file: a Vision Transformer whose q and k are turned by their tokens' positions (RoPE)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from repq_deploy.models.families import vit
from repq_deploy.models.family import Family
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, checked
from repq_deploy.models.timm_parts import block_linears


class Turn(nn.Module):
    """Turns each pair of channels by an angle for each token and pair."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        angles = torch.arange(tokens)[:, None] / 10 ** torch.linspace(0, 2, channels // 2)
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self.cosines - second * self.sines, first * self.sines + second * self.cosines], -1)


class TurningAttention(nn.Module):
    def __init__(self, channels: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.turn = Turn(tokens, channels // heads)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        batch, tokens, channels = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        p = (self.turn(q) @ self.turn(k).transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((p @ v).transpose(1, 2).reshape(batch, tokens, channels))


class TurningTransformer(VisionTransformer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for block in self.blocks:
            channels = self.embed_dim
            block.attn = TurningAttention(channels, options["num_heads"], self.patch_embed.num_patches + 1)


def _sites(model: TurningTransformer) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    for index, block in enumerate(model.blocks):
        linears += block_linears(f"blocks.{index}", block)
    linears.append(LinearSite("head", "head"))
    attentions = tuple(
        AttentionSite(f"blocks.{index}.attn", block.attn.num_heads, between_qk="rope")
        for index, block in enumerate(model.blocks)
    )
    return checked(model, Sites(tuple(linears), attentions))


def _attention(model: TurningTransformer, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    return AttentionParts(attention.scale, rotate=attention.turn)


FAMILY: Family = replace(
    vit.FAMILY,
    words="the toy (TurningTransformer)",
    model=TurningTransformer,
    sites=_sites,
    attention=_attention,
)
