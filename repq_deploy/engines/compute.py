"""Which arithmetic can multiply the quantized operands, and the lowering that a user asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repq_deploy.engines.backends import Backend
from repq_deploy.engines.cpu import check_cpu
from repq_deploy.errors import BadInput

if TYPE_CHECKING:
    from repq_deploy.export.lowering import Lowering

__all__ = ["COMPUTES", "lowering_for"]

#: The first one is every backend's default; "fp8+int8" is FP8 where it is exact, INT8 elsewhere.
COMPUTES = ("int8", "fp8", "fp8+int8", "fp16")


def lowering_for(
    backend: Backend,
    *,
    precision: str | None = None,
    compute: str = COMPUTES[0],
    allow_rounding: bool = False,
    cpu: str | None = None,
) -> Lowering:
    """The lowering that these options ask ``backend`` for; ``precision`` None means the backend's default.

    Raises:
        BadInput: the backend has no such lowering, or it would not be what was asked for; it names the option.
    """
    from repq_deploy.export.lowering import Lowering  # noqa: PLC0415 (a manifest is read without ONNX)

    if precision is None:
        precision = backend.precisions[0]
    elif precision not in backend.precisions:
        raise BadInput(
            f"precision {precision!r}: backend {backend.name} computes in {' or '.join(backend.precisions)} around Q/DQ"
        )
    if compute not in COMPUTES:
        raise BadInput(f"--compute {compute}: expected one of {', '.join(COMPUTES)}")
    if allow_rounding and compute != "fp8":
        raise BadInput(f"--allow-rounding: --compute {compute} rounds nothing; it is for --compute fp8")
    if compute not in backend.computes:
        raise BadInput(
            f"--compute {compute}: backend {backend.name} multiplies quantized operands in "
            f"{' or '.join(backend.computes)} only"
        )
    if compute == "fp16" and precision != "fp16":
        raise BadInput(f"--compute fp16: with --precision {precision} the products are in {precision}; use fp16")
    check_cpu(cpu, backend=backend.name, on_cpus=backend.on_cpus)
    return Lowering(half=precision == "fp16", compute=compute, allow_rounding=allow_rounding, cpu=cpu)
