"""The step that takes the mean error of every layer's output into its bias (Nagel et al., arXiv 1906.04721).

Quantization moves the mean of a layer's output; a bias can move it back at no cost. Layers are corrected in forward
order, and the error of each is measured behind the corrected layers before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repq_deploy.calibration.run import Calibration, require_scales, walk
from repq_deploy.calibration.statistics import Prefix, rows_of

__all__ = ["bias_correction"]


@torch.no_grad()
def bias_correction(run: Calibration, *, prefix: Prefix = "quantized", images: int = 256) -> None:
    """Add ``mean(y - (Q(W) Q(x) + bias))`` to each bias, y the float model's output there; after all other steps.

    A layer without a bias gets one (a plain Add in the export). The step ``weights`` leaves nothing to correct: its
    biases take up the mean error already. ``ranges`` and ``fold`` alone, and ``reconstruct``, leave one to correct.

    Args:
        prefix: whether a layer sees the error of the layers before it.
        images: how many are looked at, at most.
    """
    require_scales(run, "bias_correction", weights=True)
    for position in walk(run, "correcting biases", images=images):
        for site, layer in position.linears(run.model):
            weight = layer.weight_quantizer(layer.weight).flatten(1)
            bias: Tensor | float = 0.0 if layer.bias is None else layer.bias
            count, missing = 0, weight.new_zeros((), dtype=torch.float64)
            for x, y in rows_of(run, position, site, layer, prefix=prefix):
                missing = missing + (y - x @ weight.T - bias).sum(dim=0, dtype=torch.float64)
                count += len(x)
            layer.bias = nn.Parameter((bias + missing / count).to(layer.weight.dtype), requires_grad=False)
