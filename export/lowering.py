"""Lowering: the canonical graph in the form that one backend runs best. Here stands which passes run, and in order."""

from __future__ import annotations

import onnx

from repq_deploy.errors import BadInput
from repq_deploy.export.passes.base import Pass, PassReport, run_passes
from repq_deploy.export.passes.fused_attention import FusedAttention
from repq_deploy.export.passes.integer_products import IntegerProducts
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.log2_softmax import Log2Softmax
from repq_deploy.export.passes.patch_product import PatchProduct
from repq_deploy.export.passes.quantize_early import QuantizeEarly
from repq_deploy.export.passes.separate_projections import SeparateProjections
from repq_deploy.export.passes.table_plain_ops import TablePlainOps
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.export.passes.token_gather import TokenGather
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from repq_deploy.export.passes.unsigned_codes import UnsignedCodes

__all__ = ["BACKENDS", "PassReport", "lower"]

BACKENDS = ("onnxruntime", "tensorrt-rtx", "tensorrt")


def lower(model: onnx.ModelProto, *, backend: str, half: bool) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Lower a canonical model.

    Args:
        model: as ``read_canonical`` gives it; it is not changed.
        backend: one of ``BACKENDS``.
        half: float16 around the integers; inputs and outputs stay float32. Not for ``onnxruntime``, whose CPU kernels
            compute in float32.

    Raises:
        BadInput: an unknown backend, or ``half`` where it is not possible.
    """
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if half and backend == "onnxruntime":
        raise BadInput(
            "backend onnxruntime: fp16 was asked for, but its CPU kernels compute in fp32; use --precision fp32"
        )
    passes = _onnxruntime_passes() if backend == "onnxruntime" else _tensorrt_passes(half=half)
    lowered, reports = run_passes(model, passes)
    _import_used_domains(lowered)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered, reports


def _onnxruntime_passes() -> list[Pass]:
    """Bytes where the canonical graph has Q/DQ, each product in the integer kernel, in the layout it is needed."""
    return [
        UnpackInt4(),
        TokenGather(),
        SeparateProjections(),
        UnsignedCodes(),
        PatchProduct(),
        Log2Softmax(),
        FusedAttention(),
        QuantizeEarly(),
        IntegerProducts(),
        TablePlainOps(),
        Log2PlainOps(),
    ]


def _tensorrt_passes(*, half: bool) -> list[Pass]:
    passes: list[Pass] = [UnpackInt4(), TablePlainOps(), Log2PlainOps()]
    return [*passes, ToHalf()] if half else passes


def _import_used_domains(model: onnx.ModelProto) -> None:
    """Import the domains that nodes are of: graph-surgeon keeps those no longer used, and knows no new ones."""
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    used = sorted({node.domain for node in model.graph.node} - {""})
    del model.opset_import[:]
    model.opset_import.extend([*standard, *(onnx.helper.make_opsetid(domain, 1) for domain in used)])
