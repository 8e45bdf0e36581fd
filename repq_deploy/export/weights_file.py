"""ONNX files above protobuf's limit of 2 GiB: the graph in one file, the bytes of its weights in another beside it.

ONNX calls the second one external data; a runtime that is given the first by its path finds it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import external_data_helper

from repq_deploy.system.files import atomic_output, write_atomically

__all__ = ["write_model", "write_with_weights_file"]

#: Smaller tensors, scales and shapes, stay in the graph, where shape inference needs them.
_LEAST_BYTES = 1024
#: Tensors begin at multiples of a page, so that a runtime can map them.
_PAGE = 4096


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path`` atomically.

    Over protobuf's limit of 2 GiB, which only a float model reaches here, the weights are moved out of ``model`` into a
    second file.

    Raises:
        BadInput: it cannot be written.
    """
    # Above the limit protobuf cannot even count; a tenth is left for all that is not weights.
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < 0.9 * onnx.checker.MAXIMUM_PROTOBUF:
        write_atomically(path, model.SerializeToString(deterministic=True))
    else:
        write_with_weights_file(model, path)


def write_with_weights_file(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path`` and its weights to ``path`` + ``.data``. They are taken out of ``model`` one by one,
    so that no second copy of them is made.

    Raises:
        BadInput: one of the two cannot be written.
    """
    weights_path = path.with_name(f"{path.name}.data")
    with atomic_output(path) as graph_file, atomic_output(weights_path) as weights_file:
        with weights_file.open("wb") as output:
            for tensor in model.graph.initializer:
                data = tensor.raw_data
                if len(data) < _LEAST_BYTES:
                    continue
                output.write(bytes(-output.tell() % _PAGE))
                external_data_helper.set_external_data(tensor, weights_path.name, output.tell(), len(data))
                output.write(data)
                tensor.ClearField("raw_data")
        graph_file.write_bytes(model.SerializeToString(deterministic=True))
