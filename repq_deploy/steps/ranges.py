"""The steps that give activations their scales, and move those to where an engine can have them."""

from __future__ import annotations

from typing import Literal

import torch

from repq_deploy.calibration import BATCH, Calibration
from repq_deploy.clipped import clipped_channel_search
from repq_deploy.folds import center_zero_point, fold_post_norm
from repq_deploy.layers import QuantLinear
from repq_deploy.ranges import minmax_search, percentile_search
from repq_deploy.softmax import softmax_search

__all__ = ["fold", "ranges"]

SEARCHES = {"minmax": minmax_search, "percentile": percentile_search}


@torch.no_grad()
def ranges(
    run: Calibration,
    *,
    search: Literal["minmax", "percentile"] = "percentile",
    post_norm: Literal["channel", "clipped", "tensor"] = "channel",
    images: int = BATCH,
    weights: bool = True,
) -> None:
    """Calibrate every activation, and weights, in one forward pass, each behind quantized ones.

    Args:
        search: how a range is found.
        post_norm: one scale per channel, which ``fold`` moves into the layer norm, the same with the widest channels
            clipped as Mix-QViT does, or one for the tensor.
        images: how many are used, all at once.
        weights: quantize weights too; otherwise they stay float until the step ``weights``.
    """
    model = run.model
    find = SEARCHES[search]
    for site, layer, norm in model.linears():
        widths = model.bits.of(site.name, site.role)
        layer.weight_quantizer.enabled = weights
        if weights:
            symmetric = model.bits.symmetric_weights(widths.weight)
            layer.weight_quantizer.search = find(widths.weight, axis=0, symmetric=symmetric)
        if norm is None or post_norm == "tensor":
            layer.input_quantizer.search = find(widths.activation)
            continue
        layer.input_quantizer.axis = -1
        if post_norm == "channel":
            layer.input_quantizer.search = find(widths.activation, axis=-1, spans_zero=False)
        else:
            layer.input_quantizer.search = clipped_channel_search(
                widths.activation,
                weight=layer.weight,
                weight_bits=widths.weight,
                symmetric=model.bits.symmetric_weights(widths.weight),
            )
    for attention in model.attentions():
        for quantizer in (attention.q_quantizer, attention.k_quantizer, attention.v_quantizer):
            # An 8-bit operand of a product has no bias that could take its zero point.
            quantizer.search = find(quantizer.bits, symmetric=quantizer.bits == 8)
        attention.p_quantizer.search = softmax_search(attention.p_quantizer, find)
    quantizers = [q for q in model.quantizers().values() if q.search is not None]
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        run.report("calibrating", min(done, len(quantizers)), len(quantizers))

    handles = [quantizer.register_forward_hook(count) for quantizer in quantizers]
    try:
        model(run.images[:images])
    finally:
        for handle in handles:
            handle.remove()


def fold(run: Calibration, *, target: Literal["mean", "median"] = "mean") -> None:
    """Fold channel-wise inputs into their layer norms, and centre the zero points of 8-bit inputs (see ``folds``).

    Weights that were quantized before a fold are searched again after it, as their columns have changed.
    """
    for _, layer, norm in run.model.linears():
        if layer.input_quantizer.axis is None:
            center_zero_point(layer, norm)
            continue
        assert norm is not None and isinstance(layer, QuantLinear)  # noqa: S101 - only they are channel-wise
        fold_post_norm(norm, layer, target=target)
        quantizer = layer.weight_quantizer
        if quantizer.enabled:
            symmetric = run.model.bits.symmetric_weights(quantizer.bits)
            quantizer.adopt(percentile_search(quantizer.bits, axis=0, symmetric=symmetric)(layer.weight))
