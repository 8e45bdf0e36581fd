"""What runs an engine needs nothing of what calibrates and exports: tried where none of it can be imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from repq_deploy.calib_data import Preprocess
from tests.engines.graphs import CLASSES, SIDE, write_tiny

ROOT = Path(__file__).resolve().parents[1]
OF_EXPORT = ("torch", "timm", "torchvision", "onnxscript", "scipy")
#: Files and folders of the half that runs engines, and those of ``export`` and ``cli`` that only export needs.
RUNNING = (
    "bits",
    "bounds",
    "errors",
    "evaluation",
    "inputs",
    "outputs",
    "plots",
    "records",
    "recipes",
    "calib_data",
    "engines",
    "exchange",
    "remote",
    "report",
    "system",
    *(("serve",) if find_spec("uvicorn") else ()),  # of an extra
    "triton",
)
RUNNING_TOO = ("export", "cli")
#: ``windows`` belongs to that system alone.
EXPORTING = {
    *("export.canonical", "export.float_model", "export.measures.measuring", "export.prove_export", "export.trace"),
}


@pytest.fixture
def without_export(tmp_path: Path) -> dict[str, str]:
    """An environment in which those packages are not installed, in child processes neither."""
    folder = tmp_path / "missing"
    folder.mkdir()
    for name in OF_EXPORT:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('not here', name={name!r})\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def python(code: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def command(verb: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(f"from repq_deploy.cli.{verb} import main; main()", environment, *arguments)


def test_every_module_that_runs_engines_can_be_imported(without_export):
    package = ROOT / "repq_deploy"
    paths = [path for room in RUNNING for path in (package / f"{room}.py", *(package / room).rglob("*.py"))]
    paths += [path for room in RUNNING_TOO for path in (package / room).rglob("*.py")]
    parts = (path.relative_to(package).with_suffix("").parts for path in paths if path.is_file())
    names = {".".join(part for part in place if part != "__init__") for place in parts}
    assert names > EXPORTING
    code = "\n".join(f"import repq_deploy.{name}" for name in sorted(names - EXPORTING - {"system.windows"}))
    done = python(code, without_export)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_engine_is_built_inspected_measured_and_evaluated(without_export, tmp_path):
    data = tmp_path / "data.npz"
    model = write_tiny(tmp_path).path
    recorded = Preprocess((SIDE, SIDE), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to_json()
    proto = onnx.load(model)
    next(entry for entry in proto.metadata_props if entry.key == "repq.preprocess").value = recorded
    onnx.save(proto, model)
    images = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(8) % CLASSES)
    built = command("build_engine", without_export, str(model), "--backend", "onnxruntime", "--json")
    assert built.returncode == 0, built.stderr
    engine = json.loads(built.stdout)["engines"][0]["engine"]
    for verb, arguments in (
        ("build_engine", ("--validate-only", engine)),
        ("inspect", (engine,)),
        ("evaluate", (engine, "--data", str(data), "--against", str(model))),
        ("bench", (engine, str(model), "--batch", "1", "--rounds", "1", "--seconds", "0.1")),
    ):
        done = command(verb, without_export, *arguments)
        assert done.returncode == 0, (verb, done.stderr)


def test_what_needs_the_other_half_says_how_to_install_it(without_export, tmp_path):
    done = command("export", without_export, "demo", "-o", str(tmp_path / "demo.onnx"))
    assert done.returncode == 3
    advice = "which is not installed; run: pip install 'repq-deploy[export]'"
    assert re.fullmatch(rf"repq-export: error: needs t\w+, {re.escape(advice)}\n", done.stderr)
    assert not (tmp_path / "demo.onnx").exists()
