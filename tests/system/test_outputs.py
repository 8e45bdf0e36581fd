"""No output may be an input, by whatever name, nor two outputs one file."""

from __future__ import annotations

import ntpath
import os
import posixpath
import sys
from pathlib import Path

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.system.outputs import check_outputs


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


@pytest.mark.parametrize("system", ["win32", "darwin", "linux"])
def test_names_that_differ_in_case_only_are_one_file_where_the_system_says_so(tmp_path: Path, monkeypatch, system: str):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os.path, "normcase", (ntpath if system == "win32" else posixpath).normcase)
    outputs = [("--output", tmp_path / "m.onnx"), ("--save-quantized", tmp_path / "M.onnx")]
    if system == "linux":
        check_outputs(outputs, [])
        return
    with pytest.raises(BadInput, match=r"--save-quantized .*M\.onnx: is also --output .*m\.onnx"):
        check_outputs(outputs, [])


def test_what_differs_is_let_pass_and_what_cannot_be_written_is_not(tmp_path: Path, weights: Path):
    check_outputs(
        [("--output", tmp_path / "x.onnx"), ("--plot", None)], [("--calib-data", "demo"), ("--recipe", weights)]
    )
    with pytest.raises(BadInput, match="does not exist"):
        check_outputs([("--output", tmp_path / "none" / "x.onnx")], [])


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b"", True),
        (b'{"mine": 1}', False),
        (b"x" * 10**6, False),
        (b'{"versions": {"repq-deploy": "0.1.0"}}', True),
        (b"x" * 10**6 + b"repq.model", True),  # metadata stand at the end of an ONNX file
        (b"x" * 10**6 + b"repq.model" + b"x" * 10**6, False),
    ],
    ids=["empty", "json", "long", "manifest", "model", "by chance"],
)
def test_what_is_not_ours_is_replaced_only_if_told_to(tmp_path: Path, content: bytes, ours: bool) -> None:
    output = tmp_path / "m.onnx"
    output.write_bytes(content)
    if ours:
        check_outputs([("--output", output)], [])
    else:
        with pytest.raises(BadInput, match=r"--output .*m\.onnx: is there, and not of repq-deploy; .* or --force"):
            check_outputs([("--output", output)], [])
    check_outputs([("--output", output)], [], force=True)
    assert output.read_bytes() == content


def test_weights_and_engines_belong_to_the_file_that_names_them(tmp_path: Path) -> None:
    for name, named_by in (("m.onnx.data", "m.onnx"), ("m.tensorrt.engine", "m.tensorrt.json")):
        (tmp_path / name).write_bytes(b"numbers")
        with pytest.raises(BadInput, match="not of repq-deploy"):
            check_outputs([("engine", tmp_path / name)], [])
        (tmp_path / named_by).write_bytes(b"repq-deploy")
        check_outputs([("engine", tmp_path / name)], [])
