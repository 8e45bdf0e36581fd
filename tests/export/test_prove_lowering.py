"""The proof of a lowering finds what is wrong, and where, and is not fooled by codes that ties move."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repq_deploy.export.prove_lowering import LEAST_SQNR_DB, compare_lowering

WIDTH, BLOCKS, STEP = 16, 3, 0.25


def stream(*, clip: float = 7.0) -> onnx.ModelProto:
    """Three blocks ``x + DQ(Q(Clip(LayerNorm(x)))) @ w``, and logits."""
    rng = np.random.default_rng(0)
    arrays = {
        "gamma": np.ones(WIDTH, np.float32),
        "beta": np.zeros(WIDTH, np.float32),
        "scale": np.array(STEP, np.float32),
        "zero": np.array(0, np.int8),
    }
    nodes, x = [], "images"
    for i in range(BLOCKS):
        arrays[f"w{i}"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
        arrays[f"low{i}"], arrays[f"high{i}"] = np.float32(-clip * STEP), np.float32(clip * STEP)
        nodes += [
            helper.make_node("LayerNormalization", [x, "gamma", "beta"], [f"norm{i}"]),
            helper.make_node("Clip", [f"norm{i}", f"low{i}", f"high{i}"], [f"clipped{i}"]),
            helper.make_node("QuantizeLinear", [f"clipped{i}", "scale", "zero"], [f"codes{i}"]),
            helper.make_node("DequantizeLinear", [f"codes{i}", "scale", "zero"], [f"values{i}"]),
            helper.make_node("MatMul", [f"values{i}", f"w{i}"], [f"product{i}"]),
            helper.make_node("Add", [x, f"product{i}"], ["logits" if i == BLOCKS - 1 else f"stream{i}"]),
        ]
        x = f"stream{i}"
    graph = helper.make_graph(
        nodes,
        "stream",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def images(count: int = 64) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, WIDTH)).astype(np.float32)


def changed(name: str, factor: float) -> onnx.ModelProto:
    model = stream()
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor) * np.float32(factor)), name))
    return model


def test_a_graph_equals_itself_in_every_stretch() -> None:
    stretches = compare_lowering(stream(), stream(), images())
    assert [one.end for one in stretches] == ["stream0", "stream1", "logits"]
    assert [(one.sqnr_db, one.ties_sqnr_db) for one in stretches] == [(200.0, None)] * 3


@pytest.mark.parametrize(("name", "factor"), [("high1", 1e6), ("low1", 0.9), ("w1", 1.02), ("w1", float("nan"))])
def test_a_wrong_constant_shows_in_its_own_stretch_alone(name: str, factor: float) -> None:
    stretches = {one.end: one for one in compare_lowering(stream(), changed(name, factor), images())}
    assert not stretches.pop("stream1").holds()
    assert {one.sqnr_db for one in stretches.values()} == {200.0}


def test_the_ratio_is_that_of_what_a_stretch_adds() -> None:
    """A product 1 % too large is 40 dB, however large the stream is that it is added to."""
    large = images() + np.float32(100) * np.arange(WIDTH, dtype=np.float32)
    for given in (images(), large):
        middle = compare_lowering(stream(), changed("w1", 1.01), given)[1]
        assert middle.sqnr_db == pytest.approx(40, abs=0.2)


def test_a_unit_in_the_last_place_of_the_stream_is_no_error() -> None:
    """What a block adds that is almost nothing is rounded with the stream; what is more is still judged."""
    canonical = changed("w1", 1e-7)
    assert compare_lowering(canonical, changed("w1", 1.001e-7), images())[1].sqnr_db > 80
    canonical = changed("w1", 1e-5)
    assert not compare_lowering(canonical, changed("w1", 1.05e-5), images())[1].holds()


def test_moved_codes_do_not_add_up() -> None:
    """Constants rounded to 12 bits move codes in each block; run freely, the next blocks move many more."""
    rounded = stream()
    for tensor in rounded.graph.initializer:
        if tensor.name.startswith("w"):
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert min(one.sqnr_db for one in compare_lowering(stream(), rounded, images())) > 60


def test_a_graph_without_shared_norms_is_one_stretch() -> None:
    renamed = stream()
    for node in renamed.graph.node:
        node.input[:] = [name.replace("stream", "moved") for name in node.input]
        node.output[:] = [name.replace("stream", "moved") for name in node.output]
    (only,) = compare_lowering(stream(), renamed, images())
    assert (only.end, only.sqnr_db) == ("logits", 200.0)


def test_ties_are_told_from_errors() -> None:
    """Where values lie on ties, whichever way they fall is right; a wrong constant is not excused by that."""
    tied = np.round(images() / STEP) * STEP + STEP / 2
    canonical, nearly = on_ties(), on_ties(factor=1 - 1e-6)
    (only,) = compare_lowering(canonical, nearly, tied.astype(np.float32))
    assert only.sqnr_db < LEAST_SQNR_DB
    assert only.ties_sqnr_db is not None
    assert only.ties_sqnr_db < LEAST_SQNR_DB
    assert only.holds()
    (free,) = compare_lowering(canonical, on_ties(factor=1.05), images())
    assert free.ties_sqnr_db is not None
    assert free.ties_sqnr_db > LEAST_SQNR_DB
    assert not free.holds()


@pytest.mark.parametrize(("code", "factor"), [(2.5, 1 + 1e-6), (1.5, 1 - 1e-6)])
def test_all_ties_may_fall_one_way(code: float, factor: float) -> None:
    """Halves round to even, so that 2.5 falls when a scale grows as without, and 1.5 when it shrinks."""
    tied = np.full((4, WIDTH), code * STEP, np.float32)
    tied[:, 0] = 0  # the signal's mean is no signal
    (only,) = compare_lowering(on_ties(), on_ties(factor=factor), tied)
    assert only.sqnr_db < 10
    assert only.holds()


def on_ties(*, factor: float = 1) -> onnx.ModelProto:
    """``DQ(Q(factor * x))``, one stretch."""
    nodes = [
        helper.make_node("Mul", ["images", "factor"], ["x"]),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["logits"]),
    ]
    arrays = {"factor": np.float32(factor), "scale": np.float32(STEP), "zero": np.int8(0)}
    graph = helper.make_graph(
        nodes,
        "ties",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
