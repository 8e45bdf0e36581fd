"""What the ONNX parser of each TensorRT 10 and 11 takes, as a list: no parser, and no GPU, is needed to check a file.

Operators, types and restrictions are those of ``docs/operators.md`` of https://github.com/onnx/onnx-tensorrt: of its
10.6 release (commit 0137504e), of 10.15, and for the opset of 10.0 and 11 what NVIDIA's documentation says; which
release added what, its ``docs/Changelog.md`` says. What it does not say was added is taken to be there since 10.0.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from repq_deploy.errors import BadInput

__all__ = ["OLDEST", "check_for_parser", "largest_opset", "parse_version", "supported_operators"]

#: Before it, INT64 was cast to INT32 and opset 20, which has Gelu, was not read.
OLDEST, _NEWEST_MAJOR = (10, 0), 11

_LARGEST_OPSET = {(10, 0): 20, (10, 6): 22, (10, 15): 24, (11, 0): 25}

_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization GRU HardSigmoid HardSwish Hardmax
    Identity If InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN
    LSTM LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
    NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth
    Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_OPERATORS = frozenset(_NAMES.split())
_ADDED = {
    (10, 1): ("DeformConv",),
    (10, 4): ("BlackmanWindow", "HammingWindow", "HannWindow"),
    (10, 5): ("STFT",),
    (10, 15): ("Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"),
}
#: Operators whose second input has to be known when the engine is built.
_CONSTANT_AXES = frozenset({"Squeeze", "Unsqueeze", *(name for name in _OPERATORS if name.startswith("Reduce"))})

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_TYPES = _FLOATS | {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
#: Types that exist between a quantizer and a dequantizer only.
_QUANTIZED = frozenset({TensorProto.INT8, TensorProto.INT4})


def parse_version(text: str) -> tuple[int, int]:
    """``10.3``, ``10.3.0`` or ``11`` as (major, minor).

    Raises:
        BadInput: not a version, or not of TensorRT 10 or 11.
    """
    found = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d{1,3}){0,2}", text.strip())
    if found is None:
        raise BadInput(f"--tensorrt-version {text[:40]}: expected a version such as 10.3")
    version = int(found[1]), int(found[2] or 0)
    if not OLDEST <= version < (_NEWEST_MAJOR + 1, 0):
        raise BadInput(
            f"--tensorrt-version {text}: known are those from 10.0 to {_NEWEST_MAJOR}.x; 8 and 9 read no opset 20"
        )
    return version


def largest_opset(version: tuple[int, int]) -> int:
    """The newest opset that the parser of ``version`` reads."""
    return max(opset for since, opset in _LARGEST_OPSET.items() if since <= version)


def supported_operators(version: tuple[int, int]) -> frozenset[str]:
    """The standard operators that the parser of ``version`` imports."""
    added = (name for since, names in _ADDED.items() if since <= version for name in names)
    return _OPERATORS | frozenset(added)


def check_for_parser(model: onnx.ModelProto, version: tuple[int, int]) -> None:
    """Refuse a graph that TensorRT ``version`` would not parse, as far as its list says.

    1. Each operator is a standard one that it imports, in an opset that it reads.
    2. Tensors are FP32, FP16, INT32, INT64 or BOOL; UINT8 is the input of the network only; INT8 and INT4 lie between
       a QuantizeLinear or a constant and the DequantizeLinear that alone reads it.
    3. Zero points are 0, scales and axes constant, and LayerNormalization has one output.

    Raises:
        BadInput: it names the version and the node.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset > largest_opset(version):
        raise _refusal(version, f"opset {opset}, and it reads up to {largest_opset(version)}")
    rules = _Rules(model, supported_operators(version))
    for node in model.graph.node:
        if problem := rules.problem(node):
            raise _refusal(version, f"{node.op_type} {node.name!r}: {problem}")
    if problem := rules.problem_of_types():
        raise _refusal(version, problem)


def _refusal(version: tuple[int, int], problem: str) -> BadInput:
    return BadInput(f"TensorRT {version[0]}.{version[1]} would not parse the graph: {problem}")


class _Rules:
    """The rules of ``check_for_parser`` on one graph."""

    def __init__(self, model: onnx.ModelProto, operators: frozenset[str]) -> None:
        self.graph, self.operators = model.graph, operators
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                self.readers[name].append((node, index))
        self.special: dict[str, Callable[[onnx.NodeProto], str | None]] = {
            "QuantizeLinear": self._of_quantizer,
            "DequantizeLinear": self._of_dequantizer,
            "LayerNormalization": lambda node: "only its first output exists there" if len(node.output) > 1 else None,
        }

    def problem(self, node: onnx.NodeProto) -> str | None:
        if node.domain not in ("", "ai.onnx") or node.op_type not in self.operators:
            return "not among the operators that it imports"
        if node.op_type in _CONSTANT_AXES and len(node.input) > 1 and node.input[1] not in self.constants:
            return "its axes are not constant"
        for attribute in node.attribute:
            if attribute.name == "to" and node.op_type == "Cast" and attribute.i not in _TYPES:
                return f"casts to {TensorProto.DataType.Name(attribute.i)}"
        rule = self.special.get(node.op_type)
        return None if rule is None else rule(node)

    def problem_of_types(self) -> str | None:
        for value in self.graph.input:
            kind = value.type.tensor_type.elem_type
            if kind not in _TYPES | {TensorProto.UINT8}:
                return f"input {value.name!r} is {TensorProto.DataType.Name(kind)}"
        for name, tensor in self.constants.items():
            kind = TensorProto.DataType.Name(tensor.data_type)
            if tensor.data_type in _QUANTIZED:
                if not all(self._takes_codes(node, index) for node, index in self.readers[name]):
                    return f"constant {name!r} is {kind}, and not only dequantizers read it"
            elif tensor.data_type not in _TYPES:
                return f"constant {name!r} is {kind}"
        return None

    def _of_quantizer(self, node: onnx.NodeProto) -> str | None:
        if not all(self._takes_codes(reader, index) for reader, index in self.readers[node.output[0]]):
            return "something else than a DequantizeLinear reads it"
        return self._of_scale(node)

    def _of_dequantizer(self, node: onnx.NodeProto) -> str | None:
        return self._of_scale(node)

    def _of_scale(self, node: onnx.NodeProto) -> str | None:
        if node.input[1] not in self.constants:
            return "its scale is not constant"
        zero = self.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if len(node.input) > 2 and (zero is None or np.any(numpy_helper.to_array(zero).astype(np.int32) != 0)):
            return "its zero point is not 0"
        return None

    @staticmethod
    def _takes_codes(node: onnx.NodeProto, index: int) -> bool:
        """Whether input ``index`` of ``node`` is codes, or the zero point that gives their type."""
        return (node.op_type == "DequantizeLinear" and index in (0, 2)) or (
            node.op_type == "QuantizeLinear" and index == 2
        )
