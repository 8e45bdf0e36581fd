"""Which arithmetic can multiply the quantized operands: what was asked for, on the backend and the GPUs it is for."""

from __future__ import annotations

import re

from repq_deploy.errors import BadInput

__all__ = ["COMPUTES", "check_compute"]

#: The first one is every backend's default; "fp8+int8" is FP8 where it is exact, INT8 elsewhere.
COMPUTES = ("int8", "fp8", "fp8+int8", "fp16")

#: Ada is the first generation with FP8.
_FP8_SINCE = 89


def check_compute(compute: str, *, backend: str, precision: str, target: str | None, allow_rounding: bool) -> None:
    """Refuse a combination that cannot be built, or would not be what was asked for.

    ``target`` is as the manifest has it, ``sm80+sm89``, and None for the builder's own choice of GPUs.

    Raises:
        BadInput: it names the option to change.
    """
    if compute not in COMPUTES:
        raise BadInput(f"--compute {compute}: expected one of {', '.join(COMPUTES)}")
    if allow_rounding and compute != "fp8":
        raise BadInput(f"--allow-rounding: --compute {compute} rounds nothing; it is for --compute fp8")
    if compute == "int8":
        return
    if not backend.startswith("tensorrt"):
        raise BadInput(f"--compute {compute}: backend {backend} multiplies quantized operands in int8 only")
    if compute == "fp16":
        if precision != "fp16":
            raise BadInput(f"--compute fp16: with --precision {precision} the products are in {precision}; use fp16")
        return
    if target is None:
        raise BadInput(
            f"--compute {compute}: FP8 exists since sm{_FP8_SINCE}, and {backend}'s default targets are older too; "
            f"name yours, as in --target sm{_FP8_SINCE}"
        )
    old = [name for name in target.split("+") if int(re.sub(r"\D", "", name)) < _FP8_SINCE]
    if old:
        raise BadInput(
            f"--compute {compute}: {', '.join(old)} has no FP8, which exists since sm{_FP8_SINCE}; use --compute int8"
        )
