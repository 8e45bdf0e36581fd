"""Why an engine is no faster than the float model: what is known of it, of this CPU, and of what was measured.

A reason is given only where its fact holds for this engine on this machine. The numbers in it are measurements of
``benchmarks/results/speed.md`` (deit_s, 2 threads), not promises for another model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from repq_deploy.bits import MAX_BITS, smallest_activation_bits
from repq_deploy.engines.backends import Backend
from repq_deploy.engines.bench.times import FloatTimes
from repq_deploy.engines.cpu import ANY, SMALL_SHARE
from repq_deploy.engines.manifest import Manifest
from repq_deploy.export.domain import DEQUANTIZE_LOG2, DEQUANTIZE_TABLE, QUANTIZE_CURVE, QUANTIZE_LOG2

__all__ = ["Facts", "Reason", "facts_of", "why_not_faster"]

#: Millions of weights up to which a model is called small. deit_t, which gains, has 5.7; the demo, which need not, 0.8.
_SMALL = 2.0


@dataclass(frozen=True)
class Reason:
    """What holds for this engine, and what to do about it, a sentence each."""

    what: str
    to_do: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of an engine on this machine.

    Attributes:
        on_cpus: whether it runs on CPUs.
        no_gain_where_saturated: the backend's own.
        saturates: whether this CPU sums products of bytes in 16 bits (x86 without VNNI).
        unsaturated: whether more than a tenth of the multiplications by weights are in the slower form that cannot
            saturate.
        activation_bits: the fewest of any activation.
        quantizers: of activations, of all kinds.
        logarithms, curves: those on a logarithmic grid, and those on another curve, which are computed in float.
        products, float_products: of matrices, and those of them that multiply floats.
        million_weights: quantized ones.
    """

    on_cpus: bool
    no_gain_where_saturated: tuple[str, str] | None
    saturates: bool
    unsaturated: bool
    activation_bits: int
    quantizers: int
    logarithms: int
    curves: int
    products: int
    float_products: int
    million_weights: float


def facts_of(canonical: onnx.ModelProto, manifest: Manifest, backend: Backend) -> Facts:
    """Read the facts off the canonical graph, the engine's manifest and this machine; it may take seconds."""
    nodes = canonical.graph.node
    quantizers = {op: sum(node.op_type == op for node in nodes) for op in ("QuantizeLinear", QUANTIZE_LOG2)}
    curves = sum(node.op_type in QUANTIZE_CURVE.values() for node in nodes)
    dequantized = {
        node.output[0] for node in nodes if node.op_type in ("DequantizeLinear", DEQUANTIZE_LOG2, DEQUANTIZE_TABLE)
    }
    products = [node for node in nodes if node.op_type in ("MatMul", "Conv", "Gemm")]
    sizes = {tensor.name: tensor.dims for tensor in canonical.graph.initializer}
    weights = {node.input[0] for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in sizes}
    return Facts(
        on_cpus=backend.on_cpus,
        no_gain_where_saturated=backend.no_gain_where_saturated,
        saturates=backend.saturates(),
        unsaturated=_unsaturated(canonical, manifest, backend),
        activation_bits=smallest_activation_bits(manifest.bits),
        quantizers=sum(quantizers.values()) + curves,
        logarithms=quantizers[QUANTIZE_LOG2],
        curves=curves,
        products=len(products),
        float_products=sum(not set(node.input[:2]) <= dequantized for node in products),
        million_weights=sum(_elements(sizes[name]) for name in weights) / 1e6,
    )


def why_not_faster(facts: Facts, times: Sequence[FloatTimes]) -> tuple[Reason, ...]:
    """The reasons that hold, of the CPU, the model's size and its bits, in this order.

    ``times`` are what was measured, by rising batch.
    """
    found = [*(_of_cpu(facts) if facts.on_cpus else ()), *_of_size(facts, times), *_of_bits(facts)]
    if found:
        return tuple(found)
    return (
        Reason(
            "none that is known of: its products are of bytes, in the form that is fastest on this machine",
            "measure longer, with repq-bench; another --backend may have faster kernels for this model",
        ),
    )


