"""The script that says whether a release can be made: what it refuses, and which commands it takes from the README."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "tools" / "release_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-27\n\n### Added\n\n- Something.\n"


def checkout(folder: Path, *, version: str = "1.2.0", cited: str = "1.2.0", changelog: str = CHANGELOG) -> Path:
    (folder / "repq_deploy").mkdir()
    (folder / "repq_deploy" / "__init__.py").write_text(f'"""It."""\n\n__version__ = "{version}"\n')
    (folder / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {cited}\n")
    (folder / "CHANGELOG.md").write_text(changelog)
    return folder


def test_a_version_that_all_files_name(tool, tmp_path):
    assert tool.check_version(checkout(tmp_path), "v1.2.0") == "1.2.0"


@pytest.mark.parametrize(
    ("changes", "tag", "said"),
    [
        ({}, "v1.2.1", "tag v1.2.1: the package's version is 1.2.0; expected the tag v1.2.0"),
        ({"version": "1.3"}, None, "the newest section is 1.2.0; expected ## [1.3] - YYYY-MM-DD"),
        ({"version": "new"}, None, "version new"),
        ({"cited": "1.1.0"}, None, "CITATION.cff: version 1.1.0; expected 1.2.0"),
        ({"changelog": "## [Unreleased]\n\n- All.\n"}, None, "the newest section is none"),
        ({"changelog": CHANGELOG.replace(" - 2026-11-27", "")}, None, "expected a date after"),
        ({"changelog": CHANGELOG.replace("- Something.", "")}, None, "the section 1.2.0 says nothing"),
    ],
)
def test_what_is_not_ready(tool, tmp_path, changes, tag, said):
    with pytest.raises(tool.NotReady) as raised:
        tool.check_version(checkout(tmp_path, **changes), tag)
    assert said in str(raised.value)


def test_the_demo_of_the_readme(tool):
    commands = tool.demo_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert commands[0].startswith(("repq-export demo", "repq export demo"))
    assert len(commands) >= 3
    assert not any(word in " ".join(commands) for word in ("...", "wrote", "top-1"))
    text = "```\npip install .\n```\n\n```console\n$ repq export demo \\\n    -o a.onnx\nwrote a.onnx\n$ two\n```\n"
    assert tool.demo_commands(text) == ["repq export demo     -o a.onnx", "two"]
    with pytest.raises(tool.NotReady, match="no block of commands begins with repq-export demo"):
        tool.demo_commands("```\nrepq-export deit_b\n```\n")


def test_a_wheel_holds_the_package_and_nothing_else(tool, tmp_path):
    root, wheel = checkout(tmp_path), tmp_path / "x.whl"
    (root / "repq_deploy" / "data.npz").touch()
    names = ["repq_deploy/__init__.py", "repq_deploy/data.npz", "x-1.dist-info/RECORD"]
    for held, said in ((names, None), (names[:1], "lacks"), ([*names, "tests/x.py"], "holds")):
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in held:
                archive.writestr(name, "")
        if said is None:
            tool.check_wheel(root, wheel)
        else:
            with pytest.raises(tool.NotReady, match=rf"{said} \['(repq_deploy/data\.npz|tests/x\.py)'\]"):
                tool.check_wheel(root, wheel)
