"""What timm's encoders have in common: blocks of attention and MLP, in the variants that its modules build them of.

The files of ``repq_deploy.models.families`` say which of these a class has; here is how each is read, and how a
variant is brought to the one form that sites speak of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import GELU, Format, GELUTanh, GluMlp, LayerScale, Mlp, SwiGLU
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from repq_deploy.errors import BadInput
from repq_deploy.models.sites import LinearSite, Role, Rows
from repq_deploy.models.taps import Features

__all__ = [
    "attention_norms",
    "block_linears",
    "detach_head",
    "detach_head_of_stages",
    "fold_gammas",
    "foldable",
    "getter_features",
    "image_sides",
    "is_getter",
    "mlp_linears",
    "own_qkv",
    "own_query",
    "pool_linears",
]


def block_linears(
    name: str, block: Any, *, norms: tuple[str | None, str | None] = ("norm1", "norm2")
) -> list[LinearSite]:
    """The linear sites of a block ``name`` of attention and MLP.

    Args:
        norms: the block's layer norms whose outputs attention and MLP read; None where one reads the stream itself.
    """
    first, second = (None if norm is None else foldable(f"{name}.{norm}", getattr(block, norm)) for norm in norms)

    def scale(part: str) -> str | None:
        return f"{name}.{part}" if isinstance(getattr(block, part, None), LayerScale) else None

    gate = [] if getattr(block.attn, "gate", None) is None else [LinearSite(f"{name}.attn.gate", "gate", norm=first)]
    return [
        LinearSite(f"{name}.attn.qkv", "qkv", norm=first),
        *gate,
        LinearSite(f"{name}.attn.proj", "proj", layer_scale=scale("ls1")),
        *mlp_linears(f"{name}.mlp", block.mlp, norm=second, layer_scale=scale("ls2")),
    ]


def mlp_linears(
    name: str, mlp: Any, *, norm: str | None, layer_scale: str | None = None, role: Role | None = None
) -> list[LinearSite]:
    """The linear sites of an MLP ``name``: fc1, activation, fc2; or gated, with a packed fc1 or one of two halves.

    A norm inside, before fc2, is one more that can be folded.

    Args:
        norm: the layer norm whose output the MLP reads, if it can be folded.
        role: of all of them; default: "fc1" and "fc2".
    """
    firsts = ("fc1",) if hasattr(mlp, "fc1") else ("fc1_g", "fc1_x")
    inner = getattr(mlp, "norm", None)
    return [
        *(LinearSite(f"{name}.{first}", role or "fc1", norm=norm) for first in firsts),
        LinearSite(
            f"{name}.fc2",
            role or "fc2",
            norm=foldable(f"{name}.norm", inner),
            layer_scale=layer_scale,
            after_gelu=_ends_in_gelu(mlp),
            up=_up(name, mlp) if inner is None or isinstance(inner, nn.Identity) else None,
        ),
    ]


def _up(name: str, mlp: Any) -> Rows | None:
    """The half of a gated MLP that its activation does not touch."""
    if isinstance(mlp, GluMlp):
        packed: Any = mlp.fc1
        return Rows(f"{name}.fc1", 0 if mlp.gate_last else packed.out_features // 2)
    return Rows(f"{name}.fc1_x") if isinstance(mlp, SwiGLU) else None


def pool_linears(name: str, pool: Any, *, norm: str | None) -> list[LinearSite]:
    """The linear sites of timm's ``AttentionPoolLatent`` ``name``: k and v of all tokens, and what follows.

    Its query is a constant, and its products have one row for each query: they stay in float.

    Args:
        norm: the layer norm whose output the pool reads, if it can be folded.
    """
    sites = [LinearSite(f"{name}.kv", "pool", norm=norm)]
    if isinstance(pool.proj, nn.Linear):
        sites.append(LinearSite(f"{name}.proj", "pool"))
    if pool.mlp is not None:
        sites += mlp_linears(f"{name}.mlp", pool.mlp, norm=foldable(f"{name}.norm", pool.norm), role="pool")
    return sites


@torch.no_grad()
def own_query(pool: Any) -> None:
    """Let the latent of timm's ``AttentionPoolLatent``, a parameter, be the query that its linear ``q`` makes of it."""
    if not isinstance(pool.q, nn.Identity):
        pool.latent = nn.Parameter(pool.q(pool.latent), requires_grad=False)
        pool.q = nn.Identity()


