"""Logarithmic quantizers of probabilities without a logarithm or a power for each element."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from repq_deploy.export.domain import DOMAIN, QUANTIZE_LOG2
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.graph import Emitter, constant_of, nodes_of, producer, replace_output, site_of
from repq_deploy.export.passes.operands import exponent_of, logits_of_powers

__all__ = ["Log2ByLogSumExp"]

#: A value below this is zero to every sum it enters.
_NEGLIGIBLE = 1e-30

#: Below every logit.
_LOWEST = -3e38


class Log2ByLogSumExp(Pass):
    """``Softmax -> Log2QuantizeLinear -> Log2DequantizeLinear`` becomes, from the logits ``x``, with L = log sum exp x,

        codes = clip(round((L - x + ln scale) steps / ln 2)), values = exp(ln scale - codes ln 2 / steps)

    1. The logarithm of a softmax is a difference: a logarithm is left for each row only. Some runtimes have no fast Log
       or Pow; all have Exp.
    2. The last code's value is set to zero, unless it is that already (8 bits).
    3. Of probabilities over their row's largest, ``exp(x - max x)``, scale 1: L is max x, with no logarithm left.

    Requires a softmax, or largest values, over the last axis; others are left for Log2PlainOps, as is a softmax that
    something else reads. Tolerance: ties of the logarithm, and 1e-6 relative in a value.
    """

    def call(self, graph: gs.Graph) -> int:
        changed = 0
        for quantize in nodes_of(graph, QUANTIZE_LOG2, DOMAIN):
            readers, relative = quantize.outputs[0].outputs, False
            logits = _of_softmax(quantize.inputs[0])
            if logits is None and exponent_of(quantize) is not None:
                logits, relative = logits_of_powers(quantize.inputs[0]), True
            if logits is None or len(readers) != 1:
                continue
            replace_output(readers[0], _emit_all(graph, quantize, logits, relative=relative), graph)
            changed += 1
        return changed


def _of_softmax(p: gs.Tensor) -> gs.Tensor | None:
    """What a softmax over the last axis made ``p`` of, where nothing else reads it."""
    softmax = producer(p, "Softmax")
    if softmax is None or len(p.outputs) != 1:
        return None
    last = len(softmax.inputs[0].shape or ()) - 1
    return softmax.inputs[0] if softmax.attrs.get("axis", -1) in (-1, last) else None


def _emit_all(graph: gs.Graph, quantize: gs.Node, x: gs.Tensor, *, relative: bool) -> gs.Tensor:
    site = site_of(quantize)
    last = 2 ** quantize.attrs["bits"] - 1
    nats = math.log(2) / quantize.attrs["steps_per_octave"]  # of one code
    log_scale = math.log(float(constant_of(quantize.inputs[1])))
    emit, columns = Emitter(graph, site, x), np.array([-1], np.int64)
    row = [*x.shape[:-1], 1] if x.shape is not None else None

    # Of a product of integers that both ReduceMax and Sub read, OpenVINO 2026.4 scales the maximum twice. It moves no
    # scale over a Max, which changes nothing here.
    logits = emit("Max", x, _LOWEST)
    below = emit("Sub", logits, emit("ReduceMax", logits, columns, shape=row))
    exact = emit("Mul", below, -1 / nats)
    if not relative:
        log_sum = emit("Log", emit("ReduceSum", emit("Exp", below), columns, shape=row), shape=row)
        # Row by row first: one multiplication and one addition are left for each element.
        exact = emit("Add", exact, emit("Mul", emit("Add", log_sum, log_scale, shape=row), 1 / nats, shape=row))
    codes = emit("Clip", emit("Round", exact), 0.0, float(last))
    codes.name = f"{emit.site}/float_codes"
    exponent = emit("Mul", codes, -nats)
    values = emit("Exp", emit("Add", exponent, log_scale) if log_scale else exponent)
    if math.exp(log_scale - last * nats) > _NEGLIGIBLE:
        values = emit("Where", emit("Equal", codes, float(last), dtype=np.bool_), 0.0, values)
    return values
