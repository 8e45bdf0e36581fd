"""The passes that give attention ONNX Runtime's form: same numbers, and where they do not fire."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from repq_deploy.export.domain import DOMAIN
from repq_deploy.export.passes.fused_attention import FusedAttention
from repq_deploy.export.passes.graph import append
from repq_deploy.export.passes.log2_by_log_softmax import Log2ByLogSoftmax
from repq_deploy.export.passes.log2_by_log_sum_exp import Log2ByLogSumExp
from repq_deploy.export.passes.log2_plain_ops import Log2PlainOps
from repq_deploy.export.passes.softmax_of_powers import SoftmaxOfPowers
from repq_deploy.export.passes.token_gather import TokenGather
from tests.export.passes.graphs import as_model, ops, quantize, rewritten, run


def image(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("bits", "steps"), [(4, 1), (4, 2), (3, 2), (8, 1), (8, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_log2_codes_come_from_the_logarithm_of_the_softmax(bits, steps, scale):
    x, v = gs.Variable("x", np.float32, ["b", 2, 50, 50]), gs.Variable("v", np.float32, ["b", 2, 50, 4])
    graph = gs.Graph(inputs=[x, v])
    y = append(graph, "Softmax", "softmax", [x], shape=x.shape, axis=-1)
    constant, attributes = np.array(scale, np.float32), {"bits": bits, "steps_per_octave": steps}
    for op, kind in (("Log2QuantizeLinear", np.uint8), ("Log2DequantizeLinear", np.float32)):
        name = f"p/{op.removeprefix('Log2').removesuffix('Linear').lower()}"
        y = append(graph, op, name, [y, constant], dtype=kind, shape=x.shape, domain=DOMAIN, **attributes)
    values = quantize(graph, v, "v", scale=0.03)
    model = as_model(graph, append(graph, "MatMul", "product", [y, values], shape=v.shape))
    after, changed = rewritten(model, Log2ByLogSoftmax())
    assert changed == [1]
    assert not {"Log", "Softmax", "Log2QuantizeLinear"} & set(ops(after))
    given = {"x": 4 * image(2, 2, 50, 50), "v": image(2, 2, 50, 4)}
    # A tie of the logarithm may fall the other way: one code of a row, not a wrong row.
    wrong = np.abs(run(after, **given) - run(model, **given)) > 1e-5
    assert wrong.mean() < 0.01
    assert np.abs(run(model, **given)).max() > 0.1


def powers(bits: int, steps: int, *, scale: float = 1.0) -> onnx.ModelProto:
    """``(p @ v) / sum p`` of probabilities over their row's largest; not quantized with ``bits`` 0."""
    x, v = gs.Variable("x", np.float32, ["b", 2, 50, 50]), gs.Variable("v", np.float32, ["b", 2, 50, 4])
    graph, columns, row = gs.Graph(inputs=[x, v]), np.array([-1]), ["b", 2, 50, 1]
    largest = append(graph, "ReduceMax", "largest", [x, columns], shape=row, keepdims=1)
    y = append(graph, "Exp", "power", [append(graph, "Sub", "below", [x, largest], shape=x.shape)], shape=x.shape)
    if bits:
        constant, attributes = np.array(scale, np.float32), {"bits": bits, "steps_per_octave": steps}
        for op, kind in (("Log2QuantizeLinear", np.uint8), ("Log2DequantizeLinear", np.float32)):
            name = f"p/{op.removeprefix('Log2').removesuffix('Linear').lower()}"
            y = append(graph, op, name, [y, constant], dtype=kind, shape=x.shape, domain=DOMAIN, **attributes)
    total = append(graph, "ReduceSum", "total", [y, columns], shape=row, keepdims=1)
    product = append(graph, "MatMul", "product", [y, v], shape=v.shape)
    return as_model(graph, append(graph, "Div", "divided", [product, total], shape=v.shape))


@pytest.mark.parametrize(("bits", "steps"), [(4, 1), (3, 1), (4, 2), (8, 1)])
@pytest.mark.parametrize("rewrite", [Log2ByLogSoftmax, Log2ByLogSumExp, Log2PlainOps])
def test_codes_of_powers_need_no_logarithm(bits, steps, rewrite):
    model = powers(bits, steps)
    after, changed = rewritten(model, rewrite())
    assert changed == [1]
    assert not {"Log", "Log2QuantizeLinear"} & set(ops(after))
    given = {"x": 4 * image(2, 2, 50, 50), "v": image(2, 2, 50, 4)}
    expected = run(model, **given)
    logits = given["x"].astype(np.float64)
    codes = np.clip(np.rint((logits.max(-1, keepdims=True) - logits) / np.log(2) * steps), 0, 2**bits - 1)
    oracle = np.where(codes == 2**bits - 1, 0, 2.0 ** (-codes / steps))
    oracle = oracle @ given["v"] / oracle.sum(-1, keepdims=True)
    for found in (expected, run(after, **given)):
        assert (np.abs(found - oracle) > 1e-5).mean() < 0.01  # a tie of the logarithm moves a row
        assert np.abs(found - oracle).max() < 0.1


