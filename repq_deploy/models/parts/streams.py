"""The residual stream of timm's encoders: which modules write to it, which read it, how it begins and how it ends.

Written once for the classes that have timm's common parts: ``patch_embed`` (``embeds`` in NaFlexVit), perhaps
``norm_pre``, blocks, ``norm`` or ``fc_norm``, perhaps a pool by attention, and ``head``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from timm.layers import RmsNorm, RmsNormFp32
from torch import nn

from repq_deploy.models.sites import LinearSite, ResidualStream
from repq_deploy.models.taps import exits_of

__all__ = ["norm_readers", "residual_stream"]

#: Norms of a whole token, which commute with a rotation once their scale is with their readers: layer norms where it
#: keeps the vector of ones, RMS norms in any case.
_ROTATABLE = (nn.LayerNorm, nn.RMSNorm, RmsNorm, RmsNormFp32)

_EMBEDDINGS = ("cls_token", "dist_token", "reg_token", "pos_embed")


def norm_readers(name: str, norms: tuple[str, str], linears: Iterable[LinearSite]) -> dict[str, tuple[str, ...]]:
    """By the name of a norm, the linears that read it: those of a block ``name`` of attention and MLP.

    Args:
        norms: the block's norms whose outputs attention and MLP read; they may be one.
        linears: the block's linear sites.
    """
    found: dict[str, tuple[str, ...]] = {}
    for norm, roles in zip(norms, (("qkv", "gate"), ("fc1",)), strict=True):
        read = tuple(site.name for site in linears if site.role in roles)
        found[f"{name}.{norm}"] = found.get(f"{name}.{norm}", ()) + read
    return found


def residual_stream(
    model: Any, linears: Iterable[LinearSite], readers: Mapping[str, tuple[str, ...]], embedding: str
) -> ResidualStream | None:
    """The stream of ``model``; None where a norm in its blocks is of a kind that cannot be rotated.

    Args:
        readers: by the name of a norm in the blocks, the linears that read it (``norm_readers``).
        embedding: the name of the convolution whose outputs are the patches' tokens.
    """
    if not all(_rotatable(model.get_submodule(norm)) for norm in readers):
        return None
    taps = exits_of(model)
    final, heads = ("", ()) if taps else _end(model)
    outer, parameters = embedding.partition(".")[0], dict(model.named_parameters())
    entry = next((name for name in ("norm_pre", f"{outer}.norm") if _is_there(model, name)), None)
    writers = tuple(site.name for site in linears if site.role in ("proj", "fc2"))
    places = (place for name in _EMBEDDINGS for place in (name, f"{outer}.{name}"))
    embeddings = tuple(name for name in places if name in parameters)
    return ResidualStream(
        writers=writers if entry is not None else (embedding, *writers),
        embeddings=() if entry == "norm_pre" else embeddings,
        readers=(*readers.items(), *([(final, heads)] if heads else [])),
        entry=entry,
        exits=taps or (() if heads else (final,)),
    )


def _end(model: Any) -> tuple[str, tuple[str, ...]]:
    """The module that ends the stream, and the linears that can take a rotation back: those that read it, if it is a
    norm that nothing else reads."""
    if getattr(model, "attn_pool", None) is not None:
        return "norm", ("attn_pool.kv",) if _rotatable(model.norm) else ()
    # The largest of some tokens is no linear function of them.
    pooled = model.global_pool in ("", "avg", "token")
    final, unused = ("fc_norm", "norm") if pooled and not _is_there(model, "norm") else ("norm", "fc_norm")
    heads = tuple(name for name in ("head", "head_dist") if hasattr(model, name))
    readable = all(isinstance(model.get_submodule(name), nn.Linear) for name in heads)
    free = pooled and readable and not _is_there(model, unused) and _rotatable(model.get_submodule(final))
    return final, heads if free else ()


def _is_there(model: nn.Module, name: str) -> bool:
    """Whether the module ``name`` is there and does something."""
    parent, _, leaf = name.rpartition(".")
    return not isinstance(getattr(model.get_submodule(parent), leaf, nn.Identity()), nn.Identity)


def _rotatable(norm: nn.Module) -> bool:
    return isinstance(norm, _ROTATABLE) and norm.weight is not None
