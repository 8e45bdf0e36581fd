"""A hand-made canonical model: quantized patches of an image, one quantized linear layer, logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from repq_deploy.engines.source import SourceModel, read_source

SIDE = 8
CLASSES = 10
STEP = 0.05


def tiny(
    *, bits: str = "w8a8", levels: int = 127, weight_levels: int = 127, zero_point: int = 0, seed: int = 0
) -> onnx.ModelProto:
    """``logits = DQ(Q(Clip(images))) @ DQ(weight) + bias``, with codes from ``-levels`` to ``levels``, and of the
    weight from ``-weight_levels`` to ``weight_levels``."""
    rng = np.random.default_rng(seed)
    features = 3 * SIDE * SIDE
    arrays = {
        "shape": np.array([0, -1], np.int64),
        "low": np.array(-levels * STEP, np.float32),
        "high": np.array(levels * STEP, np.float32),
        "scale": np.array(STEP, np.float32),
        "zero_point": np.array(zero_point, np.int8),
        "weight": rng.integers(-weight_levels, weight_levels + 1, (features, CLASSES), dtype=np.int8),
        "weight_scale": rng.uniform(0.001, 0.002, CLASSES).astype(np.float32),
        "weight_zero_point": np.zeros(CLASSES, np.int8),
        "bias": rng.normal(size=CLASSES).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["flat"], "flatten"),
        helper.make_node("Clip", ["flat", "low", "high"], ["clipped"], "clip"),
        helper.make_node("QuantizeLinear", ["clipped", "scale", "zero_point"], ["codes"], "head/quantize"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero_point"], ["values"], "head/dequantize"),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero_point"], ["weights"], "head/weight", axis=1
        ),
        helper.make_node("MatMul", ["values", "weights"], ["product"], "head/matmul"),
        helper.make_node("Add", ["product", "bias"], ["logits"], "head/bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    preprocess = '{"size": 8}'
    helper.set_model_props(model, {"repq.model": "tiny", "repq.bits": bits, "repq.preprocess": preprocess})
    return model


def write_tiny(folder: Path, **options: int | str) -> SourceModel:
    """Write ``tiny(**options)`` to ``folder/tiny.onnx`` and read it."""
    path = folder / "tiny.onnx"
    path.write_bytes(tiny(**options).SerializeToString())  # type: ignore[arg-type]
    return read_source(path)


def oracle(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """What ``model`` computes, in NumPy."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    flat = np.clip(images.reshape(len(images), -1), arrays["low"], arrays["high"])
    codes = np.clip(np.rint(flat / arrays["scale"]), -128, 127)
    return (codes * arrays["scale"]) @ (arrays["weight"] * arrays["weight_scale"]) + arrays["bias"]
