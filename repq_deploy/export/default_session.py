"""On which CPUs ONNX Runtime, with its default optimizations, computes a canonical file's own codes.

The canonical file is the description that backends lower; run as it stands it is exact without optimizations. With
them, products of Q/DQ pairs become products of bytes, which saturate on x86 without VNNI where weights have 8 bits,
and products of floats by integer weights become MatMulNBits, which quantizes the floats (1.31).
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import without_functions
from repq_deploy.export.passes.byte_products import byte_products
from repq_deploy.export.passes.float_code_products import is_weight_only
from repq_deploy.export.passes.graph import nodes_of

__all__ = ["exact_by_default"]


def exact_by_default(canonical: onnx.ModelProto) -> str:
    """The kinds of CPU on which a session with default options is exact: "any", "vnni,arm64" or "none". Elsewhere it
    takes ``GraphOptimizationLevel.ORT_DISABLE_ALL``, or the engine that repq-build-engine makes of the file."""
    graph = gs.import_onnx(without_functions(canonical))
    if any(is_weight_only(node) for node in nodes_of(graph, "MatMul")):
        return "none"
    return "vnni,arm64" if any(one.saturates for one in byte_products(graph)) else "any"
