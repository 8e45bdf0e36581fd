"""Opening a session of ONNX Runtime: the one rule for it, whoever opens one.

A file is opened as any other client would: the runtime's own defaults, on the CPU. The only choice is whether it may
optimize the graph. What is opened without optimizations is run node by node, as it is written: that is the reference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repq_deploy.errors import BackendMissing, BuildFailed

if TYPE_CHECKING:
    import onnx

__all__ = ["onnxruntime_module", "open_session", "reference_session"]


def open_session(
    model: bytes | str,
    *,
    optimize: bool,
    threads: int | None = None,
    save_optimized: Path | None = None,
    what: str = "model",
) -> Any:
    """A session of ``model``, the bytes of an ONNX file or its path; ``what`` names it in errors.

    Args:
        threads: within an operator; None leaves their number to the runtime.
        save_optimized: where the session writes the graph that it runs.

    Raises:
        BackendMissing: ONNX Runtime is not installed.
        BuildFailed: it refuses the graph.
    """
    ort = onnxruntime_module()
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings are about optimizations; errors are raised
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        said = " ".join(str(error).split())
        raise BuildFailed(f"{what}: ONNX Runtime {ort.__version__} refuses the graph: {said}") from error


def reference_session(model: onnx.ModelProto | str) -> Any:
    """The reference: ONNX Runtime on the CPU with every graph optimization off, so nothing is fused or reordered."""
    return open_session(model if isinstance(model, str) else model.SerializeToString(), optimize=False)


def onnxruntime_module() -> Any:
    """The module, imported on first use, as it takes a while; BackendMissing where it is not installed."""
    # Since 1.29 its Linux builds send the names and hashes of models to Microsoft, and keep a number for the machine in
    # the home folder, unless this is set before they are loaded; who wants that can set it to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise BackendMissing(
            f"backend onnxruntime: cannot be imported ({error}); run: pip install onnxruntime"
        ) from error
    return onnxruntime
