"""OpenVINO on x86 CPUs: usually the fastest CPU runtime for an int8 model where they have VNNI.

Its "engine" is the lowered ONNX file, which ``openvino.Core().compile_model(path)`` opens by itself: OpenVINO tells an
ONNX file by its content. One property it cannot carry: on CPUs with bfloat16 OpenVINO computes in it around the
integers unless INFERENCE_PRECISION_HINT is f32 (tried with 2026.4: neither an ONNX file nor ``rt_info`` of an IR sets
it). The manifest's ``session`` and the file's metadata say so.
"""

from __future__ import annotations

import functools
from collections import Counter
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
from repq_deploy.engines.source import INPUT, OUTPUT
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.export.lowering import Lowering
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.float_code_products import FloatCodeProducts
from repq_deploy.export.passes.log2_by_log_sum_exp import Log2ByLogSumExp
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.table_plain_ops import TablePlainOps
from repq_deploy.export.passes.unpack_int4 import UnpackInt4
from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import joined

__all__ = ["BACKEND", "OpenVinoBackend", "open_ir", "product_kernels"]

#: The layers of OpenVINO's CPU plugin that multiply. A fused attention subgraph counts as what its inputs are.
_PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
_INTEGERS = ("i8", "u8")
#: Of images.
_TYPES = {"f32": "float32", "u8": "uint8"}

#: On CPUs with bfloat16 OpenVINO would compute in it around the integers; float32 is what was validated.
_SESSION = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True, kw_only=True)
class OpenVinoBackend(CpuBackend):
    """Builds and opens ``<name>.openvino.engine``."""

    no_gain_where_saturated: tuple[str, str] | None = (
        "this CPU has no VNNI, and OpenVINO gains nothing from bytes there: deit_s, with VNNI hidden, was measured at "
        "0.81 to 0.98 times float's speed",
        "--backend onnxruntime, which was measured at 1.15 to 1.68 times",
    )

    def version(self) -> str:
        return str(_openvino().__version__).split("-", 1)[0]

    def passes(self, lowering: Lowering) -> list[Pass]:
        """OpenVINO's own transformations fuse attention of the canonical form; one product for each of q, k and v stops
        them. It has no kernel of two unsigned factors: what could saturate is multiplied in float."""
        self.check_single(lowering)
        products = FloatCodeProducts(sums_in_16_bits=lowering.sums_in_16_bits)
        return [UnpackInt4(), Log2ByLogSumExp(), TablePlainOps(), Log2PlainOps(), products]

    def saturates(self) -> bool:
        return _saturates()

    def session_options(self) -> dict[str, str]:
        return dict(_SESSION)

    def served_graph(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """``model`` itself: OpenVINO does not give out what it compiles it to."""
        return model

    def load_graph(self, model: onnx.ModelProto) -> GraphRunner:
        """What computes all outputs of a lowered graph, with the kernels that an engine of it has."""
        compiled = _compile(model.SerializeToString(deterministic=True), self.session_options())
        names = [output.name for output in model.graph.output]

        def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            found = compiled(dict(inputs))
            return {name: found[name].copy() for name in names}

        return run

    def open(
        self,
        engine: bytes | Path,
        *,
        profile: Profile,
        images: ImageInput,
        session: Mapping[str, str],
        outputs: Sequence[str] = (OUTPUT,),
    ) -> Runner:
        compiled = _compile(engine, session)

        def run(batch: NDArray[Any]) -> Any:
            found = compiled({INPUT: batch})
            # One that is alone is still the request's own memory.
            return joined([found[name] for name in outputs]).copy()

        return BatchedRunner(run, profile, images)


def open_ir(
    path: Path, *, threads: int | None
) -> tuple[Callable[[NDArray[Any]], Any], str, tuple[int | None, ...], tuple[int | None, ...]]:
    """Any IR (``.xml`` with its ``.bin`` beside it) of one input: what runs it, the type of its input, and the shapes
    of its input and of its first output, None for a dynamic axis. It computes in float32 around its integers, as our
    engines do.

    Raises:
        BadInput: it has more inputs than one, or another type than float32 and uint8.
    """
    core = _openvino().Core()
    options = dict(_SESSION) | ({} if threads is None else {THREADS: str(threads)})
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise BuildFailed(f"model {path}: OpenVINO cannot read it: {_one_line(error)}") from error
    types = [one.get_element_type().get_type_name() for one in model.inputs]
    if len(types) != 1 or types[0] not in _TYPES:
        found = ", ".join(f"{one.any_name} {one.get_element_type().get_type_name()}" for one in model.inputs)
        raise BadInput(f"model {path}: has the inputs {found}; expected one, images in float32 or uint8")
    compiled = _compile_model(core, model, options)
    shapes = [
        tuple(None if size.is_dynamic else size.get_length() for size in one.get_partial_shape())
        for one in (model.inputs[0], model.outputs[0])
    ]
    return lambda images: compiled(images)[0].copy(), _TYPES[types[0]], shapes[0], shapes[1]


def product_kernels(engine: Path, session: Mapping[str, str]) -> dict[str, int]:
    """How many products this machine runs in which type: ``{"i8": 61, "f32": 12}``, asked of the compiled model."""
    kernels: Counter[str] = Counter()
    for layer in _compile(engine, session).get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        if info["layerType"].astype(str) in _PRODUCTS:
            precision = info["runtimePrecision"].astype(str)
            kernels["i8" if precision in _INTEGERS else precision] += 1
    return dict(kernels)


@functools.cache
def _saturates() -> bool:
    """Whether its product of bytes saturates on this CPU: asked of the kernel itself."""
    depth, columns = 64, 32
    arrays: dict[str, NDArray[Any]] = {
        "one": np.ones((), np.float32),
        "zero": np.zeros((), np.int8),
        "codes": np.full((depth, columns), 127, np.int8),
        "ones": np.ones(columns, np.float32),
        "zeros": np.zeros(columns, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["a"]),
            helper.make_node("DequantizeLinear", ["a", "one", "zero"], ["values"]),
            helper.make_node("DequantizeLinear", ["codes", "ones", "zeros"], ["weight"], axis=1),
            helper.make_node("MatMul", ["values", "weight"], ["sums"]),
        ],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, depth])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["batch", 16, columns])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    compiled = _compile(model.SerializeToString(), _SESSION)
    sums = compiled({"x": np.full((1, 16, depth), 127, np.float32)})["sums"]
    return bool((sums != 127 * 127 * depth).any())


