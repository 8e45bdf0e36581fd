"""The float twin of a canonical file: the same model with its quantizers taken out, to compare an engine with.

It is what the model would be without quantization, save that the weights keep the values they were rounded to: same
graph, same shapes, same opset, so that it takes the time and the memory of the float model. It needs no torch and no
checkpoint, which is why engines are compared with it and not with ``repq-export --float``'s file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from repq_deploy.export import names
from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.passes.base import PassError, run_passes
from repq_deploy.export.passes.softmax_of_powers import SoftmaxOfPowers
from repq_deploy.export.passes.unquantized_activations import UnquantizedActivations

__all__ = ["float_twin"]

#: What a float file says of itself; the rest of a canonical file's metadata is about its quantizers.
_KEPT = (
    names.MODEL,
    names.SPEC,
    names.PREPROCESS,
    names.CLASSES,
    names.TASK,
    names.OUTPUTS,
    names.INPUT_FORM,
    names.PART,
    f"{names.PREFIX}version",
)


def float_twin(model: onnx.ModelProto, *, folder: Path | None = None) -> onnx.ModelProto:
    """A copy of the canonical ``model`` that computes in floats: no quantizers, float32 weights, no functions.

    1. ``UnquantizedActivations`` takes out the quantizers of activations, uniform, logarithmic and on curves, and
       ``SoftmaxOfPowers`` the form of attention that one of them needs.
    2. Each ``DequantizeLinear`` of a constant becomes the constant that it computes, ``scale * (code - zero point)`` in
       float32.

    The standard opset stays, the domain ``repq`` goes. The metadata are those of a float file (``repq.bits`` is empty),
    and ``repq.float_of`` says which bits were taken out. A float model comes back as it is, but for its copy. Beside
    ``model`` it takes about the memory of the float weights: they are made one by one. A result over 2 GiB is written
    by ``weights_file.write_model``, which puts the weights beside the graph.

    Args:
        model: what ``canonical_onnx`` made or ``read_source`` read.
        folder: where the second file is of a model whose weights are in one (``SourceModel.weights``).

    Raises:
        PassError: a quantizer that is left, as no canonical file has it.
        FileNotFoundError, ValueError: weights in a second file, and it is not in ``folder``.
    """
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        if folder is None:
            raise ValueError(f"{len(outside)} weights are in a second file: expected the folder that holds it")
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        external_data_helper.load_external_data_for_model(whole, str(folder))
        model = whole
    bits = names.recorded(model).get(names.BITS, "")
    if not any(_is_quantizer(node) for node in model.graph.node):
        twin = onnx.ModelProto()
        twin.CopyFrom(model)
        return twin
    twin, _ = run_passes(model, [UnquantizedActivations(), SoftmaxOfPowers()])
    _dequantize_weights(twin.graph)
    imports = [entry for entry in twin.opset_import if entry.domain != DOMAIN]
    del twin.opset_import[:]
    twin.opset_import.extend(imports)
    kept = {key: value for key, value in names.recorded(model).items() if key in _KEPT}
    onnx.helper.set_model_props(twin, dict(sorted({**kept, names.BITS: "", names.FLOAT_OF: bits}.items())))
    left = [node.name for node in twin.graph.node if _is_quantizer(node)]
    if left or twin.functions:
        raise PassError(f"{len(left)} quantizers are left in the float twin, first {left[:1]}")
    return twin


def _is_quantizer(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN or node.op_type in ("QuantizeLinear", "DequantizeLinear")


def _dequantize_weights(graph: onnx.GraphProto) -> None:
    """Put the values in place of each ``DequantizeLinear`` of a constant, one by one: only one float copy is made."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]
    for node in nodes:
        values = _values(node, [numpy_helper.to_array(constants[name]) for name in node.input])
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    gone = {node.output[0] for node in nodes}
    for index in reversed(range(len(graph.node))):
        if graph.node[index].output[0] in gone:
            del graph.node[index]
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]
    known = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in known]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _values(node: onnx.NodeProto, inputs: list[np.ndarray]) -> np.ndarray:
    """``scale * (codes - zero_point)`` in float32; a scale for each slice lies along ``axis``."""
    codes, scale, *zero = inputs
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    shape = [1] * codes.ndim
    if scale.ndim:
        shape[attributes.get("axis", 1)] = -1
    found = codes.astype(np.float32)
    if zero:
        found -= zero[0].astype(np.float32).reshape(shape)
    found *= scale.reshape(shape)
    return found
