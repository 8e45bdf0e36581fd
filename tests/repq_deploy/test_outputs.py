"""No output may be an input, by whatever name, nor two outputs one file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.outputs import check_outputs


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"weights")
    return path


def _link(path: Path) -> Path:
    link = path.with_name("symbolic")
    link.symlink_to(path)
    return link


def _hard_link(path: Path) -> Path:
    link = path.with_name("hard")
    os.link(path, link)
    return link


def _around(path: Path) -> Path:
    return path.parent / ".." / path.parent.name / path.name


@pytest.mark.parametrize("alias", [lambda path: path, _link, _hard_link, _around], ids=["same", "link", "hard", "dots"])
def test_an_output_that_is_an_input_is_refused_by_both_names(weights: Path, alias):
    with pytest.raises(BadInput, match=r"^--output .*: is also --checkpoint .*, which would be lost"):
        check_outputs([("--output", alias(weights))], [("--recipe", None), ("--checkpoint", weights)])
    assert weights.read_bytes() == b"weights"


def test_two_outputs_of_one_name_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r"--save-quantized .*x\.onnx: is also --output"):
        check_outputs([("--output", tmp_path / "x.onnx"), ("--save-quantized", tmp_path / "x.onnx")], [])


def test_what_differs_is_let_pass_and_what_cannot_be_written_is_not(tmp_path: Path, weights: Path):
    check_outputs(
        [("--output", tmp_path / "x.onnx"), ("--plot", None)], [("--calib-data", "demo"), ("--recipe", weights)]
    )
    with pytest.raises(BadInput, match="does not exist"):
        check_outputs([("--output", tmp_path / "none" / "x.onnx")], [])
