"""An exact rewrite of the float model: the channels that fc2 of a gated MLP reads get ranges that are more alike.

A gated MLP computes ``fc2(act(gate) * up)``, which is linear in ``up``. So channel c of the product may be divided by
any number r_c in the rows of ``up``, weight and bias, and the columns of fc2 that read it are multiplied by r_c. A
product of two functions of the image has outliers in few channels, and one scale for the tensor has to reach them.

With m_c the largest magnitude of channel c, ``r_c = (m_c / mean(m))^power``. The power 1 makes all channels alike, and
leaves their differences to the columns of fc2's weight, which has one scale a row; smaller powers share them, as in
SmoothQuant (Xiao et al., arXiv 2211.10438), which folds into norms alone. Behind a GELU or an activation nothing of the
kind is exact.

It costs nothing when the model runs. Arithmetic is in float64. Both functions serve the float model and the wrapped
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.devices import device_of
from repq_deploy.hooks import hooks
from repq_deploy.models.sites import Sites

__all__ = ["balance_products", "product_ranges"]

#: Of the mean: the least range that a channel is taken to have, so that weights stay finite where one is always zero.
_LEAST = 1e-3


@torch.no_grad()
def product_ranges(model: nn.Module, sites: Sites, images: Tensor, *, batch: int) -> dict[str, Tensor]:
    """The largest magnitude over images and tokens of each channel that an fc2 behind a gate reads: [channels]."""
    largest: dict[str, Tensor] = {}

    def look(name: str, x: Tensor) -> None:
        found = x.flatten(0, -2).abs().amax(dim=0)
        largest[name] = torch.maximum(largest[name], found) if name in largest else found

    taps = (
        model.get_submodule(site.name).register_forward_pre_hook(
            lambda _module, inputs, name=site.name: look(name, inputs[0])
        )
        for site in sites.linears
        if site.up is not None
    )
    with hooks(taps):
        for part in images.split(batch):
            model(part.to(device_of(model)))
    return largest


@torch.no_grad()
def balance_products(model: nn.Module, sites: Sites, ranges: Mapping[str, Tensor], power: float) -> None:
    """Divide the channels of products by their share of ``ranges``, of the kind that ``product_ranges`` gives."""
    for site in sites.linears:
        if site.up is None or site.name not in ranges:
            continue
        up: Any = model.get_submodule(site.up.linear)
        down: Any = model.get_submodule(site.name)
        range_ = ranges[site.name].double()
        if not range_.any():
            continue
        ratio = (range_ / range_.mean()).clamp_min(_LEAST) ** power
        rows = slice(site.up.start, site.up.start + len(ratio))
        up.weight[rows] = up.weight[rows].double() / ratio[:, None]
        if up.bias is not None:
            up.bias[rows] = up.bias[rows].double() / ratio
        down.weight.copy_(down.weight.double() * ratio)
