"""Memory: how much is free, asked before much of it is taken; how much this process has; keeping what it frees."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

from repq_deploy.errors import BadInput

__all__ = ["check_memory", "free_memory", "keep_freed_memory", "process_memory"]

_CGROUP = Path("/sys/fs/cgroup")

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def free_memory() -> int | None:
    """Bytes that can be had without swapping, on the machine and in its container; None where the system tells none."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
        found = int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return None
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return found if limit == "max" else min(found, max(int(limit) - int(used), 0))
    except (OSError, ValueError):
        return found


def check_memory(needed: int, what: str, advice: str) -> None:
    """Refuse what would take ``needed`` bytes, which are not there.

    Raises:
        BadInput: "``what``: takes 4.0 GB, 1.2 GB are free; ``advice``".
    """
    free = free_memory()
    if free is not None and needed > free:
        raise BadInput(f"{what}: takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; {advice}")


def process_memory() -> tuple[int, int] | None:
    """Bytes of this process that are resident, and the most that were so far; None where the system tells none.

    On macOS, where Python's library knows only the most, both are that.
    """
    if sys.platform == "win32":
        from repq_deploy.system import windows  # noqa: PLC0415 - of this system only

        return windows.memory()
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415 - not on Windows

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes there, in KiB on Linux
        return most, most
    # See proc_pid_status(5). On Linux getrusage's peak begins at that of the process that started this one.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        present, peak = (
            int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
            for kind in ("VmRSS", "VmHWM")
        )
    except (OSError, TypeError):
        return None
    return present, peak


def keep_freed_memory() -> None:
    """Let the process keep what it frees for its next tensors, for its lifetime. Without effect where the C library is
    not glibc.

    glibc gives each block of more than 32 MB back to the system when it is freed, and the system clears every page of
    the next one. Calibration makes and drops such tensors all the time: that was a third of its time for a ViT-S at 518
    pixels.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
