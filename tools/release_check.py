"""Whether this checkout can be released: its version said alike everywhere, its wheel tried where nothing else is.

::

    python tools/release_check.py [--dist DIR] [--tag v0.2.0] [--only-version] [--borrow PYTHON]

1. The version of the package is that of the newest section of CHANGELOG.md, which has a date and entries, and that of
   CITATION.cff; with ``--tag``, also the tag's.
2. An sdist is built of the files that git knows, and a wheel of the sdist. The wheel holds every file of the package.
3. The wheel with the extra ``export``, with the versions of constraints.txt, in an empty environment: the README's
   first commands, in an empty folder.
4. The wheel alone, in another: no torch there, and the engine of step 3 is built, validated and measured once more.

``--borrow`` takes the packages of step 3 from the environment of that Python in place of installing 6 GB; the wheel is
installed all the same, and found first. The environment that runs this needs setuptools, packaging and PyYAML.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
#: What the README says of the demo can be tried when a block of commands begins with this.
FIRST = "repq-export demo"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"


class NotReady(Exception):
    """What stands in the way of a release."""


def package_version(root: Path) -> str:
    """``__version__``, read without importing the package."""
    tree = ast.parse((root / "repq_deploy" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__version__" for target in node.targets):
            return str(ast.literal_eval(node.value))
    raise NotReady("repq_deploy/__init__.py: expected a line __version__ = ...")


def check_version(root: Path, tag: str | None = None) -> str:
    """The version, if all files that name it agree.

    Raises:
        NotReady: they do not, or the changelog's section is empty or has no date.
    """
    version = package_version(root)
    try:
        Version(version)
    except InvalidVersion as error:
        raise NotReady(f"version {version}: {error}") from error
    if tag is not None and tag != f"v{version}":
        raise NotReady(f"tag {tag}: the package's version is {version}; expected the tag v{version}")
    sections = re.split(r"^## \[", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    named = {section.partition("]")[0]: section.partition("]")[2] for section in sections}
    newest = next((name for name in named if name != "Unreleased"), "none")
    if newest != version:
        raise NotReady(f"CHANGELOG.md: the newest section is {newest}; expected ## [{version}] - YYYY-MM-DD")
    if re.match(r" - \d{4}-\d{2}-\d{2}\n", named[version]) is None:
        raise NotReady(f"CHANGELOG.md: expected a date after ## [{version}], as in ## [{version}] - 2026-11-27")
    if re.search(r"^- ", named[version], re.MULTILINE) is None:
        raise NotReady(f"CHANGELOG.md: the section {version} says nothing")
    cited = str(yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8")).get("version"))
    if cited != version:
        raise NotReady(f"CITATION.cff: version {cited}; expected {version}")
    return version


def demo_commands(readme: str) -> list[str]:
    """The commands of the README's block that begins with the demo, as a shell takes them."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        if language not in ("", "console", "bash"):
            continue
        lines = block.replace("\\\n", "").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        commands = prompted or [line for line in lines if line.strip() and not line.startswith("#")]
        if commands and re.match(rf"{FIRST}\b|{FIRST.replace('-', ' ', 1)}\b", commands[0]):
            return commands
    raise NotReady(f"README.md: no block of commands begins with {FIRST}")


