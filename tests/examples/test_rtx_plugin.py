"""examples/12-rtx-plugin: what its program says without a GPU, and which files TensorRT-RTX's parser takes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import exported, lower_for
from tests.docs.pages import ROOT

PROGRAM = ROOT / "examples" / "12-rtx-plugin" / "check.py"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"

#: Prints how many of a file's nodes the parser takes, and whether these are all.
_PARSE = """
import sys
import tensorrt_rtx_bindings as trt

log = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
print(parser.supports_model_v2(open(sys.argv[1], "rb").read()))
"""


def _said(tmp_path: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    """What the program leaves where these modules, as source, are installed beside others."""
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source)
    np.savez(tmp_path / "reference.npz", images=np.zeros((1, 3, 8, 8), np.float32), logits=np.ones((1, 2), np.float32))
    onnx.save(onnx.ModelProto(), tmp_path / "model.onnx")
    command = [sys.executable, str(PROGRAM), str(tmp_path / "model.onnx"), str(tmp_path / "reference.npz")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(find_spec(PLUGIN) is not None, reason="the plugin is installed")
def test_without_the_plugin_it_says_what_to_install(tmp_path: Path) -> None:
    done = _said(tmp_path)
    assert done.returncode == 3
    assert done.stderr == "the plugin is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx\n"


def test_a_plugin_that_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    library = tmp_path / "missing.so"
    source = f"get_ep_name = lambda: 'NvTensorRTRTXExecutionProvider'\nget_library_path = lambda: {str(library)!r}\n"
    done = _said(tmp_path, **{PLUGIN: source})
    assert done.returncode == 3
    assert "the plugin cannot be loaded, as without NVIDIA's driver: " in done.stderr
    assert str(library) in done.stderr


@pytest.mark.skipif(find_spec(PLUGIN) is None, reason=f"the plugin is not installed: {PLUGIN}")
def test_the_plugin_without_a_gpu_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    done = _said(tmp_path)
    assert done.returncode == 3
    assert "libcuda.so" in done.stderr or "finds no GPU" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt_rtx_bindings") is None, reason="needs the extra `tensorrt-rtx`")
def test_its_parser_takes_canonical_files_of_8_bits_and_no_engine_for_cpus(tmp_path: Path) -> None:
    canonical, logarithmic = exported("vit", "w8a8", softmax="uniform"), exported("vit", "w4a4")
    assert {node.domain for node in canonical.graph.node} == {""}
    assert {node.domain for node in logarithmic.graph.node} == {"", "repq"}
    engine, _ = lower_for(canonical, "onnxruntime")
    assert "com.microsoft" in {node.domain for node in engine.graph.node}
    taken = [_taken(model, tmp_path) for model in (canonical, lower_for(logarithmic, "tensorrt-rtx")[0])]
    assert taken == [True, True]
    assert [_taken(model, tmp_path) for model in (logarithmic, engine)] == [False, False]


def _taken(model: onnx.ModelProto, folder: Path) -> bool:
    onnx.save(model, folder / "model.onnx")
    command = [sys.executable, "-c", _PARSE, str(folder / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1] == "True"
