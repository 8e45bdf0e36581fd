"""How much memory is free, asked before much of it is taken."""

from __future__ import annotations

import re
from pathlib import Path

from repq_deploy.errors import BadInput

__all__ = ["check_memory", "free_memory"]

_CGROUP = Path("/sys/fs/cgroup")


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
