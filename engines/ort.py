"""ONNX Runtime on the CPU: the default backend, and the reference every engine is compared with.

Its "engine" is the lowered ONNX file. Optimizations and their exceptions: https://onnxruntime.ai/docs/performance/
model-optimizations/graph-optimizations.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repq_deploy.engines.batching import BatchedRunner, Profile, Runner
from repq_deploy.engines.source import INPUT, OUTPUT, SourceModel
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed

__all__ = ["BACKEND", "OnnxRuntimeBackend", "open_reference"]

_OPTIMIZATION = "optimization"
_DISABLED = "disabled_optimizers"


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """Builds and opens ``<name>.onnxruntime.engine``."""

    name: str = "onnxruntime"
    precisions: tuple[str, ...] = ("fp32",)
    portable: bool = True

    def version(self) -> str:
        return str(_onnxruntime().__version__)

    def target(self, targets: Sequence[str]) -> None:
        """Always None: the file runs on any CPU."""
        if targets:
            raise BadInput(f"--target {','.join(targets)}: backend {self.name} builds for any CPU; leave --target out")

    def session_options(self) -> dict[str, str]:
        """``MatMulAddFusion`` would turn a quantized MatMul with a bias into a Gemm that ONNX Runtime runs in float."""
        return {_OPTIMIZATION: "all", _DISABLED: "MatMulAddFusion"}

    def build(
        self,
        model: onnx.ModelProto,
        output: Path,
        *,
        profile: Profile,
        targets: Sequence[str],
        progress: Callable[[float, str], None],
    ) -> None:
        """Write ``model``; the session that validates it is what shows whether ONNX Runtime accepts it."""
        del profile, targets
        progress(0.0, "writing the lowered graph")
        output.write_bytes(model.SerializeToString(deterministic=True))

    def open(
        self,
        engine: bytes,
        *,
        profile: Profile,
        image_shape: tuple[int, ...],
        session: Mapping[str, str],
    ) -> Runner:
        return BatchedRunner(_session(engine, session, what="engine"), profile, image_shape)


BACKEND = OnnxRuntimeBackend()


def open_reference(source: SourceModel, *, data: bytes | None = None) -> Runner:
    """The canonical file itself, every node computed as it is written: no optimization may hide an error.

    ``data`` is run in place of the file: the same model with other constants.
    """
    run = _session(data or source.data, {_OPTIMIZATION: "none"}, what=f"model {source.path}")
    return BatchedRunner(run, Profile(), source.image_shape)


def _session(data: bytes, options: Mapping[str, str], *, what: str) -> Callable[[NDArray[np.float32]], Any]:
    ort = _onnxruntime()
    levels = {
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    if options.get(_OPTIMIZATION) not in levels:
        raise BadInput(f"session option {_OPTIMIZATION} {options.get(_OPTIMIZATION)!r}: expected all or none")
    session_options = ort.SessionOptions()
    session_options.graph_optimization_level = levels[options[_OPTIMIZATION]]
    session_options.log_severity_level = 3  # its warnings are about optimizations; errors are raised
    disabled = [name for name in options.get(_DISABLED, "").split(",") if name]
    try:
        session = ort.InferenceSession(
            data, session_options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise BuildFailed(f"{what}: ONNX Runtime {ort.__version__} refuses the graph: {_one_line(error)}") from error

    def run(images: NDArray[np.float32]) -> Any:
        try:
            return session.run([OUTPUT], {INPUT: images})[0]
        except Exception as error:
            raise BuildFailed(f"{what}: ONNX Runtime {ort.__version__} fails to run: {_one_line(error)}") from error

    return run


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415 (keeps the command's --help fast)
    except ImportError as error:
        raise BackendMissing(
            f"backend onnxruntime: cannot be imported ({error}); run: pip install onnxruntime"
        ) from error
    return onnxruntime
