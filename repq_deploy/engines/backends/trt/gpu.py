"""Which NVIDIA GPU is here, asked of the driver itself: milliseconds, where importing torch takes seconds.

The calls are those of the CUDA driver API: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["gpu_target"]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR}


def gpu_target() -> str | None:
    """The first GPU's target, for example ``sm89``; None without a GPU."""
    driver = _driver()
    device = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    version = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int(0)
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
        version.append(str(value.value))
    return "sm" + "".join(version)


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None
