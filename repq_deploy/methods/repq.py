"""RepQ-ViT: scale reparameterization (Li et al., ICCV 2023, arXiv 2212.08254).

Calibrate with complex quantizers, run with simple ones: post-norm activations channel-wise, folded into one scale
(section 3.2); attention probabilities with log-sqrt2, run as log2 (section 3.3). Everything else is uniform, per tensor
for activations and per output channel for weights. One forward pass calibrates it.

Mended against the published code: the folded zero point is whole, and there are 2^b levels, not 2^b + 1, both in the
folded tensors and in the probabilities, whose masked zero counts as one; the whole range is among the percentiles that
the search tries, where 8 bits always clipped. Where codes must fit INT8 without a zero
point, 8-bit weights and 8-bit q, k and v are symmetric.
"""

from __future__ import annotations

from torch import Tensor

from repq_deploy.folds import center_zero_point, fold_post_norm
from repq_deploy.layers import QuantLinear
from repq_deploy.methods.registry import register
from repq_deploy.quantized import QuantizedModel
from repq_deploy.quantizers import Log2Quantizer
from repq_deploy.ranges import log2_search, percentile_search

__all__ = ["repq"]


@register("repq", softmax="log_sqrt2")
def repq(model: QuantizedModel, images: Tensor) -> None:
    """Calibrate ``model`` with RepQ-ViT from normalized ``images`` [N, 3, H, W]; the paper takes 32."""
    for site, layer, norm in model.linears():
        widths = model.bits.of(site.name, site.role)
        symmetric = model.bits.symmetric_weights(widths.weight)
        layer.weight_quantizer.search = percentile_search(widths.weight, axis=0, symmetric=symmetric)
        if norm is None:
            layer.input_quantizer.search = percentile_search(widths.activation)
        else:
            layer.input_quantizer.axis = -1
            layer.input_quantizer.search = percentile_search(widths.activation, axis=-1, spans_zero=False)
    for attention in model.attentions():
        for quantizer in (attention.q_quantizer, attention.k_quantizer, attention.v_quantizer):
            quantizer.search = percentile_search(quantizer.bits, symmetric=quantizer.bits == 8)
        p_quantizer = attention.p_quantizer
        if isinstance(p_quantizer, Log2Quantizer):
            p_quantizer.search = log2_search(p_quantizer.bits, p_quantizer.steps_per_octave)
        else:
            p_quantizer.search = percentile_search(p_quantizer.bits, symmetric=p_quantizer.bits == 8)

    model(images)

    for _, layer, norm in model.linears():
        if norm is not None and isinstance(layer, QuantLinear):
            fold_post_norm(norm, layer)
            bits = layer.weight_quantizer.bits
            search = percentile_search(bits, axis=0, symmetric=model.bits.symmetric_weights(bits))
            layer.weight_quantizer.adopt(search(layer.weight))
        else:
            center_zero_point(layer, norm)
