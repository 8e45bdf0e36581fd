"""timm's ``VisionTransformer``: ViT, DeiT (distilled ones too), DINOv2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from repq_deploy.models.family import Family
from repq_deploy.models.sites import (
    AttentionParts,
    AttentionSite,
    LinearSite,
    ResidualStream,
    Sites,
    Stage,
    checked,
    require,
)
from repq_deploy.models.taps import exits_of
from repq_deploy.models.timm_parts import block_linears, detach_head, image_sides
from repq_deploy.models.timm_positions import own_image_size, resized
from repq_deploy.tasks import decided

__all__ = ["FAMILY"]


def _sites(model: VisionTransformer) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    require(model.attn_pool is None, "attention pooling", "class-token or average pooling")
    embed = type(model.patch_embed)
    require(embed is PatchEmbed, f"a {embed.__name__}", "timm's PatchEmbed, one convolution")
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}"
        require(type(block) is Block, type(block).__name__, "timm's plain pre-norm Block")
        require(type(block.attn) is Attention, type(block.attn).__name__, "timm's plain Attention")
        require(getattr(block.attn, "gate", None) is None, "gated attention", "timm's plain Attention")
        require(hasattr(block.mlp, "fc1"), type(block.mlp).__name__, "an MLP of fc1, activation, fc2")
        attentions.append(_attention_site(f"{name}.attn", block.attn))
        linears += block_linears(name, block)
    linears += [LinearSite(head, "head") for head in ("head", "head_dist") if hasattr(model, head)]
    return checked(model, Sites(tuple(linears), tuple(attentions), _stream(model, linears)))


def _attention_site(name: str, attention: Any) -> AttentionSite:
    parts = _parts(attention)
    return AttentionSite(
        name,
        attention.num_heads,
        between_qk="nothing" if parts.q_norm is None and parts.k_norm is None else "norm",
        between_v="nothing" if parts.out_norm is None else "norm",
    )


def _attention(model: VisionTransformer, name: str) -> AttentionParts:
    return _parts(model.get_submodule(name))


def _parts(attention: Any) -> AttentionParts:
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm"))
    return AttentionParts(attention.scale, *(None if isinstance(norm, nn.Identity) else norm for norm in norms))


def _stream(model: VisionTransformer, linears: Sequence[LinearSite]) -> ResidualStream | None:
    exits = exits_of(model)
    final, unused = ("fc_norm", "norm") if isinstance(model.norm, nn.Identity) else ("norm", "fc_norm")
    between = (model.norm_pre, model.patch_embed.norm, model.get_submodule(unused))
    heads = tuple(site.name for site in linears if site.role == "head")
    readable = all(isinstance(model.get_submodule(head), nn.Linear) for head in heads)
    # Models without a final norm have nothing that could take the rotation back, but for taps.
    ends = bool(exits) or (isinstance(model.get_submodule(final), nn.LayerNorm) and readable)
    if not ends or not all(isinstance(module, nn.Identity) for module in between):
        return None
    of_head = () if exits else ((final, heads),)
    embeddings = ("cls_token", "dist_token", "reg_token", "pos_embed")
    return ResidualStream(
        writers=tuple(site.name for site in linears if site.role in ("patch_embed", "proj", "fc2")),
        embeddings=tuple(name for name in embeddings if getattr(model, name, None) is not None),
        readers=(*((site.norm, (site.name,)) for site in linears if site.norm is not None), *of_head),
        exits=exits,
    )


def _stages(model: VisionTransformer) -> tuple[Stage, ...]:
    def embed(images: Tensor) -> Tensor:
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return (
        Stage("patch_embed", embed),
        *(Stage(f"blocks.{index}", block) for index, block in enumerate(model.blocks)),
        Stage("head", classify, ("head", "head_dist"), task=decided(model.num_classes)),
    )


FAMILY = Family(
    words="timm's VisionTransformer (ViT, DeiT, DINOv2)",
    model=VisionTransformer,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=image_sides,
    own_image_size=own_image_size,
    resized=resized,
    detach_head=detach_head,
)
