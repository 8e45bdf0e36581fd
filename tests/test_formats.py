"""The programs beside the package: they read its files without it, as any other client would."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.build import build_planned, make_reference, plan_build
from repq_deploy.export.table import site_table
from tests.conftest import exported
from tests.engines.graphs import write_tiny

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("bits", "softmax"), [("w4a4", "log2"), ("w8a8", "uniform"), ("w4a4", "tan")])
def test_quantizers_are_read_from_the_graph_alone(bits, softmax):
    model = exported("vit", bits, softmax=softmax)
    read = runpy.run_path(str(ROOT / "export" / "read_quantizers.py"))["quantizers"]
    found = {name: (kind, codes) for name, kind, codes, _ in read(model)}
    rows = site_table(model)
    assert found.keys() == {row.name for row in rows}
    for row in rows:
        kind, codes = found[row.name]
        assert codes <= 2**row.bits
        if row.kind in ("weight", "activation"):
            assert kind == row.kind
        else:
            assert (kind[-14:], codes) == ("QuantizeLinear", 2**row.bits)


@pytest.mark.parametrize(("name", "program"), [("onnxruntime", "run_onnxruntime"), ("openvino", "run_openvino")])
def test_an_engine_runs_in_its_runtime_alone(tmp_path, name, program):
    pytest.importorskip(name)
    source = write_tiny(tmp_path)
    plan = plan_build(source, backend_named(name), stem=tmp_path / "tiny")
    built = build_planned(plan, make_reference(source, data=None, seed=0))
    command = [sys.executable, "-P", str(ROOT / "engines" / f"{program}.py"), str(built.engine), str(plan.reference)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    error = re.fullmatch(r"classes \[[\d, ]+\], relative error (\S+)\n", done.stdout)
    assert error is not None
    assert float(error[1]) < 1e-3
