"""The table *site -> quantizer* of a model as data, from which the model's modules are rebuilt without guessing.

A row says of what kind a quantizer is; its numbers are tensors, named after the module that holds them. Saved models
and the state of a calibration carry the table, and so can anything that builds an engine without ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from repq_deploy.models.sites import Sites
from repq_deploy.quant.kinds import make_quantizer
from repq_deploy.quant.layers import QuantConv2d, QuantLinear, RotatedInput, RotatedOutput
from repq_deploy.quant.quantizers import Quantizer, UniformQuantizer
from repq_deploy.quant.ranges import RANGES

__all__ = ["QuantizerRow", "Structure", "restore", "structure_of"]


@dataclass(frozen=True)
class QuantizerRow:
    """How one site is quantized.

    Attributes:
        module: path of the quantizer in the model. Its numbers are the tensors ``<module>.scale``, ``.zero_point`` for
            kind "uniform", and ``.divisor``, ``.factor``, ``.table`` for a curve.
        kind: "uniform", "log2", "log_sqrt2", or a row of ``curves.CURVES``.
        bits: 2 to 8.
        axis: of a scale for each channel; None: one scale for the tensor.
        enabled: whether it quantizes; a calibration that is under way leaves weights in float for a while.
        range_kind: how its range was found, a name of ``ranges.RANGES``.
    """

    module: str
    kind: str
    bits: int
    axis: int | None = None
    enabled: bool = True
    range_kind: str = "percentile"


@dataclass(frozen=True)
class Structure:
    """All quantizers of a model by site, the names of the LayerScales that were folded away, and those of the modules
    behind or before which a rotation stands: where the residual stream is entered and left, and on q and k."""

    quantizers: dict[str, QuantizerRow]
    folded: tuple[str, ...] = ()
    rotated: tuple[str, ...] = ()


def structure_of(model: nn.Module, sites: Sites) -> Structure:
    """The structure of a quantized model, or of a float one that rewrites have changed."""
    rows = {
        module.site: QuantizerRow(
            name,
            module.kind,
            module.bits,
            module.axis,
            module.enabled,
            module.range_kind if isinstance(module, UniformQuantizer) else "percentile",
        )
        for name, module in model.named_modules()
        if isinstance(module, Quantizer)
    }
    scales = (site.layer_scale for site in sites.linears if site.layer_scale is not None)
    folded = tuple(name for name in scales if isinstance(model.get_submodule(name), nn.Identity))
    modules = dict(model.named_modules())
    rotated = tuple(name for name in _rotatable(sites) if isinstance(modules.get(name), RotatedOutput))
    return Structure(rows, folded, rotated)


def _rotatable(sites: Sites) -> tuple[str, ...]:
    of_stream = () if sites.stream is None else sites.stream.rotatable
    return (*of_stream, *(f"{site.name}.rotate" for site in sites.attentions if not site.qk_rotation_is_free))


def restore(model: nn.Module, sites: Sites, structure: Structure, tensors: Mapping[str, Tensor]) -> None:
    """Give ``model``, whose layers are quantized as its file says, the structure and all parameters and buffers of one.

    Raises:
        ValueError: a row or a tensor that the model has no place for, or a quantizer that has no row.
    """
    own = {module.site: name for name, module in model.named_modules() if isinstance(module, Quantizer)}
    if own != {site: row.module for site, row in structure.quantizers.items()}:
        raise ValueError("its table of quantizers is not that of the model")
    for site, row in structure.quantizers.items():
        quantizer = make_quantizer(row.kind, site, row.bits)
        quantizer.axis, quantizer.enabled = row.axis, row.enabled
        if isinstance(quantizer, UniformQuantizer):
            if row.range_kind not in RANGES:
                raise ValueError(f"quantizer {site[:80]!r}: range kind {row.range_kind[:40]!r} is not known")
            quantizer.range_kind = row.range_kind
        model.set_submodule(row.module, quantizer)
    scales = {site.layer_scale for site in sites.linears}
    for name in structure.folded:
        if name not in scales:
            raise ValueError(f"the model has no LayerScale {name[:80]!r}")
        model.set_submodule(name, nn.Identity())
    for name in structure.rotated:
        if name not in _rotatable(sites) or f"{name}.rotation" not in tensors:
            raise ValueError(f"the model has no rotation at {name[:80]!r}")
        stream = sites.stream
        kind = RotatedInput if stream is not None and name in stream.exits else RotatedOutput
        model.set_submodule(name, kind(model.get_submodule(name), tensors[f"{name}.rotation"]))
    _assign(model, tensors)


def _assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set all parameters and buffers; folds create biases and shifts, and scales change their shape."""
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        module = modules.get(parent)
        own = module is not None and (leaf in module._buffers or leaf in module._parameters)
        # A fold gives a bias to a layer that has none.
        if module is None or not (own or (leaf == "bias" and isinstance(module, QuantLinear | QuantConv2d))):
            raise ValueError(f"the model has no place for the tensor {name[:80]!r}")
        if leaf in module._buffers:
            setattr(module, leaf, tensor)
        else:
            setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
