"""The program of examples/06-plain-onnxruntime needs nothing of ours, and prepares an image as we do."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repq_deploy.calib_data.preprocess import Preprocess

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "06-plain-onnxruntime" / "classify.py"

#: Refuses what is ours or torch, then imports the program's file.
_ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("repq_deploy", "torch", "timm", "onnx"), None))
runpy.run_path(sys.argv[1], run_name="classify")
assert "onnxruntime" in sys.modules
"""


def test_it_imports_nothing_of_ours():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "onnxruntime", "PIL"}
    subprocess.run([sys.executable, "-c", _ALONE, str(SCRIPT)], check=True)


@pytest.mark.parametrize("size", [(28, 28), (100, 61), (17, 90)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
def test_it_prepares_an_image_as_we_do(size: tuple[int, int], crop_pct: float, tmp_path: Path):
    spec = importlib.util.spec_from_file_location("classify", SCRIPT)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    how = Preprocess((28, 28), crop_pct, "center", "bicubic", (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    found = program.prepare(str(tmp_path / "image.png"), json.loads(json.dumps(asdict(how))))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, how.pixels(Image.fromarray(pixels)))
