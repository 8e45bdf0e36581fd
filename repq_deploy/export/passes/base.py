"""What a pass is: a class that rewrites a graph and says how many places it changed."""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

__all__ = ["Pass", "PassError", "PassReport", "run_passes"]

logger = logging.getLogger(__name__)

#: GraphSurgeon prints its warnings (float8 has no NumPy type, ...) on stdout, which belongs to what a command answers.
gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR


class PassError(Exception):
    """A graph does not meet what a pass requires, or a pass did not ensure what it states: a defect, not bad input."""


@dataclass(frozen=True)
class PassReport:
    """How many places a pass changed."""

    name: str
    changed: int


class Pass(abc.ABC):
    """A rewrite of a graph. Its docstring states the rule, what it requires, and the tolerance it keeps."""

    @abc.abstractmethod
    def call(self, graph: gs.Graph) -> int:
        """Rewrite ``graph`` in place; the number of places changed."""

    def ensures(self, graph: gs.Graph) -> None:  # noqa: B027 - most passes promise no more than their rule
        """Raise PassError where the rewrite left something behind."""


def run_passes(model: onnx.ModelProto, passes: Sequence[Pass]) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Run ``passes`` in order on a copy of ``model``; metadata and functions are kept, unused tensors dropped."""
    functions = list(model.functions)
    metadata = list(model.metadata_props)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]
    graph = gs.import_onnx(bare)
    reports = []
    for rewrite in passes:
        changed = rewrite.call(graph)
        graph.cleanup().toposort()
        rewrite.ensures(graph)
        logger.debug("%s: %d places", type(rewrite).__name__, changed)
        reports.append(PassReport(type(rewrite).__name__, changed))
    exported = _export(graph)
    exported.ir_version = model.ir_version
    exported.producer_name, exported.producer_version = model.producer_name, model.producer_version
    del exported.metadata_props[:]
    exported.metadata_props.extend(metadata)
    used = {(node.domain, node.op_type) for node in exported.graph.node}
    exported.functions.extend(f for f in functions if (f.domain, f.name) in used)
    return exported, reports


def _export(graph: gs.Graph) -> onnx.ModelProto:
    """Graph-surgeon's export, with INT4 constants packed: it writes them one to a byte, which ONNX refuses."""
    packed = {}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.dtype == ml_dtypes.int4:
            packed[tensor.name] = onnx.numpy_helper.from_array(np.asarray(tensor.values), tensor.name)
            tensor.values = np.asarray(tensor.values).astype(np.int8)
    exported = gs.export_onnx(graph, do_type_check=False)
    for initializer in exported.graph.initializer:
        if initializer.name in packed:
            initializer.CopyFrom(packed[initializer.name])
    return exported
