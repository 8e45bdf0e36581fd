"""The architecture, as imports: calib_data, then the core, export, engines, and the command line; never back."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from repq_deploy.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400

#: Folder -> what nothing in it may import. Inside ``repq_deploy/`` the core is everything but the command line.
FORBIDDEN = {
    "calib_data": ("repq_deploy.export", "repq_deploy.engines", "repq_deploy.cli", "repq_deploy.models"),
    "repq_deploy": ("repq_deploy.export", "repq_deploy.engines", "repq_deploy.cli"),
    "export": ("repq_deploy.engines", "repq_deploy.cli"),
    "engines": ("repq_deploy.cli",),
}


def sources(folder: str) -> list[Path]:
    """Python files of a folder; of ``repq_deploy``, those of the core."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.parent != ROOT / "repq_deploy" / "cli")


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it, and every name it imports from one, as ``module.name``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_methods_and_steps_know_nothing_of_onnx():
    paths = [*(ROOT / "repq_deploy" / "methods").glob("*.py"), *(ROOT / "repq_deploy" / "steps").glob("*.py")]
    assert len(paths) > len(METHODS)
    assert [name for path in paths for name in imported(path) if name.startswith("onnx")] == []


def test_export_knows_no_method():
    """Names in text apart from docstrings; "repq" is the domain of the custom nodes."""
    names = set(METHODS) - {"repq"}
    assert "erq" in names
    for path in sources("export"):
        assert not any(name.startswith("repq_deploy.methods") for name in imported(path)), path
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not names & {node.value for node in nodes if isinstance(node, ast.Constant)}, path


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str):
    assert sources(folder)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(path)
        if any(name == module or name.startswith(f"{module}.") for module in FORBIDDEN[folder])
    ]
    assert wrong == []


def test_no_long_files():
    folders = (*FORBIDDEN, "repq_deploy/cli", "benchmarks", "tests")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_package_is_installed():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name: name.replace(".", "/") for name in tool["packages"]}
    for package, folder in tool["package-dir"].items():
        moved = package.replace(".", "/")
        folders |= {name: path.replace(moved, folder, 1) for name, path in folders.items() if path.startswith(moved)}
    files = (path for folder in FORBIDDEN for path in (ROOT / folder).rglob("*.py"))
    assert set(folders.values()) == {path.parent.relative_to(ROOT).as_posix() for path in files}
