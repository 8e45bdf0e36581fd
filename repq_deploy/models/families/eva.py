"""timm's ``Eva``: EVA, EVA-02, DINOv3, Perception Encoder (PE), RoPE-ViT, Sapiens2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import AttentionPoolLatent, AttentionRope, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from repq_deploy.models.family import Family
from repq_deploy.models.parts.rope import FixedTable, Rope, halves_as_partners
from repq_deploy.models.parts.streams import norm_readers, residual_stream
from repq_deploy.models.parts.timm_positions import own_image_size, resized
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
    block_linears,
    detach_head,
    fold_gammas,
    foldable,
    image_sides,
    own_qkv,
    own_query,
    pool_linears,
)
from repq_deploy.tasks import decided

__all__ = ["FAMILY"]


def _prepare(model: Eva) -> None:
    for block in model.blocks:
        own_qkv(block.attn)
        fold_gammas(block)
    if model.attn_pool is not None:
        own_query(model.attn_pool)
    if model.rope is not None and not isinstance(model.rope, FixedTable):
        tables = [
            halves_as_partners(block.attn, table) for block, table in zip(model.blocks, _tables(model), strict=True)
        ]
        model.rope = FixedTable(torch.stack(tables) if model.rope_mixed else tables[0])


def _sites(model: Eva) -> Sites:
    embed, pool = type(model.patch_embed), model.attn_pool
    require(embed is PatchEmbed, f"a {embed.__name__}", "timm's PatchEmbed, one convolution")
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    readers: dict[str, tuple[str, ...]] = {}
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}"
        _check(block)
        norms = None if type(block) is EvaBlockPostNorm else ("norm1", "norm2")
        of_block = block_linears(name, block, norms=norms or (None, None))
        readers |= {} if norms is None else norm_readers(name, norms, of_block)
        linears += of_block
        attentions.append(_attention_site(f"{name}.attn", block.attn, turned=model.rope is not None))
    if pool is not None:
        require(type(pool) is AttentionPoolLatent, type(pool).__name__, "timm's AttentionPoolLatent")
        require(pool.pos_embed is None, "a pooling with positions of its own", "timm's AttentionPoolLatent without")
        linears += pool_linears("attn_pool", pool, norm=foldable("norm", model.norm))
    linears.append(LinearSite("head", "head"))
    # A norm behind a branch writes to the stream, and cannot absorb a rotation.
    after_the_branch = any(type(block) is EvaBlockPostNorm for block in model.blocks)
    stream = None if after_the_branch else residual_stream(model, linears, readers, "patch_embed.proj")
    return checked(model, Sites(tuple(linears), tuple(attentions), stream))


def _check(block: Any) -> None:
    kinds: tuple[tuple[nn.Module, tuple[type[nn.Module], ...]], ...] = (
        (block, (EvaBlock, EvaBlockPostNorm)),
        (block.attn, (EvaAttention, AttentionRope)),
        (block.mlp, (Mlp, GluMlp, SwiGLU)),
    )
    for module, expected in kinds:
        names = " or ".join(kind.__name__ for kind in expected)
        require(type(module) in expected, type(module).__name__, f"timm's {names}")


def _attention_site(name: str, attention: Any, *, turned: bool) -> AttentionSite:
    normed = any(not isinstance(norm, nn.Identity) for norm in (attention.q_norm, attention.k_norm))
    out_normed = not isinstance(attention.norm, nn.Identity)
    return AttentionSite(
        name,
        attention.num_heads,
        between_qk="norm" if normed else "rope" if turned else "nothing",
        between_v="norm" if out_normed else "nothing" if attention.gate is None else "gate",
    )


def _attention(model: Eva, name: str) -> AttentionParts:
    attention: Any = model.get_submodule(name)
    norms = (attention.q_norm, attention.k_norm, attention.norm)
    q_norm, k_norm, out_norm = (None if isinstance(norm, nn.Identity) else norm for norm in norms)
    table = _table(model, int(name.split(".")[1]))
    rotate = None if table is None else Rope(table, prefix=attention.num_prefix_tokens)
    return AttentionParts(attention.scale, q_norm, k_norm, out_norm, rotate=rotate, gate=attention.gate)


def _table(model: Eva, index: int) -> Tensor | None:
    """The sines and cosines of a block [patches, 2 * channels of a head], or of each head; None where nothing turns."""
    return None if model.rope is None else _tables(model)[index]


def _tables(model: Eva) -> Sequence[Tensor]:
    """Each block's, as the model's own forward pass makes them."""
    rope: Any = model.rope
    fixed = hasattr(rope, "feat_shape") and not model.dynamic_img_size
    table: Tensor = rope.get_embed(**({} if fixed else {"shape": list(model.patch_embed.grid_size)}))
    count = len(model.blocks)
    return list(table[:count]) if model.rope_mixed else [table] * count


def _stages(model: Eva) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        return model.norm_pre(model._pos_embed(model.patch_embed(images))[0])

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    def through(index: int) -> Stage:
        return Stage(f"blocks.{index}", lambda tokens: model.blocks[index](tokens, rope=_table(model, index)))

    return (
        Stage("patch_embed", embed),
        *(through(index) for index in range(len(model.blocks))),
        Stage("head", classify, ("attn_pool", "head"), task=decided(model.num_classes)),
    )


def _derived_numbers(model: Eva) -> int:
    """Sines and cosines of all tokens, once for all blocks or for each block and head."""
    if model.rope is None:
        return 0
    patches = model.patch_embed.num_patches
    tables = _tables(model) if model.rope_mixed else _tables(model)[:1]
    return sum(table.numel() // patches * (patches + model.num_prefix_tokens) for table in tables)


FAMILY = Family(
    words="timm's Eva (EVA-02, DINOv3, PE, RoPE-ViT)",
    model=Eva,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    prepare=_prepare,
    own_image_size=own_image_size,
    resized=resized,
    derived_numbers=_derived_numbers,
    detach_head=detach_head,
)
