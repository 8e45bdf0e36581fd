"""timm's ``SwinTransformerV2Cr``, another reading of Swin V2: see ``swin_v2`` for what its form costs.

The patch merging normalizes what it reads, so it has a fold. Some blocks (the last of a stage in models named ``ns``)
end in a norm of the stream itself, ``norm3``: the next branch reads what it gives, but so does the stream, and nothing
is folded. The position bias is the network's output as it is, of the logarithms of offsets.
"""

from __future__ import annotations

import math
from typing import Any

from timm.models.swin_transformer_v2_cr import (
    PatchMerging,
    SwinTransformerV2Cr,
    SwinTransformerV2CrBlock,
    WindowMultiHeadAttention,
)
from torch import Tensor

from repq_deploy.models.family import Family
from repq_deploy.models.parts.windows import UnitLength, stages_of, written_out
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked, require
from repq_deploy.models.timm_parts import block_linears, detach_head_of_stages, image_sides

__all__ = ["FAMILY"]


def _sites(model: SwinTransformerV2Cr) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    for stage_index, stage in enumerate(model.stages):
        name = f"stages.{stage_index}"
        if isinstance(stage.downsample, PatchMerging):
            linears.append(LinearSite(f"{name}.downsample.reduction", "reduction", norm=f"{name}.downsample.norm"))
        for index, block in enumerate(stage.blocks):  # type: ignore[arg-type]
            path, attention = f"{name}.blocks.{index}", type(block.attn)
            require(type(block) is SwinTransformerV2CrBlock, type(block).__name__, "timm's SwinTransformerV2CrBlock")
            require(attention is WindowMultiHeadAttention, attention.__name__, "timm's WindowMultiHeadAttention")
            attentions.append(AttentionSite(f"{path}.attn", block.attn.num_heads, between_qk="cosine"))
            linears += block_linears(path, block, norms=(None, None))
    linears.append(LinearSite("head.fc", "head"))
    return checked(model, Sites(tuple(linears), tuple(attentions)))


def _attention(model: SwinTransformerV2Cr, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    return AttentionParts(
        attention.logit_scale.clamp(max=math.log(100)).exp()[:, None, None],
        q_norm=UnitLength(),
        k_norm=UnitLength(),
        position_bias=attention._relative_positional_encodings(),
    )


def _stages(model: SwinTransformerV2Cr) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        return model.patch_embed(images).permute(0, 2, 3, 1)

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(tokens.permute(0, 3, 1, 2))

    return stages_of(model, "stages", embed=embed, classify=classify)


def _derived_numbers(model: Any) -> int:
    """Position biases are written out instead of the networks that give them, and so are the masks."""
    blocks = [block for stage in model.stages for block in stage.blocks]
    networks = (parameter for block in blocks for parameter in block.attn.meta_mlp.parameters())
    return sum(map(written_out, blocks)) - sum(parameter.numel() for parameter in networks)


FAMILY = Family(
    words="timm's SwinTransformerV2Cr",
    model=SwinTransformerV2Cr,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    derived_numbers=_derived_numbers,
    detach_head=detach_head_of_stages,
)
