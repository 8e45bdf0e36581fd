"""The step that moves scales to where an engine can have them."""

from __future__ import annotations

from typing import Literal

from repq_deploy.calibration.run import Calibration, channel_wise, require_scales
from repq_deploy.quant.layers import QuantLinear
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.quant.ranges import weight_finder
from repq_deploy.rewrites.folds import center_zero_point, fold_post_norm
from repq_deploy.rewrites.heads import fold_query_key_heads, fold_value_heads

__all__ = ["fold", "fold_last"]


def fold(run: Calibration, *, target: Literal["mean", "median"] = "mean") -> None:
    """Fold channel-wise inputs into their layer norms, and centre the zero points of 8-bit inputs (see ``folds``).

    The scales of v's heads are folded too. A fold changes the columns of a weight, so a weight that was quantized
    before gets a new range after it, found as ``ranges`` found the first.

    Args:
        target: whether the tensor's one scale is the mean or the median of its channels' scales.
    """
    require_scales(run, "fold", weights=False)
    for attention in run.model.attentions():
        if attention.v_quantizer.axis is not None:
            fold_value_heads(attention, run.float_model.get_submodule(attention.site.name))
            _find_weight_again(run, attention.proj)
    for norm, layers in run.model.readers():
        if channel_wise(layers[0]):
            assert norm is not None  # noqa: S101 - only what reads a norm is channel-wise
            linears = [layer for layer in layers if isinstance(layer, QuantLinear)]
            fold_post_norm(norm, *linears, target=target)
            for linear in linears:
                _find_weight_again(run, linear)
        else:
            for layer in layers:
                # A norm with several readers cannot take the shift of one of them.
                center_zero_point(layer, norm if len(layers) == 1 else None)


def fold_last(model: QuantizedModel) -> None:
    """Fold what has to wait for the end of a calibration: scales for each head of q and k, where there are some.

    The fold moves them to the logits, where the float model that the steps compare with could not follow.
    """
    for attention in model.attentions():
        if attention.q_quantizer.axis is not None:
            fold_query_key_heads(attention)


def _find_weight_again(run: Calibration, layer: QuantLinear) -> None:
    quantizer = layer.weight_quantizer
    if quantizer.enabled:
        symmetric = run.model.bits.symmetric_weights(quantizer.bits)
        quantizer.adopt(weight_finder(quantizer.bits, symmetric=symmetric, kind=quantizer.range_kind)(layer.weight))
