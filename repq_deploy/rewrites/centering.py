"""An exact rewrite of the float model: the mean over tokens is taken out of attention's keys and values.

* A constant added to every key adds one number to all logits of a row, which the softmax takes away again. So the mean
  of k may leave through the bias of qkv. A channel of k far from zero would widen the range of the whole tensor.
  SageAttention (Zhang et al., arXiv 2410.02367) does this at run time, for each image; ours is a constant.
* A row's probabilities sum to one, so a constant added to every value comes out of the product whole: the mean of v may
  move to the bias of proj. Quantized probabilities do not sum to one, and the mean of v would carry that error on.

It costs nothing when the model runs. Arithmetic is in float64. Both functions serve the float model and the
wrapped one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repq_deploy.devices import device_of
from repq_deploy.hooks import hooks
from repq_deploy.models.sites import Sites
from repq_deploy.quant.layers import add_to_bias

__all__ = ["center_keys_and_values", "qkv_means"]


@torch.no_grad()
def qkv_means(model: nn.Module, sites: Sites, images: Tensor, *, batch: int) -> dict[str, Tensor]:
    """For each attention the mean over images and tokens of what its ``qkv`` gives: [3 * channels], float64."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, output: Tensor) -> None:
        rows = output.flatten(0, -2)
        sums[name] = sums.get(name, 0) + rows.sum(dim=0, dtype=torch.float64)
        counts[name] = counts.get(name, 0) + len(rows)

    taps = (
        model.get_submodule(site.qkv).register_forward_hook(
            lambda _module, _inputs, output, name=site.name: add(name, output)
        )
        for site in sites.attentions
    )
    with hooks(taps):
        for part in images.split(batch):
            model(part.to(device_of(model)))
    return {name: total / counts[name] for name, total in sums.items()}


@torch.no_grad()
def center_keys_and_values(model: nn.Module, sites: Sites, means: Mapping[str, Tensor]) -> None:
    """Subtract the means of k and v, of the kind that ``qkv_means`` gives; the model computes the same.

    Both stay where a constant is not free (``AttentionSite.k_shift_is_free``, ``v_shift_is_free``).
    """
    for site in sites.attentions:
        qkv: Any = model.get_submodule(site.qkv)
        proj: Any = model.get_submodule(site.proj)
        q, k, v = means[site.name].view(3, -1)
        k = k if site.k_shift_is_free else torch.zeros_like(k)
        v = v if site.v_shift_is_free else torch.zeros_like(v)
        add_to_bias(qkv, -torch.cat([torch.zeros_like(q), k, v]))
        add_to_bias(proj, proj.weight.double() @ v)
