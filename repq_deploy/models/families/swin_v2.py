"""timm's ``SwinTransformerV2`` (arXiv 2111.09883), which normalizes each branch behind it: x + norm(attention(x)).

What this costs in a product of low bits:

* qkv, fc1 and the patch merging read the residual stream itself, whose channels differ most. There is no layer norm
  that could take scales of channels, so there is no fold: one scale serves the tensor. The affine norms write the
  stream, so that it cannot be rotated either.
* Attention is of cosines: q and k are brought to length one, and their product, within [-1, 1], is multiplied by up to
  100. So are its errors: q and k keep 8 bits where fewer are asked for (``AttentionSite.qk_bits``), and q k^T stays a
  product of 8 bits, 1 to 9 percent of a model's multiplications.

What is left: q and k may be rotated in front of the norm, which keeps lengths; k's mean may not be taken out. v is
free, as everywhere. The position bias that a small network gives is a constant when a model runs.

Windows padded with zeros are refused. A key has no bias here, so that of a padded token is the vector of zeros, which
has no direction; any rounding would give it one, of length one.
"""

from __future__ import annotations

import math
from typing import Any

from timm.models.swin_transformer_v2 import PatchMerging, SwinTransformerV2, SwinTransformerV2Block, WindowAttention
from torch import Tensor

from repq_deploy.models.family import Family
from repq_deploy.models.parts.windows import UnitLength, pads_windows, stages_of, written_out
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked, require
from repq_deploy.models.timm_parts import block_linears, detach_head_of_stages, image_sides, own_qkv

__all__ = ["FAMILY"]


def _prepare(model: SwinTransformerV2) -> None:
    for stage in model.layers:
        for block in stage.blocks:  # type: ignore[union-attr]
            own_qkv(block.attn)


def _sites(model: SwinTransformerV2) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    for stage_index, stage in enumerate(model.layers):
        name = f"layers.{stage_index}"
        if isinstance(stage.downsample, PatchMerging):
            linears.append(LinearSite(f"{name}.downsample.reduction", "reduction"))
        for index, block in enumerate(stage.blocks):  # type: ignore[arg-type]
            path = f"{name}.blocks.{index}"
            require(type(block) is SwinTransformerV2Block, type(block).__name__, "timm's SwinTransformerV2Block")
            require(type(block.attn) is WindowAttention, type(block.attn).__name__, "timm's WindowAttention of V2")
            require(not pads_windows(block), f"{path}: windows padded from {block.input_resolution}", "whole windows")
            attentions.append(AttentionSite(f"{path}.attn", block.attn.num_heads, between_qk="cosine"))
            linears += block_linears(path, block, norms=(None, None))
    linears.append(LinearSite("head.fc", "head"))
    return checked(model, Sites(tuple(linears), tuple(attentions)))


def _attention(model: SwinTransformerV2, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    # The network gives the bias of each offset of two tokens; an index spreads it over their pairs.
    by_offset = attention.cpb_mlp(attention.relative_coords_table).flatten(0, -2)
    of_pairs = by_offset[attention.relative_position_index].permute(2, 0, 1)
    return AttentionParts(
        attention.logit_scale.clamp(max=math.log(100)).exp(),
        q_norm=UnitLength(),
        k_norm=UnitLength(),
        position_bias=16 * of_pairs.sigmoid()[None],
    )


def _stages(model: SwinTransformerV2) -> tuple[Stage, ...]:
    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return stages_of(model, "layers", embed=model.patch_embed, classify=classify)


def _derived_numbers(model: Any) -> int:
    """Position biases are written out instead of the networks that give them, and so are the masks."""
    blocks = [block for stage in model.layers for block in stage.blocks]
    networks = (parameter for block in blocks for parameter in block.attn.cpb_mlp.parameters())
    return sum(map(written_out, blocks)) - sum(parameter.numel() for parameter in networks)


FAMILY = Family(
    words="timm's SwinTransformerV2",
    model=SwinTransformerV2,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    prepare=_prepare,
    derived_numbers=_derived_numbers,
    detach_head=detach_head_of_stages,
)
