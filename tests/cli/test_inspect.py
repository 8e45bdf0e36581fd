"""``repq-inspect`` in process: the site table, the passes, an engine's manifest, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from repq_deploy.cli import build_engine, inspect
from repq_deploy.engines.backends import openvino
from repq_deploy.engines.backends.openvino import BACKEND as OPENVINO
from repq_deploy.export.canonical import write_canonical
from tests.conftest import exported, quantized_model


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "vit.onnx"
    model = exported("vit", "w4a4")
    write_canonical(model, path)
    return path


@pytest.fixture
def run(call: Callable[..., Any]) -> Callable[..., Any]:
    def _run(*arguments: object) -> Any:
        return call(inspect.main, *arguments)

    return _run


def test_the_site_table_says_what_is_stored(run: Callable[..., Any], vit: Path) -> None:
    done = run(vit, "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert (result["input"], result["output"]) == (["batch", 3, 32, 32], ["batch", 5])
    assert result["metadata"]["repq.bits"] == "w4a4"
    assert "lowering" not in result
    sites = {row["name"]: row for row in result["sites"]}
    expected = quantized_model("vit", "w4a4").quantizers()
    assert set(sites) == set(expected)
    for name, quantizer in expected.items():
        row = sites[name]
        assert row["bits"] == quantizer.bits, name
        assert row["scale"] == pytest.approx([quantizer.scale.min().item(), quantizer.scale.max().item()])
        assert row["channels"] == quantizer.scale.numel()
        assert row["zero_point"] == 0
    assert sites["blocks.0.attn.p"]["kind"] == "log-sqrt2"
    weight = sites["blocks.1.mlp.fc1.weight"]
    assert (weight["stored"], weight["shape"], weight["kind"]) == ("INT4", [48, 192], "weight")
    assert sites["head.weight"]["stored"] == "INT8"
    assert sites["head.input"]["codes"] == [-128, 127]
    names = list(sites)
    assert names.index("blocks.0.mlp.fc1.weight") == names.index("blocks.0.mlp.fc1.input") + 1


def test_what_the_architecture_refused_is_shown(run: Callable[..., Any], vit: Path, tmp_path: Path) -> None:
    assert "refused" not in run(vit).out
    model = onnx.load(vit)
    entry = model.metadata_props.add(key="repq.refused", value='["k not centered: RoPE", "no fold: none"]')
    changed = tmp_path / "refused.onnx"
    changed.write_bytes(model.SerializeToString())
    lines = run(changed).out.splitlines()
    assert [line for line in lines if line.startswith("refused")] == [
        "refused          k not centered: RoPE",
        "refused          no fold: none",
    ]
    entry.value = '{"k": 1}'
    changed.write_bytes(model.SerializeToString())
    assert "damaged metadata" in run(changed).err


def test_passes_count_places(run: Callable[..., Any], vit: Path) -> None:
    done = run(vit, "--json", "--passes", "tensorrt-rtx", "--compute", "fp8+int8")
    lowering = json.loads(done.out)["lowering"]
    counts = {one["name"]: one["changed"] for one in lowering["passes"]}
    assert (counts["AttentionScale"], counts["Log2PlainOps"], counts["FP8Products"]) == (2, 2, 10)
    assert lowering["precision"] == "fp16"
    text = run(vit, "--passes", "openvino").out
    assert "Log2ByLogSumExp   2\n" in text
    assert "blocks.0.attn.q " in text
    assert "-7 to 7" in text or "-8 to 7" in text


def test_an_engine_shows_its_manifest(run: Callable[..., Any], call: Callable[..., Any], vit: Path) -> None:
    assert call(build_engine.main, vit, "--backend", "onnxruntime").code in (0, 1)
    engine = vit.with_name("vit.onnxruntime.engine")
    result = json.loads(run(engine, "--json").out)
    assert result["manifest"]["backend"] == "onnxruntime"
    text = run(engine, "--passes", "onnxruntime").out
    assert "verdict " in text
    assert "UnpackInt4" in text
    wrong = run(engine, "--passes", "openvino")
    assert wrong.code == 2
    assert "was built for onnxruntime" in wrong.err


@pytest.mark.skipif(not openvino.BACKEND.is_installed(), reason="OpenVINO is not installed")
def test_an_openvino_engine_says_which_products_run_on_integers(
    run: Callable[..., Any], call: Callable[..., Any], vit: Path
) -> None:
    assert call(build_engine.main, vit, "--backend", "openvino").code == 0
    engine = vit.with_name("vit.openvino.engine")
    kernels = json.loads(run(engine, "--json").out)["product_kernels"]
    if not OPENVINO.saturates():  # elsewhere products that could saturate are in float
        assert kernels == {"i8": 12, "f32": 2}
    assert sum(kernels.values()) == 14
    assert f"{kernels['i8']} in i8 ({100 * kernels['i8'] / 14:.0f} % on integers)" in run(engine).out
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "truncated" in run(engine).err


@pytest.mark.parametrize(
    ("name", "message"), [("nothing.onnx", "no such file"), ("nothing.engine", "no such file"), ("text.onnx", "ONNX")]
)
def test_bad_input(run: Callable[..., Any], tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    done = run(tmp_path / name)
    assert done.code == 2
    assert message in done.err


def test_an_unknown_backend_and_what_fp8_cannot_hold(run: Callable[..., Any], vit: Path) -> None:
    assert "expected one of onnxruntime, openvino" in run(vit, "--passes", "tpu").err
    refused = run(vit, "--passes", "tensorrt-rtx", "--compute", "fp8")
    assert refused.code == 2
    assert "head.input (codes -128 to 127)" in refused.err
    assert run(vit, "--passes", "tensorrt-rtx", "--compute", "fp8", "--allow-rounding").code == 0
    for arguments, message in (
        (("--passes", "openvino", "--compute", "fp8"), "backend openvino multiplies quantized operands in int8 only"),
        (("--passes", "tensorrt-rtx", "--compute", "int4"), "--compute int4: expected one of int8"),
        (("--compute", "int8"), "name both"),
    ):
        refused = run(vit, *arguments)
        assert (refused.code, message in refused.err) == (2, True)
