"""The steps that give activations their scales, and move those to where an engine can have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from repq_deploy.calibration.run import BATCH, Calibration, channel_wise, require_scales
from repq_deploy.errors import BadInput
from repq_deploy.quant.clipped import clipped_channel_search
from repq_deploy.quant.layers import QuantAttention, QuantLinear
from repq_deploy.quant.quantizers import Search
from repq_deploy.quant.ranges import RANGES
from repq_deploy.quant.softmax import softmax_search
from repq_deploy.rewrites.folds import center_zero_point, fold_post_norm, uniform_input
from repq_deploy.rewrites.gelu import use_adalog
from repq_deploy.rewrites.heads import HEADS, fold_value_heads, proj_search

__all__ = ["fold", "ranges"]


@torch.no_grad()
def ranges(
    run: Calibration,
    *,
    search: Literal["minmax", "percentile", "mse"] = "percentile",
    post_norm: Literal["channel", "clipped", "tensor"] = "channel",
    attention: Literal["tensor", "head"] = "tensor",
    gelu: Literal["uniform", "adalog"] = "uniform",
    images: int = BATCH,
    weights: bool = True,
) -> None:
    """Calibrate every activation, and weights, in one forward pass, each behind quantized ones.

    Args:
        search: how a range is found; see ``repq_deploy.quant.ranges``.
        post_norm: one scale per channel, which ``fold`` moves into the layer norm, the same with the widest channels
            clipped as Mix-QViT does (by percentiles, whatever ``search`` is), or one for the tensor.
        attention: one scale for each of q, k and v, or one for each of their heads (see ``rewrites.heads``): v's are
            moved by ``fold``, those of q and k at the end of the calibration.
        gelu: how the input of fc2 is quantized: uniformly, or shifted on a logarithmic grid, as AdaLog does, which
            makes fc2 a product of floats (see ``repq_deploy.rewrites.gelu``).
        images: how many are used, all at once.
        weights: quantize weights too; otherwise they stay float until the step ``weights``.
    """
    model = run.model
    find = RANGES[search]
    _check(run, gelu)
    for site, layer, norm in model.linears():
        widths = model.bits.of(site.name, site.role)
        layer.weight_quantizer.enabled = weights
        layer.weight_quantizer.range_kind = search
        if weights:
            symmetric = model.bits.symmetric_weights(widths.weight)
            layer.weight_quantizer.search = find(widths.weight, axis=0, symmetric=symmetric)
        if gelu == "adalog" and site.after_gelu and isinstance(layer, QuantLinear):
            use_adalog(site, layer)
            continue
        if norm is None or post_norm == "tensor":
            layer.input_quantizer.search = find(widths.activation)
            continue
        uniform_input(layer).axis = -1
        if post_norm == "channel":
            layer.input_quantizer.search = find(widths.activation, axis=-1, spans_zero=False)
        else:
            layer.input_quantizer.search = clipped_channel_search(
                widths.activation,
                weight=layer.weight,
                weight_bits=widths.weight,
                symmetric=model.bits.symmetric_weights(widths.weight),
            )
    for module in model.attentions():
        for quantizer in (module.q_quantizer, module.k_quantizer, module.v_quantizer):
            # An 8-bit operand of a product has no bias that could take its zero point.
            quantizer.search = find(quantizer.bits, symmetric=quantizer.bits == 8)
        module.p_quantizer.search = softmax_search(module.p_quantizer, find)
        if attention == "head":
            _by_head(module, find)
    quantizers = [q for q in model.quantizers().values() if q.search is not None]
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        run.report("calibrating", min(done, len(quantizers)), len(quantizers))

    handles = [quantizer.register_forward_hook(count) for quantizer in quantizers]
    try:
        model(run.images[:images].to(run.device))
    finally:
        for handle in handles:
            handle.remove()


def _check(run: Calibration, gelu: str) -> None:
    linears = list(run.model.linears())
    if any(layer.input_quantizer.calibrated for _, layer, _ in linears):
        raise BadInput("step ranges: the activations have their ranges already; list it once")
    if gelu == "adalog" and not any(site.after_gelu for site, _, _ in linears):
        raise BadInput("step ranges: gelu is adalog, but no linear of this model reads a GELU; leave it out")


def _by_head(attention: QuantAttention, find: Callable[..., Search]) -> None:
    """Search for a scale for each head, where it can be folded."""
    if attention.site.qk_head_scales_are_free:
        for quantizer, symmetric in ((attention.q_quantizer, True), (attention.k_quantizer, False)):
            quantizer.axis = HEADS
            # k's zero points go into its bias, so its ranges need not span zero.
            quantizer.search = find(quantizer.bits, axis=HEADS, symmetric=symmetric, spans_zero=symmetric)
    if attention.site.v_head_scales_are_free:
        attention.v_quantizer.axis = HEADS
        attention.v_quantizer.search = find(attention.v_quantizer.bits, axis=HEADS, symmetric=True)
        uniform_input(attention.proj).axis = -1
        attention.proj.input_quantizer.search = proj_search(attention, find)


def fold(run: Calibration, *, target: Literal["mean", "median"] = "mean") -> None:
    """Fold channel-wise inputs into their layer norms, and centre the zero points of 8-bit inputs (see ``folds``).

    v's scales for each head are folded too. Weights that were quantized before a fold are searched again after it, as
    their columns have changed, in the way that ``ranges`` searched.
    """
    require_scales(run, "fold", weights=False)
    for site in run.model.sites.attentions:
        attention: QuantAttention = run.model.model.get_submodule(site.name)  # type: ignore[assignment]
        if attention.quantized and attention.v_quantizer.axis is not None:
            fold_value_heads(attention, run.reference.get_submodule(site.name))
            _search_weight_again(run, attention.proj)
    for _, layer, norm in run.model.linears():
        if not channel_wise(layer):
            center_zero_point(layer, norm)
            continue
        assert norm is not None and isinstance(layer, QuantLinear)  # noqa: S101 - only they are channel-wise
        fold_post_norm(norm, layer, target=target)
        _search_weight_again(run, layer)


def _search_weight_again(run: Calibration, layer: QuantLinear) -> None:
    quantizer = layer.weight_quantizer
    if quantizer.enabled:
        symmetric = run.model.bits.symmetric_weights(quantizer.bits)
        quantizer.adopt(RANGES[quantizer.range_kind](quantizer.bits, axis=0, symmetric=symmetric)(layer.weight))
