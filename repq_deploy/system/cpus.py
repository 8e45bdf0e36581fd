"""The CPUs that this process may use, and pinning it to some of them where the system can."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection

__all__ = ["can_pin", "pin", "usable_cpus"]


def usable_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs that this process may use, in rising order; all of the machine's where it cannot be known."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    mask = _windows_mask()
    return tuple(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1) or tuple(range(os.cpu_count() or 1))


def can_pin() -> bool:
    """Whether this process can be pinned: Linux and Windows do it, macOS does not."""
    return hasattr(os, "sched_setaffinity") or _windows_mask() != 0


def pin(cpus: Collection[int]) -> None:
    """Let this process run on ``cpus`` only. Without effect where ``can_pin`` is false."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    elif sys.platform == "win32" and can_pin():
        from repq_deploy.system import windows  # noqa: PLC0415 - of this system only

        windows.set_affinity(sum(1 << cpu for cpu in cpus))


def _windows_mask() -> int:
    """The CPUs of this process, a bit each, on Windows; 0 elsewhere, and where it has those of several groups of 64."""
    if sys.platform == "win32":
        from repq_deploy.system import windows  # noqa: PLC0415 - of this system only

        return windows.affinity()
    return 0
