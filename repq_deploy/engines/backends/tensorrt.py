"""TensorRT: builds on the GPU the engine is for, from data-center GPUs to Jetson.

https://docs.nvidia.com/deeplearning/tensorrt/
"""

from __future__ import annotations

from repq_deploy.engines.backends._triton import GPU_DELAY_US, TritonBackend
from repq_deploy.engines.backends.trt.backend import TrtBackend

__all__ = ["BACKEND"]

BACKEND = TrtBackend(
    name="tensorrt",
    modules=("tensorrt",),
    install="repq-deploy[tensorrt]",
    builds_for_this_gpu=True,
    preference=2,
    triton=(TritonBackend(name="tensorrt", file="model.plan", kind="KIND_GPU", delay_us=GPU_DELAY_US),),
)
