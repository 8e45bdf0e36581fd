"""From the quantized model to the canonical ONNX, and from there to what each backend runs."""

from __future__ import annotations

from repq_deploy.export.canonical import canonical_onnx, write_canonical
from repq_deploy.export.float_model import float_onnx
from repq_deploy.export.lowering import BACKENDS, PassReport, lower
from repq_deploy.export.prove_export import compare_export, reference_session

__all__ = [
    "BACKENDS",
    "PassReport",
    "canonical_onnx",
    "compare_export",
    "float_onnx",
    "lower",
    "reference_session",
    "write_canonical",
]
