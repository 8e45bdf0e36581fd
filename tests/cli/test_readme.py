"""The README's program runs as it stands, what it writes can be used, and pages say what the code has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args, get_type_hints

from repq_deploy.cli import evaluate
from repq_deploy.quant.softmax import SOFTMAX_KINDS
from repq_deploy.steps import STEPS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
METHODS_PAGE = ROOT / "docs" / "guides" / "methods.md"


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


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 110


def test_links_between_pages_lead_somewhere():
    folders = ("docs/**", "examples/*")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(p for f in folders for p in ROOT.glob(f"{f}/*.md"))]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 30
    assert [f"{page.relative_to(ROOT)}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_step_is_listed_with_its_options():
    text = METHODS_PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.partition("| step | options")[2], re.MULTILINE))
    for name, step in STEPS.items():
        listed = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", rows[name]))))
        kinds = get_type_hints(step)
        for option, parameter in list(inspect.signature(step).parameters.items())[1:]:
            choices = get_args(kinds[option])
            assert {option, *choices} <= listed, (name, option)
            assert not choices or f"`{option}: {parameter.default}`" in rows[name]
    (softmax,) = re.findall(r"^`softmax:` is (.*)$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", softmax)) == set(SOFTMAX_KINDS)
