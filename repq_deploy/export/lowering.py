"""Lowering: rewrites the canonical graph into the form that one backend runs best, by a list of passes per backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from repq_deploy.errors import BadInput
from repq_deploy.export.passes.attention_scale import AttentionScale
from repq_deploy.export.passes.base import Pass, PassReport, run_passes
from repq_deploy.export.passes.byte_products import Saturation, saturation
from repq_deploy.export.passes.float_activations import FloatActivations
from repq_deploy.export.passes.float_code_products import FloatCodeProducts
from repq_deploy.export.passes.fp8_products import FP8Products
from repq_deploy.export.passes.fused_attention import FusedAttention
from repq_deploy.export.passes.integer_products import IntegerProducts
from repq_deploy.export.passes.log2_by_log_softmax import Log2ByLogSoftmax
from repq_deploy.export.passes.log2_by_log_sum_exp import Log2ByLogSumExp
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.patch_product import PatchProduct
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves
from repq_deploy.export.passes.separate_projections import SeparateProjections
from repq_deploy.export.passes.table_plain_ops import TablePlainOps
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.export.passes.token_gather import TokenGather
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from repq_deploy.export.passes.unsaturated_products import UnsaturatedProducts
from repq_deploy.export.passes.unsigned_codes import UnsignedCodes

__all__ = ["BACKENDS", "PassReport", "Saturation", "exact_anywhere", "lower", "passes_for", "saturation_of"]


@dataclass(frozen=True)
class _Variant:
    """The options of a lowering; see ``lower``."""

    half: bool
    compute: str
    allow_rounding: bool
    sums_in_16_bits: bool


def _onnxruntime(variant: _Variant) -> list[Pass]:
    if variant.half:
        raise BadInput(
            "backend onnxruntime: fp16 was asked for, but its CPU kernels compute in fp32; use --precision fp32"
        )
    # Bytes where the canonical graph has Q/DQ, each product in the integer kernel, in the layout it is needed.
    passes: list[Pass] = [
        UnpackInt4(),
        TokenGather(),
        SeparateProjections(),
        UnsignedCodes(),
        PatchProduct(),
        Log2ByLogSoftmax(),
        FusedAttention(),
        QuantizeBeforeMoves(),
        IntegerProducts(),
        TablePlainOps(),
        Log2PlainOps(),
    ]
    if variant.sums_in_16_bits:
        passes.append(UnsaturatedProducts())
    return [*passes, FloatCodeProducts(sums_in_16_bits=variant.sums_in_16_bits)]


def _openvino(variant: _Variant) -> list[Pass]:
    if variant.half:
        raise BadInput("backend openvino: fp16 was asked for, but its engines compute in fp32; use --precision fp32")
    # Its own transformations fuse attention of this very form; one product for each of q, k and v stops them.
    # It has no kernel of two unsigned factors: what could saturate is multiplied in float.
    products = FloatCodeProducts(sums_in_16_bits=variant.sums_in_16_bits)
    return [UnpackInt4(), Log2ByLogSumExp(), TablePlainOps(), Log2PlainOps(), products]


def _tensorrt(variant: _Variant) -> list[Pass]:
    """The passes of TensorRT and TensorRT-RTX. Only fp16 products keep weights packed: INT4 by INT8 has no kernel."""
    passes: list[Pass] = [AttentionScale()]
    if variant.compute == "fp16":
        passes += [FloatActivations()]
    else:
        passes += [QuantizeBeforeMoves(("Reshape", "Transpose"))]
        if variant.compute != "int8":
            passes += [FP8Products(mixed=variant.compute == "fp8+int8", allow_rounding=variant.allow_rounding)]
        passes += [UnpackInt4()]
    passes += [TablePlainOps(), Log2PlainOps()]
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


def passes_for(
    backend: str,
    *,
    half: bool,
    compute: str = "int8",
    allow_rounding: bool = False,
    sums_in_16_bits: bool = False,
) -> list[Pass]:
    """The passes of ``backend`` in order; the arguments are those of ``lower``."""
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    return _PASSES[backend](_Variant(half, compute, allow_rounding, sums_in_16_bits))


def lower(
    model: onnx.ModelProto,
    *,
    backend: str,
    half: bool,
    compute: str = "int8",
    allow_rounding: bool = False,
    sums_in_16_bits: bool = False,
) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Lower a canonical model.

    Args:
        model: as ``canonical_onnx`` makes it; it is not changed.
        backend: one of ``BACKENDS``.
        half: float16 around the integers; inputs and outputs stay float32. Not for the CPU backends, whose kernels
            compute in float32.
        compute: which arithmetic multiplies quantized operands: "int8", or on TensorRT "fp8", "fp8+int8" (FP8 where
            it is exact), or "fp16" (the float type around the integers, with weights in 4 or 8 bits).
        allow_rounding: let "fp8" round values that it cannot hold.
        sums_in_16_bits: on the CPU backends, use only products whose sums fit 16 bits, as x86 without VNNI saturates
            larger ones. This is slower on every CPU where weights have 8 bits.

    Raises:
        BadInput: an unknown backend, a variant that it does not have, or codes that FP8 cannot hold.
    """
    passes = passes_for(
        backend, half=half, compute=compute, allow_rounding=allow_rounding, sums_in_16_bits=sums_in_16_bits
    )
    lowered, reports = run_passes(model, passes)
    _import_used_domains(lowered)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered, reports


def exact_anywhere(lowered: onnx.ModelProto) -> onnx.ModelProto:
    """A lowered graph with its integer products in a form that saturates on no CPU, whatever CPU it was lowered for.

    With it a proof of the passes does not depend on the CPU that it runs on.
    """
    exact, _ = run_passes(lowered, [UnsaturatedProducts()])
    return exact


def saturation_of(lowered: onnx.ModelProto) -> Saturation:
    """The products of a lowered graph that saturate on a CPU that sums products of bytes in 16 bits."""
    return saturation(gs.import_onnx(lowered))


def _import_used_domains(model: onnx.ModelProto) -> None:
    """Import the domains that nodes are of: graph-surgeon keeps those no longer used, and knows no new ones."""
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    used = sorted({node.domain for node in model.graph.node} - {""})
    del model.opset_import[:]
    model.opset_import.extend([*standard, *(onnx.helper.make_opsetid(domain, 1) for domain in used)])
