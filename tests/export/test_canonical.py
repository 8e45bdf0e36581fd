import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from repq_deploy.engines.backends.onnxruntime import BACKEND
from repq_deploy.export.canonical import canonical_onnx, write_canonical
from repq_deploy.export.default_session import exact_by_default
from repq_deploy.export.domain import DEQUANTIZE_LOG2, DOMAIN, QUANTIZE_LOG2, functions
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.prove_export import SiteAgreement, compare_export, unexplained
from repq_deploy.quant.ops import log2_codes, log2_values
from repq_deploy.quant.quantizers import Log2Quantizer, UniformQuantizer
from tests.conftest import exported, images_for, quantized_model


def both(family: str, bits: str, preset: str = "deploy"):
    """The quantized model and its canonical graph."""
    return quantized_model(family, bits, preset=preset), exported(family, bits, preset=preset)


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
@pytest.mark.parametrize("preset", ["deploy", "paper"])
def test_codes_agree_at_every_site(family, bits, preset):
    model, onnx_model = both(family, bits, preset=preset)
    agreement = compare_export(model, onnx_model, images_for(family))
    activations = [name for name in model.quantizers() if not name.endswith(".weight")]
    assert sorted(site.site for site in agreement.sites) == sorted(activations)
    for site in agreement.sites:
        assert site.holds, site
        assert site.levels <= 2**site.bits, site
    assert agreement.relative_error < 1e-5


def test_a_wrong_scale_shows_in_the_agreement():
    model, onnx_model = both("vit", "w4a4")
    onnx_model = copy.deepcopy(onnx_model)
    for tensor in onnx_model.graph.initializer:
        if tensor.name == "blocks.1.attn.q/scale":
            wrong = onnx.numpy_helper.to_array(tensor) * np.float32(1.05)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wrong, tensor.name))
    agreement = compare_export(model, onnx_model, images_for("vit"))
    assert agreement.worst.site == "blocks.1.attn.q"
    assert agreement.worst.equal < 0.99
    # PyTorch goes on with the right scale, so the product that reads q differs too, and nothing else.
    assert [site.site for site in agreement.failing] == ["blocks.1.attn.q", "blocks.1.attn.p"]


def test_the_graph_is_plain_integers_with_zero_point_zero(family):
    model = exported(family, "w4a4")
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    assert {domain for domain, _ in operators} == {"", DOMAIN}
    assert {op for domain, op in operators if domain == DOMAIN} == {QUANTIZE_LOG2, DEQUANTIZE_LOG2}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not onnx.numpy_helper.to_array(initializers[node.input[2]]).any(), node.name
        if node.op_type == "MatMul" and node.input[1] in producers:
            dequantize = producers[node.input[1]]
            assert dequantize.op_type in ("DequantizeLinear",), node.name
    weights = [t for t in model.graph.initializer if t.name.endswith(".weight/codes")]
    kinds = {t.name: t.data_type for t in weights}
    assert all(
        kind == (onnx.TensorProto.INT8 if "patch_embed" in name or "head" in name else onnx.TensorProto.INT4)
        for name, kind in kinds.items()
    )
    large = [
        t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 2000
    ]
    assert all(name.endswith(("position_bias", "attn_mask")) for name in large), large