@pytest.mark.parametrize("rewrite", [Log2ByLogSoftmax, Log2ByLogSumExp])
def test_powers_of_another_scale_are_computed_too(rewrite):
    model = powers(4, 1, scale=0.3)
    after, _ = rewritten(model, rewrite(), Log2PlainOps())
    given = {"x": 4 * image(2, 2, 50, 50), "v": image(2, 2, 50, 4)}
    assert (np.abs(run(after, **given) - run(model, **given)) > 1e-5).mean() < 0.01


def test_powers_that_are_not_quantized_are_a_softmax():
    model = powers(0, 1)
    after, changed = rewritten(model, SoftmaxOfPowers())
    assert changed == [1]
    assert ops(after) == ["Softmax", "MatMul"]
    given = {"x": 4 * image(2, 2, 50, 50), "v": image(2, 2, 50, 4)}
    np.testing.assert_allclose(run(after, **given), run(model, **given), rtol=1e-4, atol=1e-6)
    assert rewritten(powers(4, 1), SoftmaxOfPowers())[1] == [0]


def attention(*, bias: bool = False, scale: float | np.ndarray = 0.7, axis: int = -1) -> gs.Graph:
    rows = [gs.Variable(name, np.float32, ["batch", 5, 12]) for name in "qkv"]
    graph = gs.Graph(inputs=rows)
    q, k, v = (
        append(
            graph,
            "Transpose",
            f"{one.name}/turn",
            [append(graph, "Reshape", f"{one.name}/heads", [one, np.array([-1, 5, 3, 4])], shape=["batch", 5, 3, 4])],
            shape=["batch", 3, 5, 4],
            perm=[0, 2, 1, 3],
        )
        for one in rows
    )
    k = append(graph, "Transpose", "k/transposed", [k], shape=["batch", 3, 4, 5], perm=[0, 1, 3, 2])
    square = ["batch", 3, 5, 5]
    y = append(graph, "MatMul", "logits", [q, k], shape=square)
    y = append(graph, "Mul", "scaled", [y, np.asarray(scale, np.float32)], shape=square)
    if bias:
        y = append(graph, "Add", "bias", [y, image(3, 5, 5)], shape=square)
    y = append(graph, "Softmax", "softmax", [y], shape=square, axis=axis)
    y = append(graph, "MatMul", "product", [y, v], shape=["batch", 3, 5, 4])
    y = append(graph, "Transpose", "back", [y], shape=["batch", 5, 3, 4], perm=[0, 2, 1, 3])
    graph.outputs = [append(graph, "Reshape", "rows", [y, np.array([-1, 5, 12])], shape=["batch", 5, 12])]
    return graph


