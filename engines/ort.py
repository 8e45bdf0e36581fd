"""ONNX Runtime on the CPU: the default backend, and the reference every engine is compared with.

Its "engine" is the lowered ONNX file. Optimizations and their exceptions: https://onnxruntime.ai/docs/performance/
model-optimizations/graph-optimizations.html
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from repq_deploy.engines.batching import THREADS, BatchedRunner, Profile, Runner
from repq_deploy.engines.source import INPUT, OUTPUT, SourceModel
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed

__all__ = ["BACKEND", "OnnxRuntimeBackend", "open_onnx", "open_reference"]

_OPTIMIZATION = "optimization"
_DISABLED = "disabled_optimizers"
_EXACT = "exact_int8"

#: ``MatMulAddFusion`` would turn a quantized MatMul with a bias into a Gemm in float; the two others make kernels that
#: are slower than what they replace (1.31 on Zen 4, 197 tokens: 0.38 ms for a LayerNormalization of 0.04, 0.24 for a
#: Gelu of 0.10).
_HARMFUL = "MatMulAddFusion,SkipLayerNormFusion,BiasGeluFusion"


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
        """The optimizations that serve the lowered graph, and integer kernels that cannot saturate."""
        return {_OPTIMIZATION: "all", _DISABLED: _HARMFUL, _EXACT: "1"}

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

    def run_graph(
        self, model: onnx.ModelProto, inputs: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """All outputs of a lowered graph, with the engine's kernels."""
        session = _load(model.SerializeToString(), self.session_options(), what="lowered graph")
        names = [output.name for output in model.graph.output]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        image_shape: tuple[int, ...],
        session: Mapping[str, str],
    ) -> Runner:
        model = str(engine) if isinstance(engine, Path) else engine
        return BatchedRunner(_session(model, session, what="engine"), profile, image_shape)


BACKEND = OnnxRuntimeBackend()


def open_reference(source: SourceModel, *, data: bytes | None = None) -> Runner:
    """The canonical file itself, every node computed as it is written: no optimization may hide an error.

    ``data`` is run in place of the file: the same model with other constants.
    """
    # Weights in a second file are found by the path of the first.
    own = source.data if source.weights is None else str(source.path)
    run = _session(data or own, {_OPTIMIZATION: "none"}, what=f"model {source.path}")
    return BatchedRunner(run, Profile(), source.image_shape)


def open_onnx(
    path: Path, *, threads: int | None
) -> tuple[Callable[[NDArray[np.float32]], Any], tuple[int | str | None, ...], tuple[int | str | None, ...]]:
    """Any ONNX file of one input, with ONNX Runtime's own optimizations: what runs it, and the shapes of its input and
    of its first output.

    Raises:
        BadInput: it has more inputs than one, or another type than float32.
    """
    options = {_OPTIMIZATION: "all"} | ({} if threads is None else {THREADS: str(threads)})
    session = _load(str(path), options, what=f"model {path}")
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{one.name} {one.type}" for one in inputs)
        raise BadInput(f"model {path}: has the inputs {found}; expected one, images in float32")
    output = session.get_outputs()[0]
    run = _runner(session, inputs[0].name, output.name, what=f"model {path}")
    return run, tuple(inputs[0].shape), tuple(output.shape)


def _session(data: bytes | str, options: Mapping[str, str], *, what: str) -> Callable[[NDArray[np.float32]], Any]:
    return _runner(_load(data, options, what=what), INPUT, OUTPUT, what=what)


def _runner(session: Any, name: str, output: str, *, what: str) -> Callable[[NDArray[np.float32]], Any]:
    def run(images: NDArray[np.float32]) -> Any:
        try:
            return session.run([output], {name: images})[0]
        except Exception as error:
            version = _onnxruntime().__version__
            said = f"{what}: ONNX Runtime {version} fails to run a batch of {len(images)}: {_one_line(error)}"
            raise BuildFailed(said) from error

    return run


def _load(model: bytes | str, options: Mapping[str, str], *, what: str) -> Any:
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
    if THREADS in options:
        session_options.intra_op_num_threads = int(options[THREADS])
    if options.get(_EXACT) == "1" and not _sums_in_32_bits():
        session_options.add_session_config_entry("session.x64quantprecision", "1")
    disabled = [name for name in options.get(_DISABLED, "").split(",") if name]
    try:
        return ort.InferenceSession(
            model, session_options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        raise BuildFailed(f"{what}: ONNX Runtime {ort.__version__} refuses the graph: {_one_line(error)}") from error


def _sums_in_32_bits() -> bool:
    """Whether this CPU multiplies bytes without saturating: VNNI, or not x86.

    Without it ONNX Runtime can multiply unsigned bytes only, more slowly; it would do so on CPUs with VNNI as well.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    try:
        cpu = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False  # not Linux: slower, and right everywhere
    return "avx512_vnni" in cpu or "avx_vnni" in cpu


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
