"""A warm process for commands, and small inputs that are right, to be damaged one way each."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from repq_deploy.models import zoo

#: The warm process forks, and reads /proc.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]

#: What one command may take beyond a right one's.
SECONDS, BYTES = 60.0, 8 * 10**9
#: Of resident memory, what the warm process has included.
PEAK = 2.5e9


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak: int
    orphans: int = 0


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def warm() -> Iterator[Run]:
    """``warm(folder, command, *arguments)`` runs a command in a fork of a process that has imported everything."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.robustness.warm"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    assert server.stdout.readline() == "ready\n"

    def run(
        folder: Path,
        command: str,
        *arguments: str,
        seconds: float = SECONDS,
        kill: tuple[int, float] | None = None,
        **environment: str,
    ) -> Ended:
        request = {
            "command": command,
            "arguments": list(arguments),
            "folder": str(folder),
            "seconds": seconds,
            "bytes": BYTES,
            "environment": environment,
            "kill": None if kill is None else {"signal": kill[0], "after": kill[1]},
        }
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return Ended(**json.loads(server.stdout.readline()))

    try:
        yield run
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def inputs(warm: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of every kind of input, all of the demo model."""
    folder = tmp_path_factory.mktemp("inputs")
    save_file(zoo.create(zoo.resolve("demo")).state_dict(), folder / "w.safetensors")
    rng = np.random.default_rng(0)
    for number in range(4):
        for parent in (folder / "flat", folder / "classes" / str(number % 2)):
            parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(parent / f"{number}.png")
    np.savez(folder / "calib.npz", images=rng.integers(0, 256, (8, 28, 28), np.uint8), labels=np.arange(8))
    (folder / "recipe.yaml").write_text("bits: w4a4\nmethod: percentile\n")
    for command, *arguments in (
        (
            "repq-export",
            "demo",
            "--bits",
            "w4a4",
            "--method",
            "repq",
            "-o",
            "m.onnx",
            "--save-quantized",
            "q.safetensors",
        ),
        ("repq-build-engine", "m.onnx", "--backend", "onnxruntime", "--no-speed-check", "-o", "m"),
    ):
        done = warm(folder, command, *arguments, "-q")
        assert done.code == 0, done.err
    (engine,) = folder.glob("*.engine")
    engine.rename(folder / "m.engine")
    manifest: dict[str, Any] = json.loads(engine.with_suffix(".json").read_text())
    manifest["engine"]["name"] = "m.engine"
    (folder / "m.json").write_text(json.dumps(manifest))
    engine.with_suffix(".json").unlink()
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    """A copy of ``inputs`` to work in."""
    shutil.copytree(inputs, tmp_path / "w")
    return tmp_path / "w"


def contents(folder: Path) -> dict[str, str]:
    """A hash of each file in ``folder``, by name; of what is no file its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            found[name] = "link" if path.is_symlink() else "folder" if path.is_dir() else "other"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check_ended(ended: Ended, before: dict[str, str], after: dict[str, str], codes: set[int]) -> None:
    """The exit code is one of ``codes``, an error is one line, and no file has changed, or is left, where it failed."""
    said = ended.err[-600:]
    assert ended.peak < PEAK, f"takes {ended.peak / 1e9:.1f} GB"
    assert ended.code is not None, f"hangs: {said}"
    assert ended.code in codes, f"exit code {ended.code}: {said}"
    assert "Traceback" not in ended.err + ended.out, said
    assert "a defect of ours" not in ended.err, said
    changed = {name for name in before if after.get(name) != before[name]}
    assert not changed, f"changed {changed}"
    assert not [name for name in after if "repq-" in name], "a leftover"
    if ended.code:
        last = ended.err.splitlines()[-1] if ended.err else ""
        assert "error: " in last or ended.out, f"says nothing: {said}"
        assert len(last) < 1200, "a line without end"
