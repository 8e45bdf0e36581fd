"""timm's ``VisionTransformer``: ViT, DeiT (distilled ones too), DINOv2, CLIP, SigLIP, AIMv2, hybrid ones."""

from __future__ import annotations

from typing import Any

from timm.layers import Attention, AttentionPoolLatent, GluMlp, HybridEmbed, Mlp, PatchEmbed, SwiGLU
from timm.models.vision_transformer import Block, ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from repq_deploy.models.family import Family
from repq_deploy.models.libraries.parts import TokenAndPatches
from repq_deploy.models.parts.hybrid import embedding_convolution, plain_convolutions, whole_stride
from repq_deploy.models.parts.parallel import ParallelBlock
from repq_deploy.models.parts.streams import norm_readers, residual_stream
from repq_deploy.models.parts.timm_positions import own_image_size, resized
from repq_deploy.models.sites import AttentionParts, AttentionSite, LinearSite, Sites, Stage, checked, require
from repq_deploy.models.timm_parts import block_linears, detach_head, foldable, image_sides, own_query, pool_linears
from repq_deploy.tasks import decided

__all__ = ["FAMILY"]

#: By the kind of a block, the norms whose outputs its attention and its MLP read; None where they read the stream.
_NORMS = {Block: ("norm1", "norm2"), ParallelBlock: ("norm", "norm"), ResPostBlock: None}


def _prepare(model: VisionTransformer) -> None:
    plain_convolutions(model.patch_embed)
    for index, block in enumerate(model.blocks):
        if type(block) is ParallelScalingBlock:
            model.blocks[index] = ParallelBlock(block)
    if isinstance(model.attn_pool, AttentionPoolLatent):
        own_query(model.attn_pool)


def _sites(model: VisionTransformer) -> Sites:
    embedding = _embedding(model)
    linears = [LinearSite(embedding, "patch_embed")]
    attentions = []
    readers: dict[str, tuple[str, ...]] = {}
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}"
        _check(block)
        norms = _NORMS[type(block)]
        attentions.append(_attention_site(f"{name}.attn", block.attn))
        of_block = block_linears(name, block, norms=norms or (None, None))
        readers |= {} if norms is None else norm_readers(name, norms, of_block)
        linears += of_block
    if model.attn_pool is not None:
        pool = model.attn_pool
        require(type(pool) is AttentionPoolLatent, type(pool).__name__, "timm's AttentionPoolLatent")
        require(pool.pos_embed is None, "positions in the pool", "a pool that reads the last norm itself")
        linears += pool_linears("attn_pool", pool, norm=foldable("norm", model.norm))
    linears += [LinearSite(head, "head") for head in _heads(model)]
    after_the_branch = any(type(block) is ResPostBlock for block in model.blocks)
    stream = None if after_the_branch else residual_stream(model, linears, readers, embedding)
    return checked(model, Sites(tuple(linears), tuple(attentions), stream))


def _embedding(model: VisionTransformer) -> str:
    """The convolution whose outputs are the patches' tokens."""
    embed = model.patch_embed
    require(type(embed) in (PatchEmbed, HybridEmbed), f"a {type(embed).__name__}", "timm's PatchEmbed or HybridEmbed")
    if type(embed) is PatchEmbed:
        return "patch_embed.proj"
    conv = embedding_convolution(embed)
    require(conv is not None, "a HybridEmbed that ends in something else", "one that ends in an unpadded convolution")
    return f"patch_embed.{conv}"


def _check(block: Any) -> None:
    # Differential attention multiplies v by the difference of two softmaxes, which no quantizer of ours is for.
    require(type(block) in _NORMS, f"a {type(block).__name__}", "timm's Block, ResPostBlock or ParallelScalingBlock")
    require(type(block.attn) is Attention, type(block.attn).__name__, "timm's plain Attention, of one softmax")
    require(type(block.mlp) in (Mlp, GluMlp, SwiGLU), type(block.mlp).__name__, "timm's Mlp, GluMlp or SwiGLU")


def _heads(model: Any) -> tuple[str, ...]:
    """The linears that classify: of the class token, of the token of a teacher, of the mean of the patches."""
    if isinstance(model.head, TokenAndPatches):
        return "head.token", "head.patches"
    return ("head", "head_dist") if hasattr(model, "head_dist") else ("head",)


def _attention_site(name: str, attention: Any) -> AttentionSite:
    parts = _parts(attention)
    return AttentionSite(
        name,
        attention.num_heads,
        between_qk="nothing" if parts.q_norm is None and parts.k_norm is None else "norm",
        between_v="norm" if parts.out_norm is not None else "nothing" if parts.gate is None else "gate",
    )


def _attention(model: VisionTransformer, name: str) -> AttentionParts:
    return _parts(model.get_submodule(name))


def _parts(attention: Any) -> AttentionParts:
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm"))
    q_norm, k_norm, out_norm = (None if isinstance(norm, nn.Identity) else norm for norm in norms)
    return AttentionParts(attention.scale, q_norm, k_norm, out_norm, gate=getattr(attention, "gate", None))


def _stages(model: VisionTransformer) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return (
        Stage("patch_embed", embed),
        *(Stage(f"blocks.{index}", block) for index, block in enumerate(model.blocks)),
        Stage("head", classify, ("attn_pool", "head", "head_dist"), task=decided(model.num_classes)),
    )


def _image_sides(model: VisionTransformer) -> tuple[tuple[int, int], tuple[int, int]]:
    pixels, patch = image_sides(model)
    return pixels, whole_stride(model.patch_embed) if isinstance(model.patch_embed, HybridEmbed) else patch


FAMILY = Family(
    words="timm's VisionTransformer (ViT, DeiT, DINOv2, CLIP, SigLIP, AIMv2)",
    model=VisionTransformer,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=_image_sides,
    prepare=_prepare,
    own_image_size=own_image_size,
    resized=resized,
    detach_head=detach_head,
)
