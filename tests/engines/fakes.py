"""A TensorRT module and a CUDA runtime that do on the CPU what the runner and the builder need of them.

Device memory is host memory, and a fake engine is the bytes of an ONNX model, run by ONNX Runtime at the addresses that
the runner sets. So wrong names, shapes, sizes or chunks give wrong numbers, as they would on a GPU.
"""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class Status(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815 (CUDA's names)
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815


class FakeCuda:
    """``cuda.bindings.runtime``. ``live`` holds what is allocated and not yet freed."""

    cudaError_t = Status  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, *, devices: int = 1, memory: int = 1 << 20) -> None:
        self.devices, self.memory = devices, memory
        self.live: dict[int, Any] = {}

    def cudaGetDeviceCount(self) -> tuple[Status, int | None]:  # noqa: N802
        return (Status.cudaSuccess, self.devices) if self.devices else (Status.cudaErrorInsufficientDriver, None)

    def cudaMalloc(self, size: int) -> tuple[Status, int | None]:  # noqa: N802
        if size > self.memory:
            return Status.cudaErrorMemoryAllocation, None
        buffer = ctypes.create_string_buffer(size)
        self.live[ctypes.addressof(buffer)] = buffer
        return Status.cudaSuccess, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[Status]:  # noqa: N802
        del self.live[address]
        return (Status.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[Status, int]:  # noqa: N802
        self.live[7] = "stream"
        return Status.cudaSuccess, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:  # noqa: N802
        assert self.live[stream] == "stream"
        return (Status.cudaSuccess,)

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:  # noqa: N802
        del self.live[stream]
        return (Status.cudaSuccess,)

    def cudaMemcpy(self, to: int, source: int, size: int, kind: int) -> tuple[Status]:  # noqa: N802
        device = to if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert ctypes.sizeof(self.live[device]) == size
        ctypes.memmove(to, source, size)
        return (Status.cudaSuccess,)


class FakeContext:
    def __init__(self, model: bytes, largest: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.largest = largest
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        self.shape = shape
        return shape[0] <= self.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shapes = {output.name: output.shape for output in self.session.get_outputs()}
        return (self.shape[0], *shapes[name][1:]) if name in shapes else self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        kind = ctypes.c_uint8 if self.session.get_inputs()[0].type == "tensor(uint8)" else ctypes.c_float
        images = self._at("images", kind)
        for output in self.session.get_outputs():
            self._at(output.name)[...] = self.session.run([output.name], {"images": images})[0]
        return True

    def _at(self, name: str, kind: Any = ctypes.c_float) -> np.ndarray:
        pointer = ctypes.cast(self.addresses[name], ctypes.POINTER(kind))
        return np.ctypeslib.as_array(pointer, self.get_tensor_shape(name))


def fake_tensorrt(
    *, largest: int = 4, loads: bool = True, tensors: tuple[str, ...] = ("images", "logits"), images: Any = np.float32
) -> Any:
    """A module that deserializes an ONNX model as an engine for batches up to ``largest`` of ``images``."""

    class Logger:
        ERROR, INTERNAL_ERROR = 1, 0

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, engine: bytes) -> Any:
            if not loads:
                self.logger.log(Logger.ERROR, "the engine is for\nanother compute capability")
                return None
            return SimpleNamespace(
                num_io_tensors=len(tensors),
                get_tensor_name=lambda index: tensors[index],
                get_tensor_dtype=lambda name: images if name == "images" else np.float32,
                create_execution_context=lambda: FakeContext(engine, largest),
            )

    return SimpleNamespace(ILogger=Logger, Runtime=Runtime, float32=np.float32, uint8=np.uint8, __version__="11.0.0")
