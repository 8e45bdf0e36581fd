"""timm's ``Beit``: BEiT and BEiT v2, whose attentions add a bias for each pair of positions to their logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.beit import Attention, Beit, Block
from torch import Tensor, nn

from repq_deploy.models.family import Family
from repq_deploy.models.parts.position_bias import grid_of_table, resized_tables
from repq_deploy.models.parts.streams import norm_readers, residual_stream
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked, require
from repq_deploy.models.timm_parts import block_linears, detach_head, fold_gammas, image_sides, own_qkv
from repq_deploy.tasks import decided

__all__ = ["FAMILY"]


def _prepare(model: Beit) -> None:
    for block in model.blocks:
        own_qkv(block.attn)
        fold_gammas(block)


def _sites(model: Any) -> Sites:
    linears, attentions = [LinearSite("patch_embed.proj", "patch_embed")], []
    readers: dict[str, tuple[str, ...]] = {}
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}"
        require(type(block) is Block, type(block).__name__, "timm's Block of BEiT")
        require(type(block.attn) is Attention, type(block.attn).__name__, "timm's Attention of BEiT")
        attentions.append(AttentionSite(f"{name}.attn", block.attn.num_heads))
        of_block = block_linears(name, block)
        readers |= norm_readers(name, ("norm1", "norm2"), of_block)
        linears += of_block
    linears.append(LinearSite("head", "head"))
    stream = residual_stream(model, linears, readers, "patch_embed.proj")
    return checked(model, Sites(tuple(linears), tuple(attentions), stream))


def _attention(model: Beit, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    own = None if attention.relative_position_bias_table is None else attention._get_rel_pos_bias()
    shared = None if model.rel_pos_bias is None else model.rel_pos_bias()[None]
    biases = [bias for bias in (own, shared) if bias is not None]
    return AttentionParts(attention.scale, position_bias=sum(biases) if biases else None)


def _stages(model: Beit) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        patches = model.patch_embed(images)
        tokens = torch.cat([model.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return model.pos_drop(tokens if model.pos_embed is None else tokens + model.pos_embed)

    def through(block: nn.Module) -> Callable[[Tensor], Tensor]:
        shared = model.rel_pos_bias
        return lambda tokens: block(tokens, shared_rel_pos_bias=None if shared is None else shared())

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return (
        Stage("patch_embed", embed),
        *(Stage(f"blocks.{index}", through(block)) for index, block in enumerate(model.blocks)),
        Stage("head", classify, task=decided(model.num_classes)),
    )


def _own_image_size(model: Any, tensors: Mapping[str, Tensor]) -> int | None:
    grid = grid_of_table(model, tensors)
    return None if grid is None else grid * int(model.patch_embed.patch_size[0])


def _resized(model: Any, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    found = resized_tables(model, tensors)
    if model.pos_embed is not None:
        grid = list(model.patch_embed.grid_size)
        found["pos_embed"] = resample_abs_pos_embed(found["pos_embed"], grid, num_prefix_tokens=1)
    return found


def _derived_numbers(model: Any) -> int:
    """The index into the tables, of each pair of tokens."""
    biased = any(name.endswith("relative_position_bias_table") for name, _ in model.named_parameters())
    return (model.patch_embed.num_patches + 1) ** 2 if biased else 0


FAMILY = Family(
    words="timm's Beit (BEiT, BEiT v2)",
    model=Beit,
    prepare=_prepare,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    own_image_size=_own_image_size,
    resized=_resized,
    derived_numbers=_derived_numbers,
    detach_head=detach_head,
)
