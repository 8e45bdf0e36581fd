"""What Windows alone has to be asked in its own way: which CPUs and how much memory a process has, and its stdin."""

from __future__ import annotations

import ctypes
import sys

assert sys.platform == "win32"  # noqa: S101 - imported there only, and type checkers read on only there

import msvcrt  # noqa: E402

__all__ = ["affinity", "memory", "set_affinity", "stdin_is_open"]

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel.GetCurrentProcess.restype = ctypes.c_void_p
_kernel.GetProcessAffinityMask.argtypes = (
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.POINTER(ctypes.c_size_t),
)
_kernel.SetProcessAffinityMask.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
_kernel.PeekNamedPipe.argtypes = (
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        ("cb", ctypes.c_uint32),
        ("PageFaultCount", ctypes.c_uint32),
        ("PeakWorkingSetSize", ctypes.c_size_t),
        ("WorkingSetSize", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 6),
    )


def affinity() -> int:
    """The CPUs of this process, a bit each; 0 where it has those of several groups of 64."""
    own, system = ctypes.c_size_t(), ctypes.c_size_t()
    if not _kernel.GetProcessAffinityMask(_kernel.GetCurrentProcess(), ctypes.byref(own), ctypes.byref(system)):
        raise ctypes.WinError(ctypes.get_last_error())
    return own.value


def set_affinity(mask: int) -> None:
    """Let this process run on the CPUs of ``mask`` only."""
    if not _kernel.SetProcessAffinityMask(_kernel.GetCurrentProcess(), mask):
        raise ctypes.WinError(ctypes.get_last_error())


def memory() -> tuple[int, int]:
    """Bytes of this process that are resident, and the most that were so far."""
    found = _Counters(cb=ctypes.sizeof(_Counters))
    if not _kernel.K32GetProcessMemoryInfo(_kernel.GetCurrentProcess(), ctypes.byref(found), found.cb):
        raise ctypes.WinError(ctypes.get_last_error())
    return found.WorkingSetSize, found.PeakWorkingSetSize


def stdin_is_open() -> bool:
    """Whether stdin, a pipe, has somebody at its other end. Nothing is read, and nothing waited for."""
    return bool(_kernel.PeekNamedPipe(msvcrt.get_osfhandle(0), None, 0, None, None, None))
