"""Measuring quantizers while a proof runs images through them (``prove_export``): sums over each tensor, none kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from repq_deploy.export.measures.record import MAX_DB, QUANTILES, SiteMeasure, Spread
from repq_deploy.quant.model import QuantizedModel
from repq_deploy.quant.noise import error_db
from repq_deploy.quant.quantizers import Quantizer, UniformQuantizer

__all__ = ["float_bytes", "measure_activation", "measure_weights"]

#: A weight nearer to its codes than this was rounded during calibration: its error is no longer in it.
_ON_GRID_DB = 90.0


def measure_activation(quantizer: Quantizer, x: Tensor, values: Tensor) -> SiteMeasure:
    """The measure of a quantizer that was given ``x``, any shape with channels last, and gave ``values``."""
    bits, kind, db = quantizer.bits, quantizer.kind, _decibel(error_db(x, values))
    if not isinstance(quantizer, UniformQuantizer):
        return SiteMeasure(bits, kind, db, _spread(x.amin()[None], x.amax()[None]))
    least, most = -quantizer.zero_point, 2**bits - 1 - quantizer.zero_point
    low, high = quantizer.scale * (least - 0.5), quantizer.scale * (most + 0.5)
    clipped = 1.0 - float(((x >= low) & (x <= high)).float().mean())
    if quantizer.unfold is None:
        return SiteMeasure(bits, kind, db, _spread(x.amin()[None], x.amax()[None]), clipped)
    rows = x.flatten(0, -2)
    ends = torch.stack([rows.amin(dim=0), rows.amax(dim=0)])
    ratio, offset = quantizer.unfold.to(ends.device)
    return SiteMeasure(bits, kind, db, _spread(*ends), clipped, _spread(*(ends * ratio + offset)))


def measure_weights(quantized: QuantizedModel) -> dict[str, SiteMeasure]:
    """The measures of all weights."""
    found = {}
    for _, layer, _ in quantized.linears():
        quantizer = layer.weight_quantizer
        db: float | None = _decibel(error_db(layer.weight, quantizer(layer.weight)))
        if db is not None and db > _ON_GRID_DB:
            db = None if quantizer.rounded_db is None else _decibel(float(quantizer.rounded_db))
        found[quantizer.site] = SiteMeasure(quantizer.bits, quantizer.kind, db)
    return found


def float_bytes(quantized: QuantizedModel) -> int:
    """The bytes of all parameters in float32."""
    return 4 * sum(parameter.numel() for parameter in quantized.parameters())


def _spread(low: Tensor, high: Tensor) -> Spread:
    """Of the smallest and largest value of each channel; one channel has no spread of widths."""
    widths: tuple[float, ...] = ()
    if low.numel() > 1:
        points = low.new_tensor(QUANTILES)
        widths = tuple((high - low).float().quantile(points).tolist())
    return Spread(float(low.min()), float(high.max()), widths)


def _decibel(value: float) -> float:
    return max(-MAX_DB, min(MAX_DB, value)) if not math.isnan(value) else 0.0
