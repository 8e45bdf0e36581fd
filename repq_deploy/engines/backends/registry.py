"""The backends by name, and which of them to take when the user names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import onnx

from repq_deploy.engines.backends import onnxruntime as ort
from repq_deploy.engines.backends import openvino, tensorrt, tensorrt_rtx
from repq_deploy.engines.backends.trt.gpu import gpu_target
from repq_deploy.engines.batching import GraphRunner, Profile, Runner
from repq_deploy.errors import BadInput

__all__ = ["BACKENDS", "Backend", "backend_named", "choose_backend"]


class Backend(Protocol):
    """A runtime that engines are built for.

    ``precisions`` are those it computes around Q/DQ, its default first. ``portable`` engines are ONNX files that load
    in any version of the runtime, on CPUs.
    """

    @property
    def name(self) -> str: ...

    @property
    def precisions(self) -> tuple[str, ...]: ...

    @property
    def portable(self) -> bool: ...

    def version(self) -> str:
        """The runtime's version; BackendMissing where it is not installed."""

    def target(self, targets: Sequence[str]) -> str | None:
        """The target to record for the targets asked for; BadInput for one it cannot build for."""

    def saturates(self) -> bool:
        """Whether its products of unsigned by signed bytes saturate on this machine, as on x86 without VNNI."""

    def session_options(self) -> dict[str, str]:
        """What ``open`` needs, beyond the runtime's defaults, to run the engine as it was validated."""

    def build(
        self,
        model: onnx.ModelProto,
        output: Path,
        *,
        profile: Profile,
        targets: Sequence[str],
        progress: Callable[[float, str], None],
    ) -> None:
        """Write the engine of a lowered model to ``output``; BuildFailed where the builder refuses or crashes."""

    def served_graph(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The graph that is run when ``model`` is opened, where the runtime shows it, else ``model``; only of
        ``portable`` backends."""

    def load_graph(self, model: onnx.ModelProto) -> GraphRunner:
        """What runs a graph that ``served_graph`` gave, by the kernels that serve; only of ``portable`` backends."""

    def open(
        self, engine: bytes | Path, *, profile: Profile, image_shape: tuple[int, ...], session: Mapping[str, str]
    ) -> Runner:
        """Load an engine; BackendMissing without the device it runs on."""


BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (ort.BACKEND, openvino.BACKEND, tensorrt_rtx.BACKEND, tensorrt.BACKEND)
}


def backend_named(name: str) -> Backend:
    """The backend called ``name``."""
    if name not in BACKENDS:
        raise BadInput(f"backend {name!r}: expected one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def choose_backend() -> tuple[Backend, str]:
    """The backend whose engine this machine can also run, so that the build ends in a verdict; and why."""
    gpu = gpu_target()
    if gpu is None:
        return ort.BACKEND, "no GPU is here; for one elsewhere: --backend tensorrt-rtx"
    for backend in (tensorrt.BACKEND, tensorrt_rtx.BACKEND):
        if backend.is_installed() and backend.builds_for(gpu):
            return backend, f"{backend.name} is installed and builds for the GPU that is here, {gpu}"
    return ort.BACKEND, f"no TensorRT that builds for the GPU here, {gpu}, is installed; it runs on any CPU"