def test_two_exports_give_the_same_bytes(tmp_path, each_family):
    first = exported(each_family, "w4a4")
    second = canonical_onnx(quantized_model(each_family, "w4a4"), tuple(images_for(each_family).shape[1:]))
    for name, model in (("a", first), ("b", second)):
        write_canonical(model, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"/" + b"site-packages" not in (tmp_path / "a").read_bytes()


def default_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """With default optimizations, and what the file's metadata asks for where this CPU saturates products of bytes."""
    options = onnxruntime.SessionOptions()
    (exact_on,) = [entry.value for entry in model.metadata_props if entry.key == "repq.default_session"]
    if exact_on != "any" and BACKEND.saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.mark.parametrize("bits", ["w8a8", "w7a7", "w4a4"])
def test_any_batch_runs_also_with_default_optimizations(family, bits):
    onnx_model = exported(family, bits)
    default, reference = default_session(onnx_model), reference_session(onnx_model)
    for batch in (1, 5):
        images = images_for(family, batch).numpy()
        (expected,) = reference.run(None, {"images": images})
        (logits,) = default.run(None, {"images": images})
        assert logits.shape == expected.shape == (batch, 5)
        assert np.linalg.norm(logits - expected) / np.linalg.norm(expected) < 0.05


@pytest.mark.parametrize(
    ("bits", "preset", "exact_on"),
    [
        ("w8a8", "deploy", "vnni,arm64"),
        ("w4a4", "deploy", "vnni,arm64"),  # the head's weights have 8 bits
        ("w6a6", "paper", "any"),
        ("w4a4", "paper", "any"),
    ],
)
def test_metadata_says_where_a_default_session_is_exact(bits, preset, exact_on):
    onnx_model = exported("vit", bits, preset=preset)
    assert exact_by_default(onnx_model) == exact_on
    metadata = {entry.key: entry.value for entry in onnx_model.metadata_props}
    assert metadata["repq.default_session"] == exact_on


def test_metadata_says_what_it_is(tmp_path):
    model = exported("vit", "w4a6")
    write_canonical(model, tmp_path / "m.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert metadata["repq.model"] == "tiny-vit"
    assert metadata["repq.bits"] == "w4a6"
    assert metadata["repq.method"] == "repq"
    assert json.loads(metadata["repq.versions"])["torch"] == torch.__version__


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_function_bodies_equal_torch(bits, steps):
    """All codes exactly, all values bit for bit, parity included."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                QUANTIZE_LOG2, ["x", "s"], ["codes"], domain=DOMAIN, bits=bits, steps_per_octave=steps
            ),
            onnx.helper.make_node(
                DEQUANTIZE_LOG2, ["codes", "s"], ["values"], domain=DOMAIN, bits=bits, steps_per_octave=steps
            ),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])],
        [
            onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.UINT8, [None]),
            onnx.helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, [None]),
        ],
        [onnx.numpy_helper.from_array(np.float32(0.83), "s")],
    )
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=imports, functions=functions(21))
    onnx.checker.check_model(model, full_check=True)
    scale = torch.tensor(0.83)
    every_code = log2_values(torch.arange(2.0**bits), scale, bits, steps)
    x = torch.cat([every_code, torch.rand(4000) ** 8, torch.zeros(1), torch.ones(1)])
    codes, values = reference_session(model).run(None, {"x": x.numpy()})
    expected = log2_codes(x, scale, bits, steps)
    normal = every_code.numpy() >= np.finfo(np.float32).tiny  # powers below are zero or nearly so in float32
    assert np.array_equal(codes[: 2**bits][normal], np.arange(2**bits)[normal])
    assert np.mean(codes == expected.numpy()) > 0.999
    assert np.array_equal(values, log2_values(torch.from_numpy(codes).float(), scale, bits, steps).numpy())


@pytest.mark.parametrize(
    ("codes", "others", "holds"), [(10**6, 100, True), (10**6, 101, False), (500, 4, True), (500, 5, False)]
)
def test_few_codes_may_differ(codes, others, holds):
    assert SiteAgreement("x", codes, 0.5, others, 16, 4).holds == holds


@pytest.mark.parametrize(
    ("quantizer", "on_tie"),
    [(UniformQuantizer("x", 4), 2.5), (Log2Quantizer("x", 4, steps_per_octave=1), 2**-2.5)],
)
def test_a_code_may_differ_on_a_tie_only(quantizer, on_tie):
    quantizer.scale = torch.tensor(1.0)
    x = on_tie * torch.tensor([1 - 1e-6, 1 + 1e-6, 1 - 1e-2, 1 + 1e-2, 0.0])
    low, high = sorted(quantizer.codes(x[2:4]).tolist())
    swapped = {low: high, high: low}
    given = torch.tensor([swapped.get(code, code) for code in quantizer.codes(x).tolist()])
    assert (quantizer.codes(x) != given).sum() == 4
    assert unexplained(quantizer, x, given) == 2


def test_constants_of_function_bodies_are_tensors_of_their_type():
    """onnxslim, which goes by NumPy, makes a double of an attribute ``value_float``, and the file unreadable."""
    constants = [node for body in functions(21) for node in body.node if node.op_type == "Constant"]
    kinds = [attribute.name for node in constants for attribute in node.attribute]
    assert set(kinds) == {"value", "value_int"}  # value_int stands for an attribute of the caller
    tensors = [node.attribute[0].t for node in constants if node.attribute[0].name == "value"]
    assert {tensor.data_type for tensor in tensors} == {onnx.TensorProto.FLOAT}
