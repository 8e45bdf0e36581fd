"""Lowering: the canonical graph in the form that one backend runs best. Here stands which passes run, and in order."""

from __future__ import annotations

import onnx

from repq_deploy.errors import BadInput
from repq_deploy.export.passes.base import Pass, PassReport, run_passes
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.to_half import ToHalf
from repq_deploy.export.passes.unpack_int4 import UnpackInt4

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
    passes: list[Pass] = [UnpackInt4(), Log2PlainOps()]
    if half:
        passes.append(ToHalf())
    lowered, reports = run_passes(model, passes)
    # Graph-surgeon keeps the import of a domain that no node uses any more.
    standard = [entry for entry in lowered.opset_import if entry.domain == ""]
    del lowered.opset_import[:]
    lowered.opset_import.extend(standard)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered, reports
