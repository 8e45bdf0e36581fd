"""Kinds of CPU, and for which of them an engine of a CPU backend is built.

They differ in one thing: x86 without VNNI sums two products of bytes in 16 bits and saturates. A form that cannot
saturate is exact everywhere and, where weights have 8 bits, slower.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from repq_deploy.errors import BadInput

__all__ = [
    "ANY",
    "CPU_OPTIONS",
    "KIND_WORDS",
    "SMALL_SHARE",
    "CpuForm",
    "can_run",
    "check_cpu",
    "choose_form",
    "kind_here",
]

ANY = "any"
#: What ``--cpu`` takes. "native" is the kind of this machine.
CPU_OPTIONS = (ANY, "native", "vnni", "avx2", "arm64")
#: What an engine's kind means, in words.
KIND_WORDS = {ANY: "any CPU", "vnni": "x86 CPUs with VNNI", "arm64": "ARM64 CPUs"}
#: Kinds whose sums of products of bytes have 32 bits.
_WIDE = ("vnni", "arm64")

#: Up to this share of the multiplications by weights the form that cannot saturate costs next to nothing.
SMALL_SHARE = 0.1


@dataclass(frozen=True)
class CpuForm:
    """The form an engine is built in: ``kind`` is what it is exact on, ``sums_in_16_bits`` how it is lowered."""

    kind: str
    sums_in_16_bits: bool
    why: str


def check_cpu(asked: str | None, *, backend: str, on_cpus: bool) -> None:
    """Refuse a ``--cpu`` that is not known, or not for CPUs.

    Raises:
        BadInput: it names the option.
    """
    if asked is not None and asked not in CPU_OPTIONS:
        raise BadInput(f"--cpu {asked}: expected one of {', '.join(CPU_OPTIONS)}")
    if asked is not None and not on_cpus:
        raise BadInput(f"--cpu {asked}: backend {backend} builds for GPUs; use --target")


def can_run(kind: str, *, saturates: bool) -> bool:
    """Whether an engine for ``kind`` is exact on this machine, whose kernels saturate or do not."""
    return kind == ANY or not saturates


def kind_here(*, saturates: bool) -> str:
    """The kind of this machine's CPU, as a runtime whose kernels saturate on it, or do not, sees it."""
    if saturates:
        return "avx2"
    return "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "vnni"


def choose_form(asked: str | None, *, here: str, products: int, weight_share: float) -> CpuForm:
    """The form of a lowered graph of which ``products`` could saturate, with ``weight_share`` of the multiplications by
    weights. ``asked`` is one of ``CPU_OPTIONS`` or None; ``here`` is the kind of this machine.
    """
    if products == 0:
        return CpuForm(ANY, False, "none of its products of bytes can saturate")
    if asked is None:
        asked = ANY if weight_share <= SMALL_SHARE else "native"
    kind = here if asked == "native" else asked
    if kind in _WIDE:
        return CpuForm(kind, False, f"{products} of its products of bytes would saturate on x86 without VNNI")
    return CpuForm(ANY, True, f"{products} of its products of bytes are in a form that cannot saturate")
