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

from repq_deploy.engines.backends import ForeignFormat
from repq_deploy.engines.backends._cpu import CpuBackend
from repq_deploy.engines.backends._triton import TritonBackend
from repq_deploy.engines.batching import THREADS, BatchedRunner, GraphRunner, Profile, Runner
from repq_deploy.engines.source import INPUT, OUTPUT, SourceModel
from repq_deploy.errors import BadInput, BuildFailed
from repq_deploy.export.lowering import Lowering
from repq_deploy.export.onnx_session import onnxruntime_module, open_session
from repq_deploy.export.opsets import oldest_onnxruntime
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.float_code_products import FloatCodeProducts
from repq_deploy.export.passes.fused_attention import FusedAttention
from repq_deploy.export.passes.integer_products import IntegerProducts
from repq_deploy.export.passes.log2_by_log_softmax import Log2ByLogSoftmax
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.patch_product import PatchProduct
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves
from repq_deploy.export.passes.root_mean_square import RootMeanSquare
from repq_deploy.export.passes.rotary_embedding import RotaryEmbedding
from repq_deploy.export.passes.separate_projections import SeparateProjections
from repq_deploy.export.passes.table_plain_ops import TablePlainOps
from repq_deploy.export.passes.token_gather import TokenGather
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from repq_deploy.export.passes.unsaturated_products import UnsaturatedProducts
from repq_deploy.export.passes.unsigned_codes import UnsignedCodes
from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import joined
from repq_deploy.system.leftovers import check_room, temporary_folder

__all__ = ["BACKEND", "OnnxRuntimeBackend", "open_onnx", "open_reference"]

_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeBackend(CpuBackend):
    """Builds and opens ``<name>.onnxruntime.engine``."""

    def version(self) -> str:
        return str(onnxruntime_module().__version__)

    def passes(self, lowering: Lowering) -> list[Pass]:
        """Bytes where the canonical graph has Q/DQ, each product in the integer kernel, in the layout it is needed."""
        self.check_single(lowering)
        passes: list[Pass] = [
            UnpackInt4(),
            TokenGather(),
            SeparateProjections(),
            RotaryEmbedding(),
            RootMeanSquare(),
            UnsignedCodes(),
            PatchProduct(),
            Log2ByLogSoftmax(),
            FusedAttention(),
            QuantizeBeforeMoves(),
            IntegerProducts(),
            TablePlainOps(),
            Log2PlainOps(),
        ]
        if lowering.sums_in_16_bits:
            passes.append(UnsaturatedProducts())
        return [*passes, FloatCodeProducts(sums_in_16_bits=lowering.sums_in_16_bits)]

    def saturates(self) -> bool:
        return _saturates()

    def oldest_runtime(self, model: onnx.ModelProto) -> str | None:
        return oldest_onnxruntime(model)

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
        images: ImageInput,
        session: Mapping[str, str],
        outputs: Sequence[str] = (OUTPUT,),
    ) -> Runner:
        model = str(engine) if isinstance(engine, Path) else engine
        opened = open_session(model, optimize=True, threads=_threads(session), what="engine")
        return BatchedRunner(_runner(opened, INPUT, outputs, what="engine"), profile, images)


def open_reference(source: SourceModel, *, data: bytes | None = None) -> Runner:
    """The canonical file itself, every node computed as it is written: no optimization may hide an error.

    ``data`` is run in place of the file: the same model with other constants.
    """
    # Weights in a second file are found by the path of the first.
    own = source.data if source.weights is None else str(source.path)
    what = f"model {source.path}"
    return BatchedRunner(
        _runner(open_session(data or own, optimize=False, what=what), INPUT, source.named.names, what=what),
        Profile(),
        source.input,
    )


def open_onnx(
    path: Path, *, threads: int | None
) -> tuple[Callable[[NDArray[Any]], Any], str, tuple[int | str | None, ...], tuple[int | str | None, ...]]:
    """Any ONNX file of one input, with ONNX Runtime's own optimizations: what runs it, the type of its input, and the
    shapes of its input and of its first output.

    Raises:
        BadInput: it has more inputs than one, or another type than float32 and uint8.
    """
    session = open_session(str(path), optimize=True, threads=threads, what=f"model {path}")
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _TYPES:
        found = ", ".join(f"{one.name} {one.type}" for one in inputs)
        raise BadInput(f"model {path}: has the inputs {found}; expected one, images in float32 or uint8")
    output = session.get_outputs()[0]
    run = _runner(session, inputs[0].name, [output.name], what=f"model {path}")
    return run, _TYPES[inputs[0].type], tuple(inputs[0].shape), tuple(output.shape)


def _threads(session: Mapping[str, str]) -> int | None:
    return int(session[THREADS]) if THREADS in session else None


def _runner(session: Any, name: str, outputs: Sequence[str], *, what: str) -> Callable[[NDArray[Any]], Any]:
    def run(images: NDArray[Any]) -> Any:
        try:
            return joined(session.run(list(outputs), {name: images}))
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


#: One instance that has all cores. No option besides: an engine needs none, and no level of optimization, to give the
#: proven codes. https://github.com/triton-inference-server/onnxruntime_backend
_TRITON = TritonBackend(
    name="onnxruntime",
    file="model.onnx",
    parameters={"intra_op_thread_count": "0", "inter_op_thread_count": "1", "execution_mode": "0"},
)
_TRITON_PYTHON = TritonBackend(
    name="python", file="engine.onnx", parameters={"intra_op_thread_count": "0"}, program="python_model.py"
)

BACKEND = OnnxRuntimeBackend(
    name="onnxruntime",
    modules=("onnxruntime",),
    preference=1,
    foreign=ForeignFormat(".onnx", "ONNX", open_onnx, lambda path: path.with_name(f"{path.name}.data")),
    triton=(_TRITON, _TRITON_PYTHON),
)