def attention_norms(attention: Any) -> dict[str, Any]:
    """The norms in an attention, by the names that ``AttentionParts`` has for them."""
    names = {"q_norm": "q_norm", "k_norm": "k_norm", "out_norm": "norm"}
    found = {ours: getattr(attention, theirs, None) for ours, theirs in names.items()}
    return {name: None if isinstance(norm, nn.Identity) else norm for name, norm in found.items()}


def foldable(name: str, norm: nn.Module | None) -> str | None:
    """``name`` if ``norm`` is a layer norm with a scale and a bias, which a fold changes; RMS norms have no bias."""
    has_both = isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
    return name if has_both else None


def _ends_in_gelu(mlp: Any) -> bool:
    """Whether fc2 reads GELU, exact or by tanh, but not QuickGELU, which is another function, nor a gated one."""
    return type(mlp) is Mlp and isinstance(mlp.act, nn.GELU | GELU | GELUTanh) and isinstance(mlp.norm, nn.Identity)


@torch.no_grad()
def own_qkv(attention: Any) -> None:
    """Give an attention one linear ``qkv`` with its bias; it may have three, or biases beside it.

    Where several heads share their k and v (grouped queries), each head gets its own copy of their rows.
    """
    if attention.qkv is None:
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        heads, size = attention.num_heads, attention.q_proj.weight.shape[0] // attention.num_heads
        weights = [_for_each_head(part.weight, heads, size) for part in parts]
        biases = [None if part.bias is None else _for_each_head(part.bias, heads, size) for part in parts]
        attention.qkv = _linear(torch.cat(weights), _joined(biases, weights))
        attention.q_proj = attention.k_proj = attention.v_proj = None
        attention.num_kv_groups = 1
    elif getattr(attention, "q_bias", None) is not None:
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        attention.qkv = _linear(attention.qkv.weight, bias)
        attention.q_bias = attention.k_bias = attention.v_bias = None


def _for_each_head(rows: Tensor, heads: int, size: int) -> Tensor:
    """Rows [heads or fewer groups of them * size, ...] of a projection, repeated so that each head has its own."""
    groups = rows.unflatten(0, (-1, size))
    return groups.repeat_interleave(heads // len(groups), dim=0).flatten(0, 1)


def _joined(biases: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    pairs = zip(biases, weights, strict=True)
    return torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for bias, weight in pairs])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear


@torch.no_grad()
def fold_gammas(block: Any) -> None:
    """Multiply ``gamma_1`` and ``gamma_2``, LayerScales that a block has as parameters, into the linears before."""
    for name, linear in (("gamma_1", block.attn.proj), ("gamma_2", block.mlp.fc2)):
        gamma = getattr(block, name, None)
        if gamma is not None:
            weight = linear.weight.double() * gamma.double()[:, None]
            bias = None if linear.bias is None else (linear.bias.double() * gamma.double()).to(gamma.dtype)
            linear.weight = nn.Parameter(weight.to(gamma.dtype), requires_grad=False)
            linear.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
            setattr(block, name, None)


def detach_head(model: Any) -> nn.Module:
    """Take away, in place, the final norm, the pooling and the classifiers of a timm encoder; its final norm."""
    norm: nn.Module = model.norm
    model.reset_classifier(0, "")
    model.norm = nn.Identity()
    if hasattr(model, "fc_norm"):
        model.fc_norm = nn.Identity()
    return norm


def detach_head_of_stages(model: Any) -> nn.Module:
    """As ``detach_head``, of a model whose stages differ in width: its final norm, if any, is no norm of features."""
    model.reset_classifier(0, "")
    if hasattr(model, "norm"):
        model.norm = nn.Identity()
    return nn.Identity()


def is_getter(module: nn.Module) -> bool:
    """Whether ``module`` is what ``timm.create_model(..., features_only=True)`` gives of an encoder."""
    return isinstance(module, FeatureGetterNet)


def getter_features(getter: Any) -> tuple[nn.Module, Features]:
    """The encoder in a feature extractor of timm's, and which features it gives.

    Raises:
        BadInput: features in a layout that we do not have.
    """
    form, prefix = getter.output_fmt, getattr(getter.model, "num_prefix_tokens", 0)
    if form != Format.NCHW and (form != Format.NLC or prefix):
        raise BadInput(f"features in timm's layout {form.value} (prefix tokens: {prefix}): expected NCHW")
    layout: Any = "maps" if form == Format.NCHW else "tokens"
    return getter.model, Features(tuple(getter.out_indices), layout, getter.norm)


def image_sides(model: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width in pixels of a model's images and of its patches, as timm's ``PatchEmbed`` knows them."""
    embed = model.patch_embed
    return tuple(embed.img_size), tuple(embed.patch_size)
