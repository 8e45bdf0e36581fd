"""The step that gives activations, and weights, their scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from repq_deploy.calibration.run import BATCH, Calibration
from repq_deploy.errors import BadInput
from repq_deploy.hooks import hooks
from repq_deploy.quant.clipped import clipped_channel_finder
from repq_deploy.quant.layers import QuantAttention, QuantLinear
from repq_deploy.quant.quantizers import Quantizer, RangeFinder
from repq_deploy.quant.ranges import RANGES, operand_finder, weight_finder
from repq_deploy.quant.softmax import softmax_finder
from repq_deploy.rewrites.folds import uniform_input
from repq_deploy.rewrites.gelu import use_adalog
from repq_deploy.rewrites.heads import HEADS, proj_finder

__all__ = ["ranges"]


@torch.no_grad()
def ranges(
    run: Calibration,
    *,
    find: Literal["minmax", "percentile", "mse"] = "percentile",
    post_norm: Literal["channel", "clipped", "tensor"] = "channel",
    attention: Literal["tensor", "head", "online"] = "tensor",
    gelu: Literal["uniform", "adalog"] = "uniform",
    images: int = BATCH,
    weights: bool = True,
) -> None:
    """Find the ranges of weights, then those of activations in one forward pass, each behind quantized ones.

    Args:
        find: how a range is found; see ``repq_deploy.quant.ranges``.
        post_norm: one scale per channel, which ``fold`` moves into the layer norm, the same with the widest channels
            clipped as Mix-QViT does (by percentiles, whatever ``find`` is), or one for the tensor.
        attention: one scale for each of q, k and v ("tensor"), or for each of their heads ("head", see
            ``rewrites.heads``), or for each head where q and k are rotated while the model runs ("online"). ``fold``
            moves the heads' scales of v; those of q and k are moved at the end of the
            calibration.
        gelu: how the input of fc2 is quantized: uniformly, or shifted on a logarithmic grid, as AdaLog does. The latter
            makes fc2 a product of floats (see ``repq_deploy.rewrites.gelu``).
        images: how many images are used; all go through the model at once.
        weights: whether weights are quantized too; otherwise they stay float until the step ``weights``.
    """
    model = run.model
    _check(run, gelu)
    finders: dict[Quantizer, RangeFinder] = {}
    for site, layer, norm in model.linears():
        widths = model.bits.of(site.name, site.role)
        symmetric = model.bits.symmetric_weights(widths.weight)
        layer.weight_quantizer.enabled = weights
        layer.weight_quantizer.range_kind = find
        if weights:
            layer.weight_quantizer.adopt(weight_finder(widths.weight, symmetric=symmetric, kind=find)(layer.weight))
        if gelu == "adalog" and site.after_gelu and isinstance(layer, QuantLinear):
            finder = use_adalog(site, layer)
        elif norm is None or post_norm == "tensor":
            finder = RANGES[find](widths.activation)
        else:
            uniform_input(layer).axis = -1
            if post_norm == "channel":
                finder = RANGES[find](widths.activation, axis=-1, spans_zero=False)
            else:
                rows = torch.cat([one.weight for one in model.beside(site)])
                finder = clipped_channel_finder(
                    widths.activation, weight=rows, weight_bits=widths.weight, symmetric=symmetric
                )
        finders[layer.input_quantizer] = finder
    for module in model.attentions():
        for quantizer in (module.q_quantizer, module.k_quantizer, module.v_quantizer):
            finders[quantizer] = operand_finder(quantizer.bits, kind=find)
        finders[module.p_quantizer] = softmax_finder(module.p_quantizer, find, relative=module.relative)
        if attention == "head" or (attention == "online" and module.rotated_online):
            finders |= _by_head(module, find)
    total = len(finders)

    def calibrate(quantizer: Any, inputs: tuple[Any, ...]) -> None:
        if (finder := finders.pop(quantizer, None)) is not None:
            quantizer.adopt(finder(inputs[0]))
            run.report("calibrating", total - len(finders), total)

    with hooks(quantizer.register_forward_pre_hook(calibrate) for quantizer in tuple(finders)):
        model(run.images[:images].to(run.device))


def _check(run: Calibration, gelu: str) -> None:
    linears = list(run.model.linears())
    if any(layer.input_quantizer.calibrated for _, layer, _ in linears):
        raise BadInput("step ranges: the activations have their ranges already; list it once")
    if gelu == "adalog" and not any(site.after_gelu for site, _, _ in linears):
        raise BadInput("step ranges: gelu is adalog, but no linear of this model reads a GELU; leave it out")


def _by_head(attention: QuantAttention, kind: str) -> dict[Quantizer, RangeFinder]:
    """Finders of a scale for each head, where it can be folded."""
    find: Callable[..., Any] = RANGES[kind]
    finders: dict[Quantizer, RangeFinder] = {}
    if attention.site.qk_head_scales_are_free:
        # k's zero points go into its bias, where a constant added to k is free: its ranges need not span zero there.
        shifted = attention.site.k_shift_is_free
        for quantizer, symmetric in ((attention.q_quantizer, True), (attention.k_quantizer, not shifted)):
            quantizer.axis = HEADS
            finders[quantizer] = find(quantizer.bits, axis=HEADS, symmetric=symmetric, spans_zero=symmetric)
    if attention.site.v_head_scales_are_free:
        attention.v_quantizer.axis = HEADS
        finders[attention.v_quantizer] = find(attention.v_quantizer.bits, axis=HEADS, symmetric=True)
        of_input = uniform_input(attention.proj)
        of_input.axis = -1
        finders[of_input] = proj_finder(attention, find(of_input.bits))
    return finders
