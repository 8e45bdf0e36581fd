"""Model families: which modules are a post-norm linear, an attention product, a post-GELU linear, a patch merge.

Methods speak of sites and their roles; only this file knows timm's module names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from timm.layers import GELU, Attention, GELUTanh, LayerScale, Mlp, PatchEmbed
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from repq_deploy.errors import BadInput

__all__ = [
    "AttentionSite",
    "LinearSite",
    "ResidualStream",
    "Role",
    "Sites",
    "Stage",
    "find_sites",
    "forward_through",
    "stages",
]

Role = Literal["patch_embed", "qkv", "proj", "fc1", "fc2", "reduction", "head"]


@dataclass(frozen=True)
class LinearSite:
    """A linear layer, or the patch embedding's convolution.

    ``norm`` names the layer norm whose output only this layer reads, where there is one: its scale and bias can be
    folded with this layer's weight. ``layer_scale`` names the LayerScale that multiplies this layer's output.
    ``after_gelu``: the layer reads the output of a GELU, and nothing else stands between.
    """

    name: str
    role: Role
    norm: str | None = None
    layer_scale: str | None = None
    after_gelu: bool = False


@dataclass(frozen=True)
class AttentionSite:
    """An attention module: its products q k^T and p v lie between the linears ``<name>.qkv`` and ``<name>.proj``."""

    name: str


@dataclass(frozen=True)
class ResidualStream:
    """What writes to a ViT's residual stream and what reads it; only there, so that the stream can be rotated.

    ``writers`` name linears (or the patch embedding's convolution), ``embeddings`` parameters of shape [..., channels],
    ``readers`` pairs of a layer norm and the linears that read its output.
    """

    writers: tuple[str, ...]
    embeddings: tuple[str, ...]
    readers: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Sites:
    """Every site of a model, in the order of the forward pass. ``stream`` is None where it has no single form."""

    family: Literal["vit", "swin"]
    linears: tuple[LinearSite, ...]
    attentions: tuple[AttentionSite, ...]
    stream: ResidualStream | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the forward pass: its output is the next stage's input. Its sites' names begin with ``name``.

    ``gives_logits``: it is the last one of a model with classes, and not of one that ends in features.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    gives_logits: bool = False

    def holds(self, site: str) -> bool:
        return site.startswith(self.name)

    @property
    def is_head(self) -> bool:
        """Whether this is the last stage, whose output is the model's."""
        return self.name == "head"


def find_sites(model: nn.Module) -> Sites:
    """The sites of a timm model.

    Raises:
        BadInput: the model's class is of no supported family, or it has a block that the family's reading does not fit.
    """
    if isinstance(model, SwinTransformer):
        return _swin(model)
    if isinstance(model, VisionTransformer):
        return _vit(model)
    raise BadInput(
        f"model family {type(model).__name__} is not supported; expected timm's VisionTransformer (ViT, DeiT, DINOv2) "
        "or SwinTransformer"
    )


def _vit(model: VisionTransformer) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    _require(model.attn_pool is None, "attention pooling", "class-token or average pooling")
    embed = type(model.patch_embed)
    _require(embed is PatchEmbed, f"a {embed.__name__}", "timm's PatchEmbed, one convolution")
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}"
        _require(type(block) is Block, type(block).__name__, "timm's plain pre-norm Block")
        _require(type(block.attn) is Attention, type(block.attn).__name__, "timm's plain Attention")
        _require(getattr(block.attn, "gate", None) is None, "gated attention", "timm's plain Attention")
        _require(hasattr(block.mlp, "fc1"), type(block.mlp).__name__, "an MLP of fc1, activation, fc2")
        attentions.append(AttentionSite(f"{name}.attn"))
        linears += _block(name, block)
    linears += [LinearSite(head, "head") for head in ("head", "head_dist") if hasattr(model, head)]
    return _checked(model, Sites("vit", tuple(linears), tuple(attentions), _stream(model, linears)))


def _stream(model: VisionTransformer, linears: Sequence[LinearSite]) -> ResidualStream | None:
    final, unused = ("fc_norm", "norm") if isinstance(model.norm, nn.Identity) else ("norm", "fc_norm")
    between = (model.norm_pre, model.patch_embed.norm, model.get_submodule(unused))
    heads = tuple(site.name for site in linears if site.role == "head")
    readable = all(isinstance(model.get_submodule(head), nn.Linear) for head in heads)
    # Models without a final norm have nothing that could take the rotation back.
    normed = isinstance(model.get_submodule(final), nn.LayerNorm)
    if not normed or not readable or not all(isinstance(module, nn.Identity) for module in between):
        return None
    embeddings = ("cls_token", "dist_token", "reg_token", "pos_embed")
    return ResidualStream(
        writers=tuple(site.name for site in linears if site.role in ("patch_embed", "proj", "fc2")),
        embeddings=tuple(name for name in embeddings if getattr(model, name, None) is not None),
        readers=(*((site.norm, (site.name,)) for site in linears if site.norm is not None), (final, heads)),
    )


