"""Exact rewrites of the float model that make it easier to quantize: they spread outliers over channels.

The weights on both sides of a rotation absorb it, so the model computes the same and costs nothing more. The idea is
QuaRot's and, for Vision Transformers, GLF-Q's; both use RMS norms and Hadamard matrices. Our rotations are random
orthogonal matrices. Those of a residual stream that layer norms read keep the vector of ones, and so mean and variance,
so that layer norms stay layer norms; RMS norms need no more than lengths. All arithmetic is in float64. Every function
serves the float model and the wrapped one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.models.sites import Sites
from repq_deploy.quant.layers import RotatedInput, RotatedOutput, add_to_bias

__all__ = ["fold_layer_scales", "random_rotation", "rotate_heads", "rotate_residual_stream"]


def random_rotation(size: int, generator: torch.Generator, *, keeps_ones: bool = False) -> Tensor:
    """A random orthogonal matrix R [size, size], float64, uniformly drawn; ``keeps_ones``: from those with R 1 = 1."""
    if not keeps_ones:
        q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        return q * torch.sign(torch.diagonal(r))
    # In a basis whose first vector is the normalized vector of ones (a Householder matrix), rotate all others.
    direction = torch.full((size,), -1 / math.sqrt(size), dtype=torch.float64)
    direction[0] += 1
    direction /= direction.norm()
    basis = torch.eye(size, dtype=torch.float64) - 2 * torch.outer(direction, direction)
    inner = torch.eye(size, dtype=torch.float64)
    inner[1:, 1:] = random_rotation(size - 1, generator)
    return basis @ inner @ basis.T


@torch.no_grad()
def fold_layer_scales(model: nn.Module, sites: Sites) -> None:
    """Multiply each LayerScale into the linear before it; the LayerScale becomes an identity."""
    for site in sites.linears:
        if site.layer_scale is None or isinstance(model.get_submodule(site.layer_scale), nn.Identity):
            continue
        gamma: Tensor = _module(model, site.layer_scale).gamma
        layer = _module(model, site.name)
        _multiply_output(layer, torch.diag(gamma.double()))
        model.set_submodule(site.layer_scale, nn.Identity())


@torch.no_grad()
def rotate_residual_stream(model: nn.Module, sites: Sites, seed: int) -> bool:
    """Rotate the residual stream: whatever is written to it is multiplied by R, whatever reads it by R transposed.

    The layer norms' scales and biases move into the linears that read them, as they do not commute with R. Channels
    with outliers, which low-bit quantization suffers from, become mixtures of all channels. A norm before the blocks
    keeps its scale and bias, and is followed by a product with R. Features leave the stream by a product with R
    transposed, which ``rewrites.taps`` can fold into what reads them.

    Returns:
        False, and nothing is changed, where the model's stream has no single form (Swin's patch merging, norms behind
        the branches).
    """
    stream = sites.stream
    if stream is None:
        return False
    fold_layer_scales(model, sites)
    norms = [_module(model, norm) for norm, _ in stream.readers]
    keeps_ones = any(isinstance(norm, nn.LayerNorm) for norm in norms)
    rotation = random_rotation(norms[0].weight.numel(), torch.Generator().manual_seed(seed), keeps_ones=keeps_ones)
    rotation = rotation.to(_module(model, stream.writers[0]).weight.device)
    for name in stream.writers:
        _multiply_output(_module(model, name), rotation.T)
    of_model = rotation.to(_module(model, stream.writers[0]).weight.dtype)
    if stream.entry is not None:
        model.set_submodule(stream.entry, RotatedOutput(model.get_submodule(stream.entry), of_model))
    for name in stream.exits:
        model.set_submodule(name, RotatedInput(model.get_submodule(name), of_model.T.contiguous()))
    for name in stream.embeddings:
        embedding = model.get_parameter(name)
        embedding.copy_(embedding.double() @ rotation)
    for norm, (_, readers) in zip(norms, stream.readers, strict=True):
        gamma, beta = norm.weight.double(), getattr(norm, "bias", None)
        for name in readers:
            layer = _module(model, name)
            if beta is not None:
                add_to_bias(layer, layer.weight.double() @ beta.double())
            layer.weight.copy_(layer.weight.double() * gamma @ rotation)
        norm.weight.fill_(1)
        if beta is not None:
            beta.zero_()
    return True


@torch.no_grad()
def rotate_heads(model: nn.Module, sites: Sites, seed: int) -> None:
    """Rotate, head by head, q and k alike, and v against the projection after it, where the site leaves them free."""
    generator = torch.Generator().manual_seed(seed)
    for site in sites.attentions:
        heads, qkv, proj = site.heads, _module(model, site.qkv), _module(model, site.proj)
        channels = proj.weight.shape[1]
        size = channels // heads
        drawn = torch.stack([random_rotation(size, generator) for _ in range(2 * heads)])
        rotations = drawn.view(2, heads, size, size).to(proj.weight.device)
        identity = torch.eye(size, dtype=torch.float64, device=proj.weight.device).expand(heads, size, size)
        of_qk = rotations[0] if site.qk_rotation_is_free else identity
        of_v = rotations[1] if site.v_rotation_is_free else identity
        _multiply_output(qkv, torch.block_diag(*of_qk.mT, *of_qk.mT, *of_v.mT))
        proj.weight.copy_(proj.weight.double() @ torch.block_diag(*of_v))


def _module(model: nn.Module, name: str) -> Any:
    """The submodule called ``name``, whose type is known from its site."""
    return model.get_submodule(name)


def _multiply_output(layer: Any, matrix: Tensor) -> None:
    """Multiply a linear's (or convolution's) output vectors by ``matrix`` [out, out]."""
    weight: Tensor = layer.weight
    weight.copy_((matrix @ weight.double().flatten(1)).view_as(weight))
    if layer.bias is not None:
        layer.bias.copy_(matrix @ layer.bias.double())
