"""timm's ``NaFlexVit`` at one image size: SigLIP 2 NaFlex, C-RADIO.

Such a model takes images of any size, or patches. It is quantized for images of one size: the positions, stored for a
grid of their own and resampled with each forward pass, become those of the patches, and the patch embedding, a linear
of patches cut out, becomes the convolution that it is.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import Attention, AttentionPoolLatent
from timm.models.naflexvit import NaFlexEmbeds, NaFlexVit
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from repq_deploy.models.family import Family
from repq_deploy.models.parts.streams import norm_readers, residual_stream
from repq_deploy.models.sites import (
    AttentionParts,
    AttentionSite,
    LinearSite,
    Sites,
    Stage,
    checked,
    require,
)
from repq_deploy.models.timm_parts import (
    attention_norms,
    block_linears,
    detach_head,
    foldable,
    pool_linears,
)
from repq_deploy.tasks import decided

__all__ = ["FAMILY"]


class FixedEmbeds(nn.Module):
    """What ``NaFlexEmbeds`` does with images [N, 3, H, W] of one size: tokens [N, prefix + patches, channels].

    Attributes:
        image_size: height and width in pixels.
        patch_size: of a patch.
        pos_embed: of each patch, [1, patches, channels]; None where positions stand elsewhere.
    """

    def __init__(self, embeds: NaFlexEmbeds, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size, self.patch_size = image_size, tuple(embeds.patch_size)
        self.grid = tuple(side // patch for side, patch in zip(self.image_size, self.patch_size, strict=True))
        self.proj = _convolution(embeds) if embeds.is_linear else embeds.proj
        self.norm = embeds.norm
        self.cls_token, self.reg_token = embeds.cls_token, embeds.reg_token
        self.pos_embed = _positions(embeds, self.grid)

    def forward(self, images: Tensor, **_: Any) -> tuple[Tensor, tuple[int, ...]]:
        """The tokens, and the grid of patches: rows and columns.

        Raises:
            ValueError: images of another size.
        """
        if tuple(images.shape[2:]) != self.image_size:
            raise ValueError(f"images of {tuple(images.shape[2:])} pixels, expected {self.image_size}")
        x = self.norm(self.proj(images).flatten(2).transpose(1, 2))
        x = x if self.pos_embed is None else x + self.pos_embed
        prefix = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        return torch.cat([*prefix, x], dim=1), self.grid


@torch.no_grad()
def _convolution(embeds: NaFlexEmbeds) -> nn.Conv2d:
    """The convolution that ``embeds.proj``, a linear of each patch's pixels, is."""
    linear, (rows, columns), colours = embeds.proj, embeds.patch_size, embeds.in_chans
    weight = linear.weight
    if embeds.channels_last:
        weight = weight.unflatten(1, (rows, columns, colours)).permute(0, 3, 1, 2)
    size = (rows, columns)
    conv = nn.Conv2d(colours, len(weight), size, stride=size, bias=linear.bias is not None, device="meta")
    conv.weight = nn.Parameter(weight.reshape(len(weight), colours, *size).contiguous(), requires_grad=False)
    conv.bias = linear.bias
    return conv


@torch.no_grad()
def _positions(embeds: NaFlexEmbeds, grid: tuple[int, ...]) -> nn.Parameter | None:
    """The positions that ``embeds`` adds to patches of ``grid``, as it resamples them."""
    if embeds.pos_embed_type == "none":
        return None
    factorized = embeds.pos_embed_type == "factorized"
    add = embeds._apply_factorized_pos_embed if factorized else embeds._apply_learned_pos_embed
    positions = embeds.proj.weight.new_zeros(1, grid[0] * grid[1], embeds.embed_dim)
    add(positions, grid_size=list(grid))
    return nn.Parameter(positions, requires_grad=False)


def _image_sides(model: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    recorded: Any = getattr(timm.models, "get_model_input_config", None)
    require(recorded is not None, f"timm {timm.__version__}", "1.0.31 or later, which knows a NaFlexVit's image size")
    require(hasattr(model, "pretrained_cfg"), "a NaFlexVit of unknown image size", "one that timm.create_model built")
    height, width = recorded(model)["input_size"][1:]
    return (height, width), tuple(model.embeds.patch_size)


def _prepare(model: Any) -> None:
    if isinstance(model.embeds, NaFlexEmbeds):
        model.embeds = FixedEmbeds(model.embeds, _image_sides(model)[0])


def _sites(model: NaFlexVit) -> Sites:
    linears, attentions = [LinearSite("embeds.proj", "patch_embed")], []
    readers: dict[str, tuple[str, ...]] = {}
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}"
        require(type(block) is Block, type(block).__name__, "timm's plain pre-norm Block")
        require(type(block.attn) is Attention, type(block.attn).__name__, "timm's plain Attention")
        attentions.append(_attention_site(f"{name}.attn", block.attn))
        of_block = block_linears(name, block)
        readers |= norm_readers(name, ("norm1", "norm2"), of_block)
        linears += of_block
    pool = model.attn_pool
    if pool is not None:
        require(type(pool) is AttentionPoolLatent, type(pool).__name__, "timm's AttentionPoolLatent")
        linears += pool_linears("attn_pool", pool, norm=foldable("norm", model.norm))
    linears.append(LinearSite("head", "head"))
    stream = residual_stream(model, linears, readers, "embeds.proj")
    return checked(model, Sites(tuple(linears), tuple(attentions), stream))


def _attention_site(name: str, attention: Any) -> AttentionSite:
    norms = attention_norms(attention)
    return AttentionSite(
        name,
        attention.num_heads,
        between_qk="nothing" if norms["q_norm"] is None else "norm",
        between_v="nothing" if norms["out_norm"] is None else "norm",
    )


def _attention(model: NaFlexVit, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    return AttentionParts(attention.scale, **attention_norms(attention))


def _stages(model: NaFlexVit) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        return model.norm_pre(model.embeds(images)[0])

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return (
        Stage("embeds", embed),
        *(Stage(f"blocks.{index}", block) for index, block in enumerate(model.blocks)),
        Stage("head", classify, ("attn_pool", "head"), task=decided(model.num_classes)),
    )


FAMILY = Family(
    words="timm's NaFlexVit at one image size (SigLIP 2 NaFlex, C-RADIO)",
    model=NaFlexVit,
    prepare=_prepare,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=_image_sides,
    detach_head=detach_head,
)
