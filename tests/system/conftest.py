"""A kernel32 that answers as Windows documents it, for what cannot be run here."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from repq_deploy import system


class Kernel32:
    """Functions by name, as ctypes has them: each takes ``argtypes`` and ``restype``."""

    def __init__(self) -> None:
        self.mask = 0b101101
        self.stdin_open = [True, True, False]

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            return getattr(type(self), f"do_{name}")(self, *arguments)

        setattr(self, name, call)
        return call

    def do_GetCurrentProcess(self) -> int:  # noqa: N802 - Windows' names
        return 0xFFFFFFFF_FFFFFFFF

    def do_GetProcessAffinityMask(self, process: int, own: Any, system: Any) -> int:  # noqa: N802
        assert process == self.do_GetCurrentProcess()
        own._obj.value, system._obj.value = self.mask, 0b111111
        return 1

    def do_SetProcessAffinityMask(self, process: int, mask: int) -> int:  # noqa: N802
        assert process == self.do_GetCurrentProcess()
        self.mask = mask
        return 1

    def do_K32GetProcessMemoryInfo(self, process: int, counters: Any, size: int) -> int:  # noqa: N802
        assert size == ctypes.sizeof(counters._obj) == 72  # of PROCESS_MEMORY_COUNTERS, 64 bits
        counters._obj.WorkingSetSize, counters._obj.PeakWorkingSetSize = 3_000_000, 8_000_000
        return 1

    def do_PeekNamedPipe(self, handle: int, *others: object) -> int:  # noqa: N802
        assert (handle, others) == (1000, (None, 0, None, None, None))
        return int(self.stdin_open.pop(0))


@pytest.fixture
def kernel32(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel32]:
    """This system as Windows, without what Linux alone has to pin a process."""
    kernel = Kernel32()
    monkeypatch.setattr(ctypes, "WinDLL", lambda name, **_: kernel, raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda number: 1000 + number))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delitem(sys.modules, "repq_deploy.system.windows", raising=False)
    monkeypatch.delattr(system, "windows", raising=False)
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    yield kernel
    # It is bound to this kernel: whoever comes next imports it again.
    sys.modules.pop("repq_deploy.system.windows", None)
    if hasattr(system, "windows"):
        del system.windows
