"""Lowering: rewrites the canonical graph into the form that a backend runs best, by passes that the backend names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from repq_deploy.export.passes.base import Pass, PassReport, run_passes
from repq_deploy.export.passes.byte_products import Saturation, saturation
from repq_deploy.export.passes.unsaturated_products import UnsaturatedProducts

__all__ = ["Lowering", "PassReport", "Saturation", "exact_anywhere", "lower", "saturation_of"]


@dataclass(frozen=True)
class Lowering:
    """What is asked of a lowered graph; a backend names its passes by it.

    Attributes:
        half: float16 around the integers, in place of float32; inputs and outputs stay float32.
        compute: which arithmetic multiplies quantized operands, one of ``engines.compute.COMPUTES``: "int8", "fp8",
            "fp8+int8" (FP8 where it is exact), or "fp16" (the float type around the integers, with weights in 4 or
            8 bits).
        allow_rounding: let "fp8" round values that it cannot hold.
        cpu: which CPUs the engine was asked to be for, one of ``engines.cpu.CPU_OPTIONS``; None lets the model decide.
        sums_in_16_bits: on CPUs, use only products whose sums fit 16 bits, as x86 without VNNI saturates larger ones.
            It follows from ``cpu`` and the model, and is slower on every CPU where weights have 8 bits.
    """

    half: bool = False
    compute: str = "int8"
    allow_rounding: bool = False
    cpu: str | None = None
    sums_in_16_bits: bool = False

    @property
    def precision(self) -> str:
        """The float type around the quantized operations."""
        return "fp16" if self.half else "fp32"


def lower(model: onnx.ModelProto, passes: Sequence[Pass]) -> tuple[onnx.ModelProto, list[PassReport]]:
    """Lower a canonical model, as ``canonical_onnx`` makes it, by ``passes`` in order; the model is not changed.

    Raises:
        BadInput: codes that the arithmetic asked for cannot hold.
    """
    lowered, reports = run_passes(model, passes)
    _import_used_domains(lowered)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered, reports


def exact_anywhere(lowered: onnx.ModelProto) -> onnx.ModelProto:
    """A lowered graph with its integer products in a form that saturates on no CPU, whatever CPU it was lowered for.

    With it a proof of the passes does not depend on the CPU that it runs on.
    """
    exact, _ = run_passes(lowered, [UnsaturatedProducts()])
    return exact


def saturation_of(lowered: onnx.ModelProto) -> Saturation:
    """The products of a lowered graph that saturate on a CPU that sums products of bytes in 16 bits."""
    return saturation(gs.import_onnx(lowered))


def _import_used_domains(model: onnx.ModelProto) -> None:
    """Import the domains that nodes are of: graph-surgeon keeps those no longer used, and knows no new ones."""
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    used = sorted({node.domain for node in model.graph.node} - {""})
    del model.opset_import[:]
    model.opset_import.extend([*standard, *(onnx.helper.make_opsetid(domain, 1) for domain in used)])
