"""Prints the quantizers of a canonical ONNX file, read with ``onnx`` and NumPy alone: an example of reading the format.

python export/read_quantizers.py MODEL.onnx
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper


def quantizers(model: onnx.ModelProto) -> Iterator[tuple[str, str, int, float]]:
    """Name, kind, number of codes that are allowed (of a weight: that are used), and largest scale of each."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        name = node.name.rpartition("/")[0]
        if node.op_type == "QuantizeLinear":
            scale, codes = float(constants[node.input[1]]), 256
            clip = producers.get(node.input[0])
            if clip is not None and clip.op_type == "Clip":
                low, high = (round(float(constants[bound]) / scale) for bound in clip.input[1:])
                codes = high - low + 1
            yield name, "activation", codes, scale
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            codes = len(np.unique(constants[node.input[0]].astype(np.int32)))
            yield name, "weight", codes, float(constants[node.input[1]].max())
        elif node.domain == "repq" and node.op_type.endswith("QuantizeLinear"):
            bits = next(attribute.i for attribute in node.attribute if attribute.name == "bits")
            yield name, node.op_type, 2**bits, float(constants[node.input[1]])


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, kind, codes, scale in quantizers(onnx.load(sys.argv[1])):
        sys.stdout.write(f"{name:40} {kind:20} {codes:4} codes, scale {scale:.6g}\n")


if __name__ == "__main__":
    main()
