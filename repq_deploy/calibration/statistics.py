"""Second moments of a layer's input and of its error: all that ridge regression and rounding need of the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from repq_deploy.calibration.run import Calibration, Position, captured_inputs
from repq_deploy.models.sites import LinearSite
from repq_deploy.quant.layers import QuantConv2d, QuantLinear

__all__ = ["Prefix", "Statistics", "gather", "rows_of"]

#: Whether the layers before the one in question are float or quantized.
Prefix = Literal["float", "quantized"]


@dataclass(frozen=True)
class Statistics:
    """Means over all rows (images times tokens), float64, with ``a = [x, 1]`` for a layer's quantized input x.

    Attributes:
        moment: mean of ``a a^T``, [in + 1, in + 1].
        error: mean of ``a (y - W x - b)^T``, [in + 1, out]: y is the output that the layer should have.
    """

    moment: Tensor
    error: Tensor

    @property
    def inputs(self) -> Tensor:
        """Mean of ``x x^T``, [in, in]."""
        return self.moment[:-1, :-1]

    @property
    def mean(self) -> Tensor:
        """Mean of x, [in]."""
        return self.moment[-1, :-1]

    @property
    def covariance(self) -> Tensor:
        """Covariance of x, [in, in]."""
        return self.inputs - torch.outer(self.mean, self.mean)


@torch.no_grad()
def gather(
    run: Calibration,
    position: Position,
    site: LinearSite,
    layer: QuantLinear | QuantConv2d,
    *,
    prefix: Prefix = "quantized",
) -> Statistics:
    """The statistics of ``layer`` at the walk's ``position``; y is the output of the same layer of the float model."""
    weight = layer.weight.flatten(1)
    bias = 0.0 if layer.bias is None else layer.bias
    rows, moment, error = 0, weight.new_zeros(()), weight.new_zeros(())
    centre: Tensor | None = None
    for x, y in rows_of(run, position, site, layer, prefix=prefix):
        missing = y - x @ weight.T - bias
        # Products of one batch in float32, which is several times faster, and around a centre, as the input of a layer
        # may lie far from zero compared with how much it varies; sums in float64.
        centre = x.mean(dim=0) if centre is None else centre
        augmented = torch.cat([x - centre, x.new_ones(len(x), 1)], dim=1)
        moment = moment + (augmented.T @ augmented).double()
        error = error + (augmented.T @ missing).double()
        rows += len(x)
    assert centre is not None  # noqa: S101 - there is at least one image
    return _around_zero(moment / rows, error / rows, centre.double())


def _around_zero(moment: Tensor, error: Tensor, centre: Tensor) -> Statistics:
    """Statistics of ``a = [x, 1]`` from those of ``[x - centre, 1]``, with no product of matrices."""
    moment[:-1] += torch.outer(centre, moment[-1])
    moment[:, :-1] += torch.outer(moment[:, -1], centre)
    error[:-1] += torch.outer(centre, error[-1])
    return Statistics(moment, error)


def rows_of(
    run: Calibration,
    position: Position,
    site: LinearSite,
    layer: QuantLinear | QuantConv2d,
    *,
    prefix: Prefix = "quantized",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a layer's quantized input [rows, in], each with the output [rows, out] that the layer should have."""
    pairs = _behind_float if prefix == "float" else _behind_quantized
    for x, y in pairs(run, position, site, layer):
        yield _as_rows(layer, x, y)


def _as_rows(layer: QuantLinear | QuantConv2d, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's input, quantized, and the output wanted, as [rows, in] and [rows, out]."""
    x = layer.quantized_input(x)
    if isinstance(layer, QuantConv2d):
        x = nn.functional.unfold(x, layer.weight.shape[-2:], stride=layer.stride).mT
        y = y.flatten(2).mT
    return x.flatten(0, -2), y.flatten(0, -2)


def _behind_quantized(
    run: Calibration, position: Position, site: LinearSite, layer: nn.Module
) -> Iterable[tuple[Tensor, Tensor]]:
    reference = run.float_model.get_submodule(site.name)
    for inputs, float_inputs in position.batches():
        (x,) = captured_inputs(position.stage, inputs, [layer])
        (reference_x,) = captured_inputs(position.float_stage, float_inputs, [reference])
        yield x, reference(reference_x)


def _behind_float(
    run: Calibration, position: Position, site: LinearSite, layer: nn.Module
) -> Iterable[tuple[Tensor, Tensor]]:
    del layer
    reference = run.float_model.get_submodule(site.name)
    for _, float_inputs in position.batches():
        if site.norm is None:
            (x,) = captured_inputs(position.float_stage, float_inputs, [reference])
            yield x, reference(x)
            continue
        # Only the quantized model's norm may be folded.
        reference_norm = run.float_model.get_submodule(site.norm)
        (x,) = captured_inputs(position.float_stage, float_inputs, [reference_norm])
        yield run.model.model.get_submodule(site.norm)(x), reference(reference_norm(x))
