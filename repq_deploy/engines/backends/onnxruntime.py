"""ONNX Runtime on the CPU: the default backend, and the reference every engine is compared with.

Its "engine" is the lowered ONNX file. It needs no option of a session: any client of ONNX Runtime opens it with the
defaults and gets the same codes at the same speed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from repq_deploy.engines.batching import THREADS, BatchedRunner, GraphRunner, Profile, Runner
from repq_deploy.engines.source import INPUT, OUTPUT, SourceModel
from repq_deploy.errors import BadInput, BuildFailed
from repq_deploy.export.onnx_session import onnxruntime_module, open_session
from repq_deploy.system.leftovers import check_room, temporary_folder

__all__ = ["BACKEND", "OnnxRuntimeBackend", "open_onnx", "open_reference"]


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """Builds and opens ``<name>.onnxruntime.engine``."""

    name: str = "onnxruntime"
    precisions: tuple[str, ...] = ("fp32",)
    portable: bool = True

    def version(self) -> str:
        return str(onnxruntime_module().__version__)

    def target(self, targets: Sequence[str]) -> None:
        """Always None: it is not for GPUs."""
        if targets:
            raise BadInput(f"--target {','.join(targets)}: backend {self.name} builds for CPUs; use --cpu")

    def saturates(self) -> bool:
        return _saturates()

    def session_options(self) -> dict[str, str]:
        return {}

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

    def served_graph(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """``model`` as a session with default options optimizes it and runs it."""
        with temporary_folder() as folder:
            saved, data = folder / "optimized.onnx", model.SerializeToString()
            check_room(folder, 2 * len(data))
            open_session(data, optimize=True, save_optimized=saved, what="lowered graph")
            return onnx.load(saved)

    def load_graph(self, model: onnx.ModelProto) -> GraphRunner:
        """What computes all outputs of a graph that ``served_graph`` gave, by the kernels that it names."""
        session = open_session(model.SerializeToString(), optimize=False, what="optimized graph")
        names = [output.name for output in model.graph.output]
        return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))

    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        image_shape: tuple[int, ...],
        session: Mapping[str, str],
    ) -> Runner:
        model = str(engine) if isinstance(engine, Path) else engine
        opened = open_session(model, optimize=True, threads=_threads(session), what="engine")
        return BatchedRunner(_runner(opened, INPUT, OUTPUT, what="engine"), profile, image_shape)


BACKEND = OnnxRuntimeBackend()


def open_reference(source: SourceModel, *, data: bytes | None = None) -> Runner:
    """The canonical file itself, every node computed as it is written: no optimization may hide an error.

    ``data`` is run in place of the file: the same model with other constants.
    """
    # Weights in a second file are found by the path of the first.
    own = source.data if source.weights is None else str(source.path)
    what = f"model {source.path}"
    return BatchedRunner(
        _runner(open_session(data or own, optimize=False, what=what), INPUT, OUTPUT, what=what),
        Profile(),
        source.image_shape,
    )


def open_onnx(
    path: Path, *, threads: int | None
) -> tuple[Callable[[NDArray[np.float32]], Any], tuple[int | str | None, ...], tuple[int | str | None, ...]]:
    """Any ONNX file of one input, with ONNX Runtime's own optimizations: what runs it, and the shapes of its input and
    of its first output.

    Raises:
        BadInput: it has more inputs than one, or another type than float32.
    """
    session = open_session(str(path), optimize=True, threads=threads, what=f"model {path}")
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{one.name} {one.type}" for one in inputs)
        raise BadInput(f"model {path}: has the inputs {found}; expected one, images in float32")
    output = session.get_outputs()[0]
    run = _runner(session, inputs[0].name, output.name, what=f"model {path}")
    return run, tuple(inputs[0].shape), tuple(output.shape)


def _threads(session: Mapping[str, str]) -> int | None:
    return int(session[THREADS]) if THREADS in session else None


def _runner(session: Any, name: str, output: str, *, what: str) -> Callable[[NDArray[np.float32]], Any]:
    def run(images: NDArray[np.float32]) -> Any:
        try:
            return session.run([output], {name: images})[0]
        except Exception as error:
            version = onnxruntime_module().__version__
            said = " ".join(str(error).split())
            raise BuildFailed(
                f"{what}: ONNX Runtime {version} fails to run a batch of {len(images)}: {said}"
            ) from error

    return run


@functools.cache
def _saturates() -> bool:
    """Whether its kernel of unsigned by signed bytes saturates on this CPU: asked of the kernel itself, which holds on
    every operating system and under emulators."""
    depth, columns = 64, 32
    largest = (np.full((depth, columns), 127, np.int8), np.zeros((), np.uint8), np.zeros((), np.int8))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "a_zero", "b_zero"], ["sums"])],
        "probe",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [4, depth])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [4, columns])],
        [numpy_helper.from_array(array, name) for array, name in zip(largest, ("b", "a_zero", "b_zero"), strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = open_session(model.SerializeToString(), optimize=True, what="probe of the CPU")
    (sums,) = session.run(None, {"a": np.full((4, depth), 255, np.uint8)})
    return bool((sums != 255 * 127 * depth).any())