def _of_cpu(facts: Facts) -> list[Reason]:
    if facts.saturates and facts.no_gain_where_saturated is not None:
        return [Reason(*facts.no_gain_where_saturated)]
    if facts.saturates and facts.unsaturated:
        return [
            Reason(
                "this CPU has no VNNI, where products of 8-bit weights need a slower form to be exact",
                "repq-export --bits w7a8: for deit_s 1.68 instead of 1.37 times float's speed at batch 8, though 1.29 "
                "instead of 1.38 at batch 1",
            )
        ]
    if facts.saturates:
        return [
            Reason(
                "this CPU has no VNNI: deit_s, with VNNI hidden, was measured at 1.15 to 1.68 times float's speed, "
                "with VNNI at 1.48 to 2.94",
                "larger batches, or a CPU with VNNI",
            )
        ]
    if facts.unsaturated:
        return [
            Reason(
                "it was built for any CPU, with 8-bit weights in a form that cannot saturate, which is slower: deit_s "
                "1.17 instead of 1.73 times float's speed in ONNX Runtime, 1.10 instead of 2.65 in OpenVINO",
                "--cpu native; for one file that is exact and fast on every CPU repq-export --bits w7a8",
            )
        ]
    return []


def _of_bits(facts: Facts) -> list[Reason]:
    found = []
    if facts.float_products:
        found.append(
            Reason(
                f"{facts.float_products} of its {facts.products} products multiply floats, as exported",
                "quantize them: no --softmax float, no kinds of quantizers on curves",
            )
        )
    if facts.logarithms:
        found.append(
            Reason(
                f"{facts.logarithms} of its {facts.quantizers} quantizers are on a logarithmic grid, which is computed "
                "in float: deit_s w4a4 was measured at 1.48 times float's speed in ONNX Runtime, where w8a8 had 1.73, "
                "and at 1.72 in OpenVINO, where w8a8 had 2.65",
                "repq-export --softmax uniform, at a price in accuracy below 6 bits: measure it with repq-eval",
            )
        )
    if facts.curves:
        found.append(
            Reason(
                f"{facts.curves} of its {facts.quantizers} quantizers are on a curve, which is computed in float and "
                "read from a table",
                "repq-export --softmax uniform, and recipes without a gelu on a curve: measure the accuracy",
            )
        )
    if facts.activation_bits < MAX_BITS:
        found.append(
            Reason(
                f"activations of {facts.activation_bits} bits run on the INT8 grid: no faster than 8 bits",
                "--bits w8a8 for speed, w4a8 for half of the size",
            )
        )
    return found


def _of_size(facts: Facts, times: Sequence[FloatTimes]) -> list[Reason]:
    first, *larger = times
    better = max(larger, key=lambda one: one.ratio, default=first)
    if better.faster:
        return [
            Reason(
                f"batch {first.batch} is too small for this model to gain: at batch {better.batch} it is "
                f"{better.ratio:.2f} times as fast as the float model",
                f"run {better.batch} images at a time where they come in numbers",
            )
        ]
    if facts.million_weights < _SMALL:
        return [
            Reason(
                f"the model is small ({facts.million_weights:.1f} million weights): {facts.quantizers} quantizers "
                "take time that its products may not save",
                "take it for its size, or try another --backend; repq-bench --threads 1 shows if fewer threads help",
            )
        ]
    return []


def _unsaturated(canonical: onnx.ModelProto, manifest: Manifest, backend: Backend) -> bool:
    if manifest.cpu != ANY:
        return False
    from repq_deploy.export.lowering import Lowering, lower, saturation_of  # noqa: PLC0415 (as elsewhere in engines)

    lowered, _ = lower(canonical, backend.passes(Lowering(compute=manifest.compute)))
    return saturation_of(lowered).weight_share > SMALL_SHARE


def _elements(dims: Sequence[int]) -> int:
    return math.prod(dims)
