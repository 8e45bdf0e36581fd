"""TensorRT-RTX: builds on any machine, without a GPU, for the RTX generations it is told; runs on those.

https://docs.nvidia.com/deeplearning/tensorrt-rtx/
"""

from __future__ import annotations

from repq_deploy.engines.backends.trt.backend import TrtBackend

__all__ = ["BACKEND"]

BACKEND = TrtBackend(
    name="tensorrt-rtx",
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    install="repq-deploy[tensorrt-rtx]",
    preference=1,
    default_targets=("sm80", "sm86", "sm89", "sm120", "sm121"),  # "8.0, 8.6, 8.9, 12.0 and later"
    no_triton="Triton's backend tensorrt loads plans of TensorRT, and no backend of Triton those of TensorRT-RTX; "
    "use --backend tensorrt, on a GPU as the one that serves",
)
