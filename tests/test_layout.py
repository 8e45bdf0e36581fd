"""The architecture, as imports: rooms in one order, and no import that goes back."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import repq_deploy
from repq_deploy.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "repq_deploy"
MAX_LINES = 300
MAX_FILES = 16

#: Files and folders of the package. Each may import those above it and itself, nothing below.
ROOMS = (
    *("errors", "records", "bounds", "system"),
    *("bits", "recipes", "plots", "inputs", "outputs", "devices", "hooks", "tasks", "calib_data", "evaluation"),
    *("models", "quant", "rewrites", "calibration", "rounding", "steps", "methods", "calibrate"),
    *("search", "export", "engines", "remote", "triton", "exchange", "serve", "report", "api", "cli", "__main__"),
)


def sources(folder: str = "") -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it, and every name it imports from one, as ``module.name``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def module(name: str) -> Path | None:
    """The file of the package that ``name``, a module or a name in one, comes from."""
    parts = name.split(".")[1:]
    for end in (len(parts), len(parts) - 1):
        place = PACKAGE.joinpath(*parts[:end])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def arrows(path: Path) -> set[Path]:
    """The files of the package that a file imports. The package itself imports nothing until it is asked for."""
    if path == PACKAGE / "__init__.py":
        return set()
    names = (name for name in imported(path) if name.split(".")[0] == "repq_deploy")
    return {file for name in names if (file := module(name)) is not None} - {path}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_its_place():
    assert {room(path) for path in sources()} == {*ROOMS, "__init__"}


def test_imports_point_one_way():
    below = {name: ROOMS[place + 1 :] for place, name in enumerate(ROOMS)}
    wrong = [
        f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for path in sources()
        for target in arrows(path)
        if room(target) in below.get(room(path), ROOMS)
    ]
    assert wrong == []


def test_no_file_imports_itself_by_way_of_others():
    left = {path: arrows(path) for path in sources()}
    while ends := {path for path, targets in left.items() if not targets & left.keys()}:
        left = {path: targets for path, targets in left.items() if path not in ends}
    assert sorted(str(path.relative_to(ROOT)) for path in left) == []


def test_methods_and_steps_know_nothing_of_onnx():
    paths = [*sources("methods"), *sources("steps")]
    assert len(paths) > len(METHODS)
    assert [name for path in paths for name in imported(path) if name.startswith("onnx")] == []


def test_export_knows_no_method():
    assert [f"{path}: {name}" for path in sources("export") for name in imported(path) if ".methods" in name] == []


@pytest.mark.parametrize(
    "folder", ["repq_deploy", "benchmarks", "tests", "calib_data", "engines", "export", "examples"]
)
def test_no_long_files(folder: str):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_no_crowded_folders():
    """``passes`` is flat: backends share its files."""
    folders = {path.parent for path in sources()} - {PACKAGE / "export" / "passes"}
    counts = {str(folder): len([*folder.glob("*.py")]) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_no_links():
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git")
    tracked = subprocess.run([git, "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert [line for line in tracked.stdout.splitlines() if line.startswith("120000")] == []


def test_a_checkout_imports_its_own_files(tmp_path):
    """Whatever else is installed: here the package of these tests, found by its path or as an editable one."""
    other = tmp_path / "repq_deploy"
    for folder in ("", "export", "engines", "calib_data"):
        (other / folder).mkdir()
        (other / folder / "__init__.py").write_text("")
    script = "; ".join(
        f"import repq_deploy.{name}; print(repq_deploy.{name}.__file__)" for name in ("export", "engines", "calib_data")
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(other / name / "__init__.py") for name in ("export", "engines", "calib_data")]
    assert Path(repq_deploy.__file__).parent == PACKAGE
