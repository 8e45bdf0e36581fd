"""Which opset a file is of, and so which run-times can open it.

A canonical graph is of opset 21, for its INT4 weights. Without them all it needs is opset 20 (Gelu), whose other
operators are the same there.
"""

from __future__ import annotations

import onnx

from repq_deploy.errors import BadInput

__all__ = ["OPSETS", "at_opset", "check_opset", "oldest_onnxruntime"]

#: Opset to the IR version of its time, and the first ONNX Runtime that opens both.
#: https://onnxruntime.ai/docs/reference/compatibility.html
_OF_OPSET = {20: (9, "1.17"), 21: (10, "1.18")}
OPSETS = tuple(_OF_OPSET)
#: 1.18 knows the opset, and not its INT4.
_FIRST_WITH_INT4 = "1.19"

_STANDARD = ("", "ai.onnx")
_PACKED = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)


def check_opset(opset: int, bits: int) -> None:
    """Refuse an opset that cannot hold a graph whose weights have ``bits`` at the least.

    Raises:
        BadInput: it says which opsets can.
    """
    if opset not in _OF_OPSET:
        raise BadInput(
            f"--opset {opset}: expected {' or '.join(map(str, OPSETS))}; there is no Gelu below {min(OPSETS)}, and "
            "none above is written"
        )
    if bits <= 4 and opset < max(OPSETS):
        raise BadInput(
            f"--opset {opset}: weights of up to 4 bits are stored as INT4, which began with opset {max(OPSETS)}; use 5 "
            "bits or more"
        )


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """``model`` itself, which becomes a file of ``opset``, one of ``OPSETS``, of its own opset or lower.

    Raises:
        BadInput: that opset cannot hold it.
    """
    packed = any(tensor.data_type in _PACKED for tensor in model.graph.initializer)
    check_opset(opset, 4 if packed else 8)
    for entry in [*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)]:
        if entry.domain in _STANDARD:
            entry.version = opset
    model.ir_version = _OF_OPSET[opset][0]
    onnx.checker.check_model(model, full_check=True)  # each operator and type is one of this opset
    return model


def oldest_onnxruntime(model: onnx.ModelProto) -> str | None:
    """The first version of ONNX Runtime that opens a file; None where that is not known."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in _STANDARD), default=0)
    ir, version = _OF_OPSET.get(opset, (0, ""))
    if any(tensor.data_type in _PACKED for tensor in model.graph.initializer):
        version = _FIRST_WITH_INT4
    return version if model.ir_version <= ir else None