def build(root: Path, dist: Path) -> Path:
    """Write the sdist and the wheel to ``dist``; the wheel's path."""
    with tempfile.TemporaryDirectory() as name:
        clean, unpacked = Path(name) / "clean", Path(name) / "unpacked"
        for file in _output("git", "ls-files", "-z", cwd=root).split("\0"):
            if (root / file).is_file():
                (clean / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / file, clean / file)
        dist.mkdir(parents=True, exist_ok=True)
        for old in (*dist.glob("repq_deploy-*.tar.gz"), *dist.glob("repq_deploy-*.whl")):
            old.unlink()
        _output(sys.executable, "-c", BUILD.format(kind="sdist"), str(dist), cwd=clean)
        (sdist,) = dist.glob("repq_deploy-*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        (source,) = unpacked.iterdir()
        _output(sys.executable, "-c", BUILD.format(kind="wheel"), str(dist), cwd=source)
        (wheel,) = dist.glob("repq_deploy-*.whl")
        check_wheel(clean, wheel)
        print(*(f"built {file.name}, {file.stat().st_size / 1e6:.1f} MB" for file in (sdist, wheel)), sep="\n")
    return wheel


def check_wheel(root: Path, wheel: Path) -> None:
    """Every file of the package is in the wheel, and nothing else beside its record."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    own = {path.relative_to(root).as_posix() for path in (root / "repq_deploy").rglob("*") if path.is_file()}
    own = {name for name in own if "__pycache__" not in name}
    if held != own:
        missing, strange = sorted(own - held)[:5], sorted(held - own)[:5]
        raise NotReady(
            f"{wheel.name}: lacks {missing}, holds {strange} of elsewhere; see package-data of pyproject.toml"
        )


class Environment:
    """An empty environment, and commands in it as a user types them."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / ("Scripts" if sys.platform == "win32" else "bin")
        self.python = self.bin / "python"

    def install(self, root: Path, *what: str) -> None:
        _output(str(self.python), "-m", "pip", "install", "-q", "-c", str(root / "constraints.txt"), *what)

    def borrow(self, python: str) -> None:
        """Find the packages of another environment's Python, after one's own."""
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        theirs, own = (_output(one, "-c", where).strip() for one in (python, str(self.python)))
        (Path(own) / "borrowed.pth").write_text(f"{theirs}\n", encoding="utf-8")

    def run(self, command: str, folder: Path) -> str:
        """Run a line in ``folder``; what it printed. The package is found where it is installed only."""
        started = time.monotonic()
        environment = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
        for name in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"):
            environment.pop(name, None)
        said = _output(command, cwd=folder, environment=environment)
        print(f"$ {command}    # {time.monotonic() - started:.0f} s")
        print("".join(f"    {line[:160]}\n" for line in said.splitlines()[-4:]), end="", flush=True)
        return said


def try_wheel(wheel: Path, version: str, root: Path, folder: Path, borrow: str | None) -> None:
    """Steps 3 and 4."""
    work = folder / "work"
    work.mkdir()
    full = Environment(folder / "export")
    if borrow is None:
        full.install(root, f"{wheel}[export]")
    else:
        full.install(root, "--no-deps", str(wheel))
        full.borrow(borrow)
    if f"repq {version}" not in full.run("repq --version", work):
        raise NotReady(f"the installed repq is not of version {version}")
    for command in demo_commands((root / "README.md").read_text(encoding="utf-8")):
        full.run(command, work)
    base = Environment(folder / "base")
    base.install(root, str(wheel))
    said = base.run("repq versions", work)
    if re.search(r"^torch +not installed$", said, re.MULTILINE) is None:
        raise NotReady("the base installs torch")
    file = next(iter(sorted(work.glob("*.onnx"))), None)
    if file is None:
        raise NotReady("README.md: the demo's commands leave no ONNX file")
    for command in (
        f"repq-build-engine {file.name} --backend onnxruntime -o again",
        "repq-eval again.onnxruntime.engine --data demo --limit 200",
        "repq-bench again.onnxruntime.engine --rounds 1 --seconds 0.2 --batch 1",
        "python -m repq_deploy inspect again.onnxruntime.engine --json",
    ):
        base.run(command, work)


def _output(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """What a command printed; one word is a line for the shell."""
    line: Sequence[str] | str = command[0] if len(command) == 1 else command
    done = subprocess.run(
        line, cwd=cwd, env=environment, shell=len(command) == 1, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotReady(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="the folder for the sdist and the wheel")
    parser.add_argument("--tag", help="the tag that is to be released")
    parser.add_argument("--only-version", action="store_true", help="step 1 only")
    parser.add_argument("--borrow", metavar="PYTHON", help="take torch and others from this Python's environment")
    args = parser.parse_args()
    try:
        version = check_version(ROOT, args.tag)
        print(f"version {version}: package, changelog and citation agree")
        if not args.only_version:
            wheel = build(ROOT, args.dist.resolve())
            with tempfile.TemporaryDirectory() as name:
                try_wheel(wheel, version, ROOT, Path(name), args.borrow)
    except NotReady as error:
        sys.exit(f"not ready: {error}")
    print("ready")


if __name__ == "__main__":
    main()
