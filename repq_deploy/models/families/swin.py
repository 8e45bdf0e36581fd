"""timm's ``SwinTransformer``.

Where a side of the tokens is no multiple of the window, a block fills its last windows with tokens of zeros, between
``norm1`` and ``qkv``; see ``LinearSite.padded``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor

from repq_deploy.models.family import Family
from repq_deploy.models.parts.windows import pads_windows, stages_of, written_out
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked, require
from repq_deploy.models.timm_parts import block_linears, detach_head_of_stages, image_sides

__all__ = ["FAMILY"]


def _sites(model: SwinTransformer) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    for stage_index, stage in enumerate(model.layers):
        name = f"layers.{stage_index}"
        if isinstance(stage.downsample, PatchMerging):
            linears.append(LinearSite(f"{name}.downsample.reduction", "reduction", norm=f"{name}.downsample.norm"))
        for index, block in enumerate(stage.blocks):  # type: ignore[arg-type]
            path = f"{name}.blocks.{index}"
            require(type(block) is SwinTransformerBlock, type(block).__name__, "timm's SwinTransformerBlock")
            require(type(block.attn) is WindowAttention, type(block.attn).__name__, "timm's WindowAttention")
            attentions.append(AttentionSite(f"{path}.attn", block.attn.num_heads))
            qkv, *others = block_linears(path, block)
            linears += [replace(qkv, padded=pads_windows(block)), *others]
    linears.append(LinearSite("head.fc", "head"))
    return checked(model, Sites(tuple(linears), tuple(attentions)))


def _attention(model: SwinTransformer, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    # Swin looks its bias up in a table through an index; the looked-up [1, heads, N, N] is what inference needs.
    return AttentionParts(attention.scale, position_bias=attention._get_rel_pos_bias())


def _stages(model: SwinTransformer) -> tuple[Stage, ...]:
    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return stages_of(model, "layers", embed=model.patch_embed, classify=classify)


def _derived_numbers(model: Any) -> int:
    """Position biases are written out instead of their tables, and so are the masks of shifted windows."""
    blocks = [block for stage in model.layers for block in stage.blocks]
    return sum(written_out(block) - block.attn.relative_position_bias_table.numel() for block in blocks)


FAMILY = Family(
    words="timm's SwinTransformer",
    model=SwinTransformer,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    derived_numbers=_derived_numbers,
    detach_head=detach_head_of_stages,
)
