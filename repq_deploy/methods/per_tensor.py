"""What the plain baselines share: one scale per activation tensor and per output channel of a weight, no folds."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from repq_deploy.folds import center_zero_point
from repq_deploy.quantized import QuantizedModel
from repq_deploy.quantizers import Log2Quantizer, Quantizer, Search
from repq_deploy.ranges import log2_search

__all__ = ["calibrate_per_tensor"]


def calibrate_per_tensor(model: QuantizedModel, images: Tensor, search: Callable[..., Search]) -> None:
    """Calibrate every site with ``search(bits, axis=..., symmetric=...)`` in one forward pass of ``images``."""
    for site, layer, _ in model.linears():
        widths = model.bits.of(site.name, site.role)
        symmetric = model.bits.symmetric_weights(widths.weight)
        layer.weight_quantizer.search = search(widths.weight, axis=0, symmetric=symmetric)
        layer.input_quantizer.search = search(widths.activation)
    for attention in model.attentions():
        operands: list[Quantizer] = [attention.q_quantizer, attention.k_quantizer, attention.v_quantizer]
        if isinstance(attention.p_quantizer, Log2Quantizer):
            bits, steps = attention.p_quantizer.bits, attention.p_quantizer.steps_per_octave
            attention.p_quantizer.search = log2_search(bits, steps)
        else:
            operands.append(attention.p_quantizer)
        for quantizer in operands:
            # An 8-bit operand of a product has no bias that could take its zero point.
            quantizer.search = search(quantizer.bits, symmetric=quantizer.bits == 8)

    model(images)

    for _, layer, norm in model.linears():
        center_zero_point(layer, norm)