def _compile(engine: bytes | Path, session: Mapping[str, str]) -> Any:
    core = _openvino().Core()
    try:
        model = core.read_model(engine)
    except Exception as error:  # its exceptions are RuntimeError and several of its own
        raise BuildFailed(f"backend openvino: refuses the graph: {_one_line(error)}") from error
    return _compile_model(core, model, session)


def _compile_model(core: Any, model: Any, session: Mapping[str, str]) -> Any:
    properties = {"INFERENCE_NUM_THREADS" if name == THREADS else name: value for name, value in session.items()}
    try:
        return core.compile_model(model, "CPU", properties)
    except RuntimeError as error:
        raise BuildFailed(f"backend openvino: refuses the model: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _openvino() -> Any:
    try:
        import openvino  # noqa: PLC0415 (keeps the command's --help fast)
    except (ImportError, OSError) as error:
        raise BackendMissing(
            f"backend openvino: cannot be imported ({error}); run: pip install 'repq-deploy[openvino]'"
        ) from error
    return openvino


#: Triton's backend reads ONNX files as well as IRs. It fixes the batch to ``max_batch_size`` (``ov::set_batch``), and
#: answers another one with an error unless it may pad. It has no parameter for ``_SESSION``; HINT_BF16, which asks for
#: bfloat16, stays away. https://github.com/triton-inference-server/openvino_backend
_TRITON = TritonBackend(
    name="openvino",
    file="model.onnx",
    default_file=False,
    parameters={
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "0",
        "ENABLE_BATCH_PADDING": "YES",
        "SKIP_OV_DYNAMIC_BATCHSIZE": "YES",
    },
    pads=True,
)

BACKEND = OpenVinoBackend(
    name="openvino",
    modules=("openvino",),
    foreign=ForeignFormat(".xml", "IR", open_ir, lambda path: path.with_suffix(".bin")),
    product_kernels=product_kernels,
    triton=(_TRITON,),
)
