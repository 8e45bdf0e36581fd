"""Small graphs for the tests of passes, and running them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DOMAIN, functions
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.passes.base import Pass, run_passes
from repq_deploy.export.passes.graph import append

__all__ = ["as_model", "finish", "ops", "quantize", "rewritten", "run", "weight"]

OPSET = 21


def quantize(
    graph: gs.Graph, x: gs.Tensor, name: str, *, scale: float, bits: int = 8, zero_point: int = 128
) -> gs.Variable:
    """Q/DQ as the canonical graph has it: codes from ``-zero_point``, a Clip for fewer than 8 bits."""
    if bits < 8:
        bounds = [np.array(scale * bound, np.float32) for bound in (-zero_point, 2**bits - 1 - zero_point)]
        x = append(graph, "Clip", f"{name}/clip", [x, *bounds], shape=x.shape)
    step, zero = np.array(scale, np.float32), np.array(0, np.int8)
    codes = append(graph, "QuantizeLinear", f"{name}/quantize", [x, step, zero], dtype=np.int8, shape=x.shape)
    return append(graph, "DequantizeLinear", f"{name}/dequantize", [codes, step, zero], shape=x.shape)


def weight(graph: gs.Graph, name: str, shape: Sequence[int], *, axis: int = 1, seed: int = 0) -> gs.Variable:
    """INT8 codes and one scale a column, dequantized."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, shape, dtype=np.int8)
    scale = rng.uniform(0.001, 0.01, shape[axis]).astype(np.float32)
    arrays = [codes, scale, np.zeros(shape[axis], np.int8)]
    return append(graph, "DequantizeLinear", f"{name}/dequantize", arrays, shape=list(shape), axis=axis)


def as_model(graph: gs.Graph, *outputs: gs.Variable) -> onnx.ModelProto:
    """``graph`` as a model with these outputs; the functions of our domain are there for those who need them."""
    graph.outputs, graph.opset, graph.ir_version = list(outputs), OPSET, 10
    model = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.functions.extend(functions(OPSET))
    return finish(model)


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Import the domains that passes may have brought in."""
    del model.opset_import[:]
    model.opset_import.extend(
        onnx.helper.make_opsetid(domain, version)
        for domain, version in (("", OPSET), ("com.microsoft", 1), (DOMAIN, 1))
    )
    return model


def rewritten(model: onnx.ModelProto, *passes: Pass) -> tuple[onnx.ModelProto, list[int]]:
    """``model`` after ``passes``, and how many places each changed."""
    after, reports = run_passes(model, passes)
    return finish(after), [report.changed for report in reports]


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """The first output, with every optimization off."""
    found: np.ndarray = reference_session(model).run(None, inputs)[0]
    return found


def ops(model: onnx.ModelProto) -> list[Any]:
    """The operators in order."""
    return [node.op_type for node in model.graph.node]
