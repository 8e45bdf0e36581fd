"""timm's ``VisionTransformerRelPos``: a ViT without positions of its own, whose attentions add a bias for each pair.

The bias is looked up in a table (``RelPosBias``) or is what a small network makes of the distances (``RelPosMlp``);
blocks have each their own, or share one. For inference it is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.layers import PatchEmbed, RelPosMlp
from timm.models.vision_transformer_relpos import (
    RelPosAttention,
    RelPosBlock,
    ResPostRelPosBlock,
    VisionTransformerRelPos,
)
from torch import Tensor, nn

from repq_deploy.models.family import Family
from repq_deploy.models.parts.position_bias import grid_of_table, resized_tables
from repq_deploy.models.parts.streams import norm_readers, residual_stream
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked, require
from repq_deploy.models.timm_parts import attention_norms, block_linears, detach_head, image_sides
from repq_deploy.tasks import decided

__all__ = ["FAMILY"]

#: The layer norms that attention and MLP read. Behind a branch, as ResPost blocks have them, no linear reads a norm.
_NORMS: dict[type[nn.Module], tuple[str, str] | None] = {
    RelPosBlock: ("norm1", "norm2"),
    ResPostRelPosBlock: None,
}


def _sites(model: Any) -> Sites:
    embed = type(model.patch_embed)
    require(embed is PatchEmbed, f"a {embed.__name__}", "timm's PatchEmbed, one convolution")
    linears, attentions = [LinearSite("patch_embed.proj", "patch_embed")], []
    readers: dict[str, tuple[str, ...]] = {}
    for index, block in enumerate(model.blocks):
        name, kind = f"blocks.{index}", type(block)
        require(kind in _NORMS, kind.__name__, "timm's RelPosBlock or ResPostRelPosBlock")
        require(type(block.attn) is RelPosAttention, type(block.attn).__name__, "timm's RelPosAttention")
        normed = attention_norms(block.attn)["q_norm"] is not None
        attentions.append(
            AttentionSite(f"{name}.attn", block.attn.num_heads, between_qk="norm" if normed else "nothing")
        )
        norms = _NORMS[kind]
        of_block = block_linears(name, block, norms=norms or (None, None))
        readers |= {} if norms is None else norm_readers(name, norms, of_block)
        linears += of_block
    linears.append(LinearSite("head", "head"))
    # What a ResPost block adds to the stream has passed a norm, which cannot absorb a rotation.
    after_the_branch = any(type(block) is ResPostRelPosBlock for block in model.blocks)
    stream = None if after_the_branch else residual_stream(model, linears, readers, "patch_embed.proj")
    return checked(model, Sites(tuple(linears), tuple(attentions), stream))


def _attention(model: VisionTransformerRelPos, name: str) -> AttentionParts:
    return _parts(model, model.get_submodule(name))


def _parts(model: VisionTransformerRelPos, attention: Any) -> AttentionParts:
    source = attention.rel_pos or model.shared_rel_pos
    return AttentionParts(
        attention.scale,
        position_bias=None if source is None else source.get_bias(),
        **attention_norms(attention),
    )


def _stages(model: VisionTransformerRelPos) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        patches = model.patch_embed(images)
        first = model.cls_token
        return patches if first is None else torch.cat([first.expand(patches.shape[0], -1, -1), patches], dim=1)

    def through(block: nn.Module) -> Callable[[Tensor], Tensor]:
        shared = model.shared_rel_pos
        return lambda tokens: block(tokens, shared_rel_pos=None if shared is None else shared.get_bias())

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


def _derived_numbers(model: Any) -> int:
    """The index into the tables, of each pair of tokens; and the tables that stand for networks."""
    rows, columns = model.patch_embed.grid_size
    entries = (2 * rows - 1) * (2 * columns - 1) + model.num_prefix_tokens
    networks = [module for module in model.modules() if isinstance(module, RelPosMlp)]
    numbers = sum(parameter.numel() for network in networks for parameter in network.parameters())
    tables = sum(entries * network.num_heads for network in networks)
    return (rows * columns + model.num_prefix_tokens) ** 2 + tables - numbers


FAMILY = Family(
    words="timm's VisionTransformerRelPos (ViT with relative positions)",
    model=VisionTransformerRelPos,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    own_image_size=_own_image_size,
    resized=resized_tables,
    derived_numbers=_derived_numbers,
    detach_head=detach_head,
)
