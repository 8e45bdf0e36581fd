"""Lowering: the canonical graph in the form that one backend runs best. Here stands which passes run, and in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from repq_deploy.errors import BadInput
from repq_deploy.export.passes.attention_scale import AttentionScale
from repq_deploy.export.passes.base import Pass, PassReport, run_passes
from repq_deploy.export.passes.early_quantize import EarlyQuantize
from repq_deploy.export.passes.float_activations import FloatActivations
from repq_deploy.export.passes.fp8_products import FP8Products
from repq_deploy.export.passes.log2_of_softmax import Log2OfSoftmax
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.export.passes.unpack_int4 import UnpackInt4

__all__ = ["BACKENDS", "PassReport", "lower", "passes_for"]


@dataclass(frozen=True)
class _Variant:
    """What can be chosen of a lowering; see ``lower``."""

    half: bool
    compute: str
    allow_rounding: bool


def _onnxruntime(variant: _Variant) -> list[Pass]:
    if variant.half:
        raise BadInput(
            "backend onnxruntime: fp16 was asked for, but its CPU kernels compute in fp32; use --precision fp32"
        )
    return [UnpackInt4(), Log2PlainOps()]


def _openvino(variant: _Variant) -> list[Pass]:
    if variant.half:
        raise BadInput("backend openvino: fp16 was asked for, but its engines compute in fp32; use --precision fp32")
    # Its own transformations fuse attention of this very form; one product for each of q, k and v stops them.
    return [UnpackInt4(), Log2OfSoftmax(), Log2PlainOps()]


def _tensorrt(variant: _Variant) -> list[Pass]:
    """The same for TensorRT-RTX. In float, weights stay packed: a product of INT4 and INT8 it does not have."""
    passes: list[Pass] = [AttentionScale()]
    if variant.compute == "fp16":
        passes += [FloatActivations()]
    else:
        passes += [EarlyQuantize()]
        if variant.compute != "int8":
            passes += [FP8Products(mixed=variant.compute == "fp8+int8", allow_rounding=variant.allow_rounding)]
        passes += [UnpackInt4()]
    passes += [Log2PlainOps()]
    if variant.half:
        passes.append(ToHalf())
    return passes


_PASSES: dict[str, Callable[[_Variant], list[Pass]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt-rtx": _tensorrt,
    "tensorrt": _tensorrt,
}

BACKENDS = tuple(_PASSES)


def passes_for(backend: str, *, half: bool, compute: str = "int8", allow_rounding: bool = False) -> list[Pass]:
    """The passes of ``backend`` in order; the arguments are those of ``lower``."""
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    return _PASSES[backend](_Variant(half, compute, allow_rounding))


def lower(
    model: onnx.ModelProto, *, backend: str, half: bool, compute: str = "int8", allow_rounding: bool = False
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Lower a canonical model.

    Args:
        model: as ``read_canonical`` gives it; it is not changed.
        backend: one of ``BACKENDS``.
        half: float16 around the integers; inputs and outputs stay float32. Not for the CPU backends, whose kernels
            compute in float32.
        compute: which arithmetic multiplies quantized operands: "int8", or on TensorRT "fp8", "fp8+int8" (FP8 where
            it is exact), or "fp16" (the float type around the integers, with weights in 4 or 8 bits).
        allow_rounding: let "fp8" round values that it cannot hold.

    Raises:
        BadInput: an unknown backend, a variant that it does not have, or codes that FP8 cannot hold.
    """
    lowered, reports = run_passes(model, passes_for(backend, half=half, compute=compute, allow_rounding=allow_rounding))
    # Graph-surgeon keeps the import of a domain that no node uses any more.
    standard = [entry for entry in lowered.opset_import if entry.domain == ""]
    del lowered.opset_import[:]
    lowered.opset_import.extend(standard)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered, reports
