"""Polygraphy itself: its command compares what we wrote, and its loaders build our lowered graph. No GPU is needed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.backends.trt.build import build_serialized
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.build import build_planned, make_reference, plan_build
from repq_deploy.engines.reference import Reference
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.exchange.commands import polygraphy_run
from repq_deploy.exchange.engine import write_exchange
from tests.conftest import exported, lower_for

pytest.importorskip("polygraphy", reason="Polygraphy is not installed")

#: Without colours and asking nothing of a network.
_TOOL = "import sys; from polygraphy.tools import main; sys.exit(main())"


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    name, *words = shlex.split(line)
    assert name == "polygraphy"
    return subprocess.run(
        [sys.executable, "-c", _TOOL, *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def built(tmp_path: Path) -> tuple[SourceModel, Reference, Path, str]:
    """A canonical file, its reference, the folder of its tensors, and the command that compares its engine."""
    onnx.save(exported("vit", "w8a8"), tmp_path / "vit.onnx")
    source = read_source(tmp_path / "vit.onnx")
    reference = make_reference(source, data=None, seed=0)
    plan = plan_build(source, backend_named("onnxruntime"), stem=tmp_path / "vit")
    engine = build_planned(plan, reference)
    found = write_exchange(tmp_path / "tensors", engine.engine, engine.manifest, reference)
    assert {path.name for path in found.files} == {"inputs.json", "outputs.json", "images.bin", "logits.bin"}
    return source, reference, tmp_path / "tensors", found.commands["polygraphy"]


@pytest.mark.slow
def test_its_command_passes_the_engine_and_fails_on_outputs_of_others(built, tmp_path: Path) -> None:
    """An engine for ONNX Runtime is the lowered ONNX file; what must fail is the canonical one."""
    source, _, folder, command = built
    done = run(command, tmp_path)
    assert (done.returncode, "PASSED | SNR | All outputs matched" in done.stdout) == (0, True), done.stdout
    line = polygraphy_run(source.path, folder, runner="onnxrt", kind="onnx", min_sqnr_db=40.0)
    outputs = folder / "outputs.json"
    from polygraphy.comparator import RunResults

    results = RunResults.load(str(outputs))
    results["repq-deploy"][0]["logits"] = np.roll(results["repq-deploy"][0]["logits"], 1, axis=0)
    results.save(str(outputs))
    done = run(line, tmp_path)
    assert (done.returncode, "FAILED" in done.stdout) == (1, True)


#: Builds the file of its first argument as TensorRT-RTX. The wheels that can be had are imported by another name.
_LOADERS = """
import os, sys
os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when Polygraphy is imported
import tensorrt_rtx_bindings
sys.modules.setdefault("tensorrt_rtx", tensorrt_rtx_bindings)
from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxBytes, Profile
shape = tuple(int(side) for side in sys.argv[3].split("x"))
profile = Profile().add("images", min=(1, *shape), opt=(2, *shape), max=(4, *shape))
network = NetworkFromOnnxBytes(open(sys.argv[1], "rb").read(), strongly_typed=True)
config = CreateConfigRTX(compute_capabilities=[(8, 9)], profiles=[profile])
open(sys.argv[2], "wb").write(bytes(EngineBytesFromNetwork(network, config=config)()))
"""


@pytest.mark.slow
def test_its_loaders_build_the_lowered_graph_as_we_do(tmp_path: Path) -> None:
    """Two builds of ours differ in some bytes of their own, so sizes are compared."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    lowered, _ = lower_for(exported("vit", "w8a8"), "tensorrt-rtx", half=True)
    model, engine = tmp_path / "lowered.onnx", tmp_path / "theirs.engine"
    onnx.save(lowered, model)
    done = subprocess.run(
        [sys.executable, "-c", _LOADERS, model, engine, "3x32x32"],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours = build_serialized(
        trt, model.read_bytes(), profile=Profile(1, 2, 4), targets=("sm89",), progress=lambda fraction, phase: None
    )
    assert abs(len(ours) - engine.stat().st_size) <= 0.01 * len(ours)
