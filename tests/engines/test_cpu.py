"""For which CPUs an engine is built, and what happens on another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from repq_deploy.engines.backends import onnxruntime as ort
from repq_deploy.engines.backends.onnxruntime import OnnxRuntimeBackend
from repq_deploy.engines.backends.tensorrt_rtx import BACKEND as RTX
from repq_deploy.engines.batching import GraphRunner
from repq_deploy.engines.build import BuiltEngine, build_planned, plan_build
from repq_deploy.engines.compute import lowering_for
from repq_deploy.engines.cpu import CpuForm, can_run, choose_form, kind_here
from repq_deploy.engines.reference import make_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.export.lowering import saturation_of
from tests.engines.graphs import oracle, write_tiny
from tests.export.passes.saturating import saturating


@pytest.mark.parametrize(
    ("asked", "here", "products", "share", "kind", "in_16_bits"),
    [
        (None, "vnni", 0, 0.0, "any", False),  # nothing saturates: one form for all
        ("vnni", "avx2", 0, 0.0, "any", False),
        (None, "vnni", 2, 0.01, "any", True),  # patch embedding and head
        (None, "vnni", 50, 1.0, "vnni", False),
        (None, "arm64", 50, 1.0, "arm64", False),
        (None, "avx2", 50, 1.0, "any", True),
        ("any", "vnni", 50, 1.0, "any", True),
        ("avx2", "vnni", 50, 1.0, "any", True),
        ("vnni", "avx2", 50, 1.0, "vnni", False),
        ("arm64", "avx2", 2, 0.01, "arm64", False),
        ("native", "avx2", 2, 0.01, "any", True),
        ("native", "vnni", 2, 0.01, "vnni", False),
    ],
)
def test_the_form_follows_the_model_the_option_and_the_machine(asked, here, products, share, kind, in_16_bits):
    form = choose_form(asked, here=here, products=products, weight_share=share)
    assert (form.kind, form.sums_in_16_bits) == (kind, in_16_bits)


def test_kinds():
    assert kind_here(saturates=True) == "avx2"
    assert kind_here(saturates=False) in ("vnni", "arm64")
    assert [can_run(kind, saturates=True) for kind in ("any", "vnni", "arm64")] == [True, False, False]
    assert can_run("vnni", saturates=False)


@pytest.fixture
def source(tmp_path: Path) -> SourceModel:
    return write_tiny(tmp_path, bits="w8a8")


def made(source: SourceModel, cpu: str | None = None) -> BuiltEngine:
    plan = plan_build(source, ort.BACKEND, lowering_for(ort.BACKEND, cpu=cpu), stem=source.path.with_suffix(""))
    return build_planned(plan, make_reference(source, data=None, seed=0))


@pytest.fixture
def saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "_saturates", lambda: True)


@pytest.fixture
def sums_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with VNNI, whatever this one is; its kernels are those without optimizations of an exact form."""
    monkeypatch.setattr(ort, "_saturates", lambda: False)


def test_the_probe_agrees_with_the_kernel():
    """Two products of 255 by 127, in the very operator that engines have."""
    weights = np.full((64, 32), 127, np.int8)
    scales = [onnx.numpy_helper.from_array(np.ones((), np.float32), name) for name in ("sa", "sb")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulIntegerToFloat", ["a", "b", "sa", "sb"], ["y"], domain="com.microsoft")],
        "product",
        [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [197, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [197, 32])],
        [onnx.numpy_helper.from_array(weights, "b"), *scales],
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"a": np.full((197, 64), 255, np.uint8)})
    assert bool((y != 255 * 127 * 64).any()) is ort.BACKEND.saturates()


def test_where_bytes_saturate_the_default_is_a_form_that_does_not(source: SourceModel, saturates: None) -> None:
    built = made(source)
    assert built.manifest.cpu == "any"
    assert built.manifest.validation.verdict == "PASSED"
    assert saturation_of(onnx.load(built.engine)).products == 0
    assert built.engine.name == "tiny.onnxruntime.engine"
    assert "cannot saturate" in str(built.form and built.form.why)


def test_an_engine_for_other_cpus_is_built_but_not_run(source: SourceModel, saturates: None) -> None:
    built = made(source, "vnni")
    assert built.engine.name == "tiny.onnxruntime-vnni.engine"
    assert (built.manifest.cpu, built.manifest.kernel_codes) == ("vnni", None)
    assert built.manifest.validation.verdict == "BUILT, NOT RUN"
    metadata = {entry.key: entry.value for entry in onnx.load(built.engine).metadata_props}
    assert metadata["repq.engine.cpu"] == "vnni"
    with pytest.raises(BackendMissing, match=r"is for x86 CPUs with VNNI; .* --cpu any; or export --bits w7a8"):
        open_engine(built.engine)


def test_kernels_that_saturate_are_named_as_such(
    source: SourceModel, monkeypatch: pytest.MonkeyPatch, sums_in_32_bits: None
) -> None:
    """A machine that was taken for one with VNNI: the passes are right, the kernel of signed weights is not."""
    load = OnnxRuntimeBackend.load_graph

    def in_16_bits(self: OnnxRuntimeBackend, model: onnx.ModelProto) -> GraphRunner:
        return load(self, saturating(model))

    monkeypatch.setattr(OnnxRuntimeBackend, "load_graph", in_16_bits)
    with pytest.raises(BuildFailed, match=r"saturates on this CPU: .* most at logits; 1 products .* --cpu any"):
        made(source)
    assert not list(source.path.parent.glob("*.engine"))


@pytest.mark.parametrize("cpu", ["any", None])
def test_any_client_gets_what_our_own_runner_gives(source: SourceModel, cpu: str | None) -> None:
    built = made(source, cpu)
    images = np.random.default_rng(0).normal(size=(5, *source.image_shape)).astype(np.float32)
    (alone,) = onnxruntime.InferenceSession(str(built.engine)).run(None, {"images": images})
    assert np.array_equal(alone, open_engine(built.engine)[0](images))
    np.testing.assert_allclose(alone, oracle(source.model, images), atol=1e-3)
    assert built.manifest.session == {}


def test_unknown_kinds_and_gpus_are_refused() -> None:
    with pytest.raises(BadInput, match="--cpu sparc: expected one of any, native, vnni, avx2, arm64"):
        lowering_for(ort.BACKEND, cpu="sparc")
    with pytest.raises(BadInput, match="tensorrt-rtx builds for GPUs; use --target"):
        lowering_for(RTX, cpu="any")


def test_a_form_says_why():
    assert choose_form(None, here="vnni", products=0, weight_share=0.0) == CpuForm(
        "any", False, "none of its products of bytes can saturate"
    )
