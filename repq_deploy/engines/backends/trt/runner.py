"""Running a TensorRT or TensorRT-RTX engine through CUDA's runtime API (the ``cuda-bindings`` package).

Polygraphy's runner, by its own words for debugging, would not do: ``docs/guides/nvidia-tools.md`` says what was tried.

https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.backends.trt.build import make_logger
from repq_deploy.engines.source import INPUT, OUTPUT
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.outputs import joined

__all__ = ["TrtSession"]


class TrtSession:
    """One engine on the first GPU. Calling it maps images [N, ...], float32 or uint8 as the engine has them, to its
    outputs float32 [N, numbers]."""

    def __init__(self, trt: Any, engine: bytes, *, backend: str, outputs: Sequence[str] = (OUTPUT,)) -> None:
        self._backend, self._outputs = backend, tuple(outputs)
        self._cuda = _cuda(backend)
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)  # has to outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:  # content and version were checked before: what does not fit is the device
            raise BackendMissing(f"backend {backend}: this GPU or driver cannot load the engine: {self._errors()}")
        found = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        names = (INPUT, *self._outputs)
        if found != set(names):
            expected = f"{', '.join(names[:-1])} and {names[-1]}"
            raise BadInput(f"engine: has the tensors {', '.join(sorted(found))}, expected {expected}")
        given, *results = (self._engine.get_tensor_dtype(name) for name in names)
        if given not in (trt.float32, trt.uint8) or any(one != trt.float32 for one in results):
            raise BadInput(
                "engine: images must be float32 or uint8, and outputs float32; build it with repq-build-engine"
            )
        self._images = np.dtype(np.uint8 if given == trt.uint8 else np.float32)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendMissing(f"backend {backend}: no memory for the engine on this GPU: {self._errors()}")

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        if images.dtype != self._images:
            raise BadInput(f"images in {images.dtype}: this engine takes {self._images}; build it again")
        cuda, context = self._cuda, self._context
        if not context.set_input_shape(INPUT, tuple(images.shape)):
            raise BadInput(f"images of shape {list(images.shape)}: outside the engine's profile: {self._errors()}")
        found = {name: np.empty(tuple(context.get_tensor_shape(name)), np.float32) for name in self._outputs}
        copy = cuda.cudaMemcpyKind
        with ExitStack() as resources:
            stream = resources.enter_context(self._stream())
            image_memory = resources.enter_context(self._memory(images.nbytes))
            memory = {name: resources.enter_context(self._memory(array.nbytes)) for name, array in found.items()}
            context.set_tensor_address(INPUT, image_memory)
            for name, address in memory.items():
                context.set_tensor_address(name, address)
            self._call("cudaMemcpy", image_memory, images.ctypes.data, images.nbytes, copy.cudaMemcpyHostToDevice)
            if not context.execute_async_v3(stream):
                raise BuildFailed(f"backend {self._backend}: the engine fails to run: {self._errors()}")
            self._call("cudaStreamSynchronize", stream)
            for name, array in found.items():
                self._call("cudaMemcpy", array.ctypes.data, memory[name], array.nbytes, copy.cudaMemcpyDeviceToHost)
        rows: NDArray[np.float32] = joined(list(found.values()))
        return rows

    @contextmanager
    def _memory(self, size: int) -> Iterator[int]:
        address = self._call("cudaMalloc", size)
        try:
            yield int(address)
        finally:
            self._cuda.cudaFree(address)

    @contextmanager
    def _stream(self) -> Iterator[int]:
        """A stream of its own: TensorRT synchronizes more on CUDA's default stream."""
        stream = self._call("cudaStreamCreate")
        try:
            yield int(stream)
        finally:
            self._cuda.cudaStreamDestroy(stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call the CUDA runtime; its functions return (status, value) or (status,)."""
        status, *values = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise BuildFailed(f"backend {self._backend}: {function} failed: {status.name}")
        return values[0] if values else None

    def _errors(self) -> str:
        return "; ".join(self._logger.errors) or "no reason given"


def _cuda(backend: str) -> Any:
    """The CUDA runtime's module, where there is a GPU it can use."""
    try:
        from cuda.bindings import runtime  # noqa: PLC0415 (only where an engine runs)
    except (ImportError, OSError) as error:
        raise BackendMissing(
            f"backend {backend}: cuda.bindings cannot be imported ({error}); run: pip install cuda-bindings"
        ) from error
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess or not count:
        raise BackendMissing(
            f"backend {backend}: no usable GPU here ({status.name}); run the engine on a machine with one, with its "
            ".json and .reference.npz beside it"
        )
    return runtime