def test_float_attention_is_one_kernel():
    graph = attention(bias=False)
    model = as_model(graph, *graph.outputs)
    after, changed = rewritten(model, FusedAttention())
    assert changed == [1]
    assert ops(after) == ["MultiHeadAttention"]
    given = {name: image(3, 5, 12, seed=seed) for seed, name in enumerate("qkv")}
    np.testing.assert_allclose(run(after, **given), run(model, **given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("other", [{"bias": True}, {"scale": image(3, 1, 1)}, {"axis": 2}], ids=str)
def test_attention_that_the_kernel_cannot_compute_stays(other):
    graph = attention(**other)
    assert rewritten(as_model(graph, *graph.outputs), FusedAttention())[1] == [0]


def rolled(graph: gs.Graph, x: gs.Variable, by: int, axis: int) -> gs.Variable:
    """``numpy.roll`` by ``-by`` as torch's exporter writes it."""
    size = x.shape[axis]
    parts = [
        append(graph, "Slice", f"{x.name}/{axis}_{start}", [x, *(np.array([n]) for n in (start, end, axis))])
        for start, end in ((by, size), (0, by))
    ]
    return append(graph, "Concat", f"{x.name}/{axis}_roll", parts, shape=x.shape, axis=axis)


def test_rolled_windows_are_one_gather():
    x = gs.Variable("x", np.float32, ["batch", 4, 6, 5])
    graph = gs.Graph(inputs=[x])
    y = rolled(graph, rolled(graph, x, 1, 1), 2, 2)
    y = append(graph, "Pad", "pad", [y, np.zeros(8, np.int64)], shape=y.shape)
    y = append(graph, "Reshape", "cut", [y, np.array([-1, 2, 2, 3, 2, 5])], shape=["batch", 2, 2, 3, 2, 5])
    y = append(graph, "Transpose", "windows", [y], shape=["batch", 2, 3, 2, 2, 5], perm=[0, 1, 3, 2, 4, 5])
    y = append(graph, "Reshape", "rows", [y, np.array([-1, 4, 5])], shape=["6*batch", 4, 5])
    model = as_model(graph, append(graph, "Neg", "read", [y], shape=y.shape))
    after, changed = rewritten(model, TokenGather())
    assert changed == [1]
    assert ops(after) == ["Reshape", "Gather", "Reshape", "Neg"]
    given = image(3, 4, 6, 5)
    assert np.array_equal(run(after, x=given), run(model, x=given))


def windows_of(graph: gs.Graph, y: gs.Variable) -> gs.Variable:
    """[batch, 4, 6, 5] as windows of 2 by 3 tokens, as ``tests/export/passes`` cuts them everywhere."""
    y = append(graph, "Reshape", "cut", [y, np.array([-1, 2, 2, 2, 3, 5])], shape=["batch", 2, 2, 2, 3, 5])
    y = append(graph, "Transpose", "windows", [y], shape=["batch", 2, 2, 2, 3, 5], perm=[0, 1, 3, 2, 4, 5])
    return append(graph, "Reshape", "rows", [y, np.array([-1, 6, 5])], shape=["4*batch", 6, 5])


def test_padded_windows_are_one_gather_and_zeros():
    x = gs.Variable("x", np.float32, ["batch", 3, 4, 5])
    graph = gs.Graph(inputs=[x])
    pads = [np.array([0, 0, 0, 0, 0, 1, 2, 0]), np.array(0, np.float32)]
    y = windows_of(graph, append(graph, "Pad", "pad", [x, *pads], shape=["batch", 4, 6, 5]))
    model = as_model(graph, append(graph, "Neg", "read", [y], shape=y.shape))
    after, changed = rewritten(model, TokenGather())
    assert changed == [1]
    assert ops(after) == ["Reshape", "Gather", "Where", "Reshape", "Neg"]
    given = image(3, 3, 4, 5)
    found = run(after, x=given)
    assert np.array_equal(found, run(model, x=given))
    assert np.count_nonzero(found) == given.size < found.size


@pytest.mark.parametrize(("pads", "value"), [([0, 0, 0, 0, 0, 1, 2, 0], 1), ([0, 0, 0, 1, 0, 1, 2, 0], 0)])
def test_what_pads_by_other_than_tokens_of_zeros_stays(pads, value):
    x = gs.Variable("x", np.float32, ["batch", 3, 4, 5 - pads[3]])
    graph = gs.Graph(inputs=[x])
    padded = append(graph, "Pad", "pad", [x, np.array(pads), np.array(value, np.float32)], shape=["batch", 4, 6, 5])
    y = windows_of(graph, padded)
    assert rewritten(as_model(graph, append(graph, "Neg", "read", [y], shape=y.shape)), TokenGather())[1] == [0]


def test_windows_put_together_and_cropped_are_one_gather():
    x = gs.Variable("x", np.float32, ["4*batch", 6, 5])
    graph = gs.Graph(inputs=[gs.Variable("images", np.float32, ["batch", 1]), x])
    y = append(graph, "Reshape", "apart", [x, np.array([-1, 2, 2, 2, 3, 5])], shape=["batch", 2, 2, 2, 3, 5])
    y = append(graph, "Transpose", "merge", [y], shape=["batch", 2, 2, 2, 3, 5], perm=[0, 1, 3, 2, 4, 5])
    y = append(graph, "Reshape", "square", [y, np.array([-1, 4, 6, 5])], shape=["batch", 4, 6, 5])
    for axis, size in ((1, 3), (2, 4)):
        shape = ["batch", 3, 6 if axis == 1 else 4, 5]
        y = append(graph, "Slice", f"crop_{axis}", [y, *(np.array([n]) for n in (0, size, axis))], shape=shape)
    model = as_model(graph, append(graph, "Neg", "read", [y], shape=y.shape))
    after, changed = rewritten(model, TokenGather())
    assert changed == [1]
    assert ops(after) == ["Reshape", "Gather", "Reshape", "Neg"]
    given = {"x": image(8, 6, 5), "images": image(2, 1)}
    assert np.array_equal(run(after, **given), run(model, **given))


def test_what_takes_tokens_apart_stays():
    x = gs.Variable("x", np.float32, ["batch", 4, 6, 5])
    graph = gs.Graph(inputs=[x])
    y = rolled(graph, x, 2, 3)
    assert rewritten(as_model(graph, append(graph, "Neg", "read", [y], shape=y.shape)), TokenGather())[1] == [0]
