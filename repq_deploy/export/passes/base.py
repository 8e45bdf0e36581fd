"""What a pass is: a class that rewrites a graph and says how many places it changed."""

from __future__ import annotations

import abc
import gc
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

__all__ = ["Pass", "PassError", "PassReport", "run_passes"]

logger = logging.getLogger(__name__)

#: GraphSurgeon prints its warnings (float8 has no NumPy type, ...) on stdout, which belongs to what a command answers.
gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR


#: Constants of so many numbers are worth to be kept from copies.
_LARGE = 2**16
_PLAIN = (np.float32, np.float16, np.int8, np.uint8)


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
    """Run ``passes`` in order; metadata and functions are kept, unused tensors dropped.

    ``model`` is not changed. The graph reads its constants where they are, as a copy of large ones would be the most
    memory of all.
    """
    graph = _imported(model)
    reports = []
    for rewrite in passes:
        changed = rewrite.call(graph)
        graph.cleanup().toposort()
        rewrite.ensures(graph)
        logger.debug("%s: %d places", type(rewrite).__name__, changed)
        reports.append(PassReport(type(rewrite).__name__, changed))
    initializers = [(tensor, tensor.name) for tensor in model.graph.initializer]
    exported = _export(graph)
    # Nodes and tensors name each other, and would keep all constants that they were read from.
    del graph
    gc.collect()
    for tensor, name in initializers:  # graph-surgeon writes new names into the old constants
        tensor.name = name
    exported.ir_version = model.ir_version
    exported.producer_name, exported.producer_version = model.producer_name, model.producer_version
    del exported.metadata_props[:]
    exported.metadata_props.extend(model.metadata_props)
    used = {(node.domain, node.op_type) for node in exported.graph.node}
    exported.functions.extend(f for f in model.functions if (f.domain, f.name) in used)
    return exported, reports


def _imported(model: onnx.ModelProto) -> gs.Graph:
    """The graph without the model's functions, whose bodies are not rewritten."""
    domains = OnnxImporter.get_import_domains(model)
    opset, ir_version = OnnxImporter.get_opset(model), model.ir_version
    return OnnxImporter.import_graph(model.graph, opset=opset, import_domains=domains, ir_version=ir_version)


def _export(graph: gs.Graph) -> onnx.ModelProto:
    """Graph-surgeon's export, after which ``graph`` is used up. Large constants are put in behind it, one by one.

    It would hold three copies of them at once, and write INT4 one to a byte, which ONNX refuses.
    """
    held = {}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and (tensor.dtype == ml_dtypes.int4 or _is_large(tensor)):
            held[tensor.name] = np.asarray(tensor.values)
            tensor.values = np.zeros(0, np.int8)
    exported = gs.export_onnx(graph, do_type_check=False)
    for initializer in exported.graph.initializer:
        if initializer.name in held:
            initializer.CopyFrom(onnx.numpy_helper.from_array(held.pop(initializer.name), initializer.name))
    return exported


def _is_large(tensor: gs.Constant) -> bool:
    """Of a type that NumPy has, so that its values are read as they are written."""
    return tensor.dtype in _PLAIN and math.prod(tensor.shape) >= _LARGE
