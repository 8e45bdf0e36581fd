"""One TensorRT-RTX or TensorRT engine on the first GPU: its results, its time, its layers."""

from __future__ import annotations

import importlib
import json
import time
from typing import Any, Protocol

import numpy as np

__all__ = ["Runner", "TensorRTRunner"]

WARM_UP_SECONDS = 1.0


class Runner(Protocol):
    """One loaded engine."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Logits [N, classes] of images [N, 3, H, W], float32."""

    def milliseconds(self, images: np.ndarray, runs: int) -> list[float]:
        """The time of each of ``runs`` launches of the CUDA graph for this batch, after warming up."""

    def layers(self) -> list[dict[str, Any]]:
        """The inspector's layers; empty where the runtime tells none."""


class TensorRTRunner:
    """An engine on the first GPU. Raises RuntimeError with TensorRT's own words."""

    def __init__(self, engine: bytes, backend: str) -> None:
        names = ("tensorrt_rtx", "tensorrt_rtx_bindings") if backend == "tensorrt-rtx" else ("tensorrt",)
        self.trt = _first_module(names)
        self.cuda = importlib.import_module("cuda.bindings.runtime")
        self.errors: list[str] = []
        self.logger = self._logger()
        self.runtime = self.trt.Runtime(self.logger)
        self._cuda("cudaSetDevice", 0)
        self.engine = self._not_none(self.runtime.deserialize_cuda_engine(engine), "deserialize_cuda_engine")
        self.context = self._not_none(self.engine.create_execution_context(), "create_execution_context")
        self.stream = self._cuda("cudaStreamCreate")
        self.buffers: dict[str, tuple[int, int]] = {}

    def run(self, images: np.ndarray) -> np.ndarray:
        logits = self._bind(images)
        if not self.context.execute_async_v3(int(self.stream)):
            raise RuntimeError(f"execute_async_v3: {self._said()}")
        self._cuda("cudaStreamSynchronize", self.stream)
        to_host = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda("cudaMemcpy", logits.ctypes.data, self.buffers["logits"][0], logits.nbytes, to_host)
        return logits

    def milliseconds(self, images: np.ndarray, runs: int) -> list[float]:
        self.run(images)  # a first run outside the graph: TensorRT-RTX compiles its kernels in it
        mode = self.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self.stream, mode)
        if not self.context.execute_async_v3(int(self.stream)):
            raise RuntimeError(f"execute_async_v3 while a CUDA graph is captured: {self._said()}")
        graph = self._cuda("cudaStreamEndCapture", self.stream)
        launch = self._cuda("cudaGraphInstantiate", graph, 0)
        start, end = self._cuda("cudaEventCreate"), self._cuda("cudaEventCreate")

        def once() -> float:
            self._cuda("cudaEventRecord", start, self.stream)
            self._cuda("cudaGraphLaunch", launch, self.stream)
            self._cuda("cudaEventRecord", end, self.stream)
            self._cuda("cudaEventSynchronize", end)
            return float(self._cuda("cudaEventElapsedTime", start, end))

        until = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < until:
            once()
        return [once() for _ in range(runs)]

    def layers(self) -> list[dict[str, Any]]:
        inspector = self.engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON) or "{}")
        return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in told.get("Layers", [])]

    def _bind(self, images: np.ndarray) -> np.ndarray:
        if not self.context.set_input_shape("images", tuple(images.shape)):
            raise RuntimeError(f"set_input_shape {images.shape}: {self._said()}")
        logits = np.empty(tuple(self.context.get_tensor_shape("logits")), np.float32)
        for name, array in (("images", images), ("logits", logits)):
            address, size = self.buffers.get(name, (0, 0))
            if size < array.nbytes:
                if size:
                    self._cuda("cudaFree", address)
                address = int(self._cuda("cudaMalloc", array.nbytes))
                self.buffers[name] = (address, array.nbytes)
            self.context.set_tensor_address(name, address)
        to_device = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda("cudaMemcpy", self.buffers["images"][0], images.ctypes.data, images.nbytes, to_device)
        return logits

    def _cuda(self, function: str, *arguments: Any) -> Any:
        status, *values = getattr(self.cuda, function)(*arguments)
        if int(status) != 0:
            raise RuntimeError(f"{function}: {status.name}")
        return values[0] if values else None

    def _not_none(self, value: Any, what: str) -> Any:
        if value is None:
            raise RuntimeError(f"{what}: {self._said()}")
        return value

    def _said(self) -> str:
        return "; ".join(self.errors) or "no reason given"

    def _logger(self) -> Any:
        trt, errors = self.trt, self.errors

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    errors.append(" ".join(message.split()))

        return Logger()


def _first_module(names: tuple[str, ...]) -> Any:
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(names[-1])
