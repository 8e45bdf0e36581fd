"""A module of somebody's own: timm's ``PatchEmbed``, then a list of timm's ``Block`` in order, whatever stands around.

Its forward pass is split at the list. What comes before the first block and what follows the last one is the module's
own ``forward``, run with the blocks, or also the patches, replaced by what they are given. That this computes the same
is not assumed but tried, on random images, before the module is quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from repq_deploy.hooks import hooks
from repq_deploy.models.families import vit
from repq_deploy.models.family import Family
from repq_deploy.models.sites import (
    AttentionParts,
    AttentionSite,
    LinearSite,
    Sites,
    Stage,
    checked,
    forward_through,
    require,
)
from repq_deploy.models.timm_parts import block_linears
from repq_deploy.tasks import CLASSIFICATION, FEATURES

__all__ = ["FAMILY"]

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class _Split:
    """Names of the patch embedding, of the list of blocks, and of the linear that gives the outputs, or ""."""

    embed: str
    blocks: str
    head: str = ""


def _found(model: nn.Module) -> _Split | None:
    """Where the module can be split; None unless it has one patch embedding, and one list that holds all its blocks."""
    if isinstance(known := getattr(model, "repq_split", None), _Split):
        return known
    embeds = [name for name, one in model.named_modules() if type(one) is PatchEmbed]
    lists = [
        name
        for name, one in model.named_modules()
        if type(one) in (nn.ModuleList, nn.Sequential) and len(one) and all(type(each) is Block for each in one)
    ]
    return _Split(embeds[0], lists[0]) if len(embeds) == len(lists) == 1 and embeds[0] and lists[0] else None


def _split(model: nn.Module) -> _Split:
    found = _found(model)
    require(found is not None, type(model).__name__, "one PatchEmbed and one list of Block of timm's")
    return found  # type: ignore[return-value]


@torch.no_grad()
def _prepare(model: Any) -> None:
    """Try that the stages compute what the module does, and find its head. They are of inference."""
    model.eval()
    split = _split(model)
    embed: Any = model.get_submodule(split.embed)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, embed.proj.in_channels, *embed.img_size, generator=generator).to(embed.proj.weight.device)
    last: dict[str, int] = {}
    linears = [(name, one) for name, one in model.named_modules() if type(one) is nn.Linear]
    with hooks(
        one.register_forward_hook(lambda _m, _i, output, name=name: last.update({name: id(output)}))
        for name, one in linears
        if not name.startswith(f"{split.blocks}.")
    ):
        expected = model(images)
    kind = f"{type(model).__name__}, whose outputs are a {type(expected).__name__}"
    require(isinstance(expected, Tensor) and expected.ndim == 2, kind, "one that gives a tensor [N, outputs]")
    head = next((name for name, identity in last.items() if identity == id(expected)), "")
    model.repq_split = _Split(split.embed, split.blocks, head)
    found = forward_through(_stages(model), images)
    same = found.shape == expected.shape and bool(
        (found - expected).abs().max() <= _TOLERANCE * expected.abs().max().clamp(min=1e-30)
    )
    require(
        same,
        f"{type(model).__name__}, which does not run {split.embed}, {split.blocks} in their order, and then the rest",
        "a forward pass that is a chain around its blocks",
    )


def _sites(model: Any) -> Sites:
    split = _split(model)
    linears = [LinearSite(f"{split.embed}.proj", "patch_embed")]
    attentions = []
    for index, block in enumerate(model.get_submodule(split.blocks)):
        name = f"{split.blocks}.{index}"
        require(type(block.attn) is Attention, type(block.attn).__name__, "timm's plain Attention")
        parts = _attention(model, f"{name}.attn")
        attentions.append(
            AttentionSite(
                f"{name}.attn",
                block.attn.num_heads,
                between_qk="nothing" if parts.q_norm is None and parts.k_norm is None else "norm",
                between_v="nothing" if parts.out_norm is None else "norm",
            )
        )
        require(parts.gate is None, "gated attention", "timm's plain Attention")
        require(hasattr(block.mlp, "fc1"), type(block.mlp).__name__, "an MLP of fc1, activation, fc2")
        linears += block_linears(name, block)
    if split.head:
        linears.append(LinearSite(split.head, "head"))
    # Who else writes to the stream, or reads it, is not known: it cannot be rotated.
    return checked(model, Sites(tuple(linears), tuple(attentions)))


def _attention(model: nn.Module, name: str) -> AttentionParts:
    return vit.FAMILY.attention(model, name)


def _stages(model: Any) -> tuple[Stage, ...]:
    split = _split(model)

    def before(images: Tensor) -> Tensor:
        with _replaced(model, split.blocks, _Stop()):
            try:
                model(images)
            except _Reached as reached:
                return reached.tokens
        require(False, f"{split.blocks}, which is not run", "a list of blocks that the forward pass runs")
        raise AssertionError

    def after(tokens: Tensor) -> Tensor:
        embed = model.get_submodule(split.embed)
        patches = tokens.new_zeros(len(tokens), embed.num_patches, embed.proj.weight.shape[0])
        images = tokens.new_zeros(len(tokens), embed.proj.weight.shape[1], *embed.img_size)
        with _replaced(model, split.blocks, _Given(tokens)), _replaced(model, split.embed, _Given(patches)):
            outputs: Tensor = model(images)
        return outputs

    names = [f"{split.blocks}.{index}" for index in range(len(model.get_submodule(split.blocks)))]
    return (
        Stage("patch_embed", before, (split.embed,)),
        *(Stage(name, model.get_submodule(name)) for name in names),
        Stage("head", after, (split.head,) if split.head else (), task=CLASSIFICATION if split.head else FEATURES),
    )


class _Reached(Exception):
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


class _Stop(nn.Module):
    """In place of a block: hands over what the first one is given."""

    def forward(self, *given: Any, **more: Any) -> Tensor:
        plain = len(given) == 1 and isinstance(given[0], Tensor) and not more
        require(plain, "blocks that are given more than their tokens", "blocks that are called with tokens alone")
        raise _Reached(given[0])


class _Given(nn.Module):
    """Gives ``value``, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, *_: Any) -> Tensor:
        return self.value


@contextmanager
def _replaced(model: nn.Module, name: str, one: nn.Module) -> Iterator[None]:
    """``one`` in place of the module ``name`` of ``model``, or of each module of a list of that name, for a while."""
    original = model.get_submodule(name)
    match original:
        case nn.Sequential():
            model.set_submodule(name, nn.Sequential(*[one] * len(original)))
        case nn.ModuleList():
            model.set_submodule(name, nn.ModuleList([one] * len(original)))
        case _:
            model.set_submodule(name, one)
    try:
        yield
    finally:
        model.set_submodule(name, original)


def _image_sides(model: nn.Module) -> tuple[tuple[int, int], tuple[int, int]]:
    embed: Any = model.get_submodule(_split(model).embed)
    return tuple(embed.img_size), tuple(embed.patch_size)


FAMILY = Family(
    words="a module of your own with one PatchEmbed and one list of Block of timm's",
    model=nn.Module,
    accepts=lambda model: _found(model) is not None,
    prepare=_prepare,
    sites=_sites,
    stages=_stages,
    attention=_attention,
    image_sides=_image_sides,
)