def _swin(model: SwinTransformer) -> Sites:
    linears = [LinearSite("patch_embed.proj", "patch_embed")]
    attentions = []
    for stage_index, stage in enumerate(model.layers):
        name = f"layers.{stage_index}"
        if isinstance(stage.downsample, PatchMerging):
            linears.append(LinearSite(f"{name}.downsample.reduction", "reduction", norm=f"{name}.downsample.norm"))
        for index, block in enumerate(stage.blocks):  # type: ignore[arg-type]
            path = f"{name}.blocks.{index}"
            _require(type(block) is SwinTransformerBlock, type(block).__name__, "timm's SwinTransformerBlock")
            _require(type(block.attn) is WindowAttention, type(block.attn).__name__, "timm's WindowAttention")
            # Windows padded between norm and qkv would see zeros where a folded norm means its shifted constant.
            padded = any(side % window for side, window in zip(block.input_resolution, block.window_size, strict=True))
            _require(not padded, f"{path}: windows padded from {block.input_resolution}", "whole windows")
            attentions.append(AttentionSite(f"{path}.attn"))
            linears += _block(path, block)
    linears.append(LinearSite("head.fc", "head"))
    return _checked(model, Sites("swin", tuple(linears), tuple(attentions)))


def _block(name: str, block: nn.Module) -> list[LinearSite]:
    def scale(part: str) -> str | None:
        return f"{name}.{part}" if isinstance(getattr(block, part, None), LayerScale) else None

    return [
        LinearSite(f"{name}.attn.qkv", "qkv", norm=f"{name}.norm1"),
        LinearSite(f"{name}.attn.proj", "proj", layer_scale=scale("ls1")),
        LinearSite(f"{name}.mlp.fc1", "fc1", norm=f"{name}.norm2"),
        LinearSite(f"{name}.mlp.fc2", "fc2", layer_scale=scale("ls2"), after_gelu=_ends_in_gelu(block.mlp)),
    ]


def _ends_in_gelu(mlp: Any) -> bool:
    """Whether fc2 reads GELU, exact or by tanh, but not QuickGELU, which is another function, nor a gated one."""
    return type(mlp) is Mlp and isinstance(mlp.act, nn.GELU | GELU | GELUTanh) and isinstance(mlp.norm, nn.Identity)


def forward_through(stages: Sequence[Stage], x: Tensor) -> Tensor:
    """The output of the last of some consecutive ``stages``, given the first one's input."""
    return functools.reduce(lambda value, stage: stage.forward(value), stages, x)


def stages(model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a timm model, wrapped or not, whose forward passes one after the other are the model's.

    The first maps images [N, 3, H, W] to tokens, the last tokens to logits [N, classes], or features
    [N, channels] where there are no classes.
    """
    if isinstance(model, SwinTransformer):
        found = [Stage("patch_embed", model.patch_embed)]
        for index, stage in enumerate(model.layers):
            found.append(Stage(f"layers.{index}.downsample", stage.downsample))  # type: ignore[arg-type]
            found += [Stage(f"layers.{index}.blocks.{i}.", block) for i, block in enumerate(stage.blocks)]  # type: ignore[arg-type]
    elif isinstance(model, VisionTransformer):

        def embed(images: Tensor) -> Tensor:
            return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

        found = [Stage("patch_embed", embed)]
        found += [Stage(f"blocks.{index}.", block) for index, block in enumerate(model.blocks)]
    else:
        raise TypeError(f"{type(model).__name__} has no stages")

    def classify(tokens: Tensor) -> Tensor:
        return model.forward_head(model.norm(tokens))

    return (*found, Stage("head", classify, gives_logits=model.num_classes > 0))


def _checked(model: nn.Module, sites: Sites) -> Sites:
    """Drop a head that is an identity (``num_classes`` 0), then require each module to be of the type it is read as."""
    modules = dict(model.named_modules())
    linears = tuple(site for site in sites.linears if not isinstance(modules[site.name], nn.Identity))
    for site in linears:
        expected = nn.Conv2d if site.role == "patch_embed" else nn.Linear
        module = modules[site.name]
        _require(isinstance(module, expected), f"{site.name}: {type(module).__name__}", expected.__name__)
        if site.norm is not None:
            norm = modules[site.norm]
            affine = isinstance(norm, nn.LayerNorm) and norm.elementwise_affine
            _require(affine, f"{site.norm}: {type(norm).__name__}", "an affine LayerNorm")
    return replace(sites, linears=linears)


def _require(condition: bool, found: str, expected: str) -> None:
    if not condition:
        raise BadInput(f"model not supported: found {found}, expected {expected}")
