"""The README's program runs as it stands, and what it writes can be used."""

from __future__ import annotations

import re
from pathlib import Path

from repq_deploy.cli import evaluate

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_python_program_writes_a_file_that_can_be_evaluated(call, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    output = tmp_path / "demo.onnx"
    # Embedded weights and images in place of those that would have to be fetched.
    for name, here in {"deit_s.onnx": str(output), "deit_s": "demo", "images/train": "demo:calib"}.items():
        assert f'"{name}"' in program
        program = program.replace(f'"{name}"', repr(here))
    exec(compile(program, str(README), "exec"), {})  # noqa: S102 - our own text
    done = call(evaluate.main, output, "--data", "demo:test")
    assert done.code == 0, done.err
