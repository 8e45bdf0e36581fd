"""Commands stopped and killed at any moment: nothing half written, nothing left, nobody outlives them.

A few of each command with the slow tests, sixty of each before a release.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.robustness.conftest import Run, contents

#: A command, and about how many seconds it takes.
COMMANDS = {
    "export": ("repq-export", "demo", "-o", "new.onnx", "--save-quantized", "new.safetensors", "--work-dir", "work"),
    "build": ("repq-build-engine", "m.onnx", "--backend", "onnxruntime", "--no-speed-check", "-o", "new"),
    "build for GPUs": ("repq-build-engine", "m.onnx", "--backend", "tensorrt-rtx", "-o", "new"),
    "evaluate": ("repq-eval", "m.engine", "--data", "demo"),
    "search": (
        *("repq-search", "demo", "--avg-bits", "4", "--recipe", "new.yaml", "--workers", "2", "--work-dir", "work"),
        *("--num-calib", "8", "--choices", "4,8"),
    ),
    "measure": ("repq-bench", "m.engine", "--rounds", "2", "--seconds", "0.2", "--plot", "new.png"),
}
#: Each of these is whole wherever it is there.
WHOLE = {
    "new.onnx": ("repq-inspect", "new.onnx", "-q"),
    "new.safetensors": ("repq-eval", "new.safetensors", "--data", "demo", "--limit", "2", "-q"),
    "new.yaml": ("repq-export", "demo", "--recipe", "new.yaml", "-o", "other.onnx", "--dry-run", "-q"),
}


def _kill(name: str, times: int, warm: Run, inputs: Path) -> None:
    command = COMMANDS[name]
    draw = random.Random(name)  # noqa: S311 - the same moments each time
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(inputs, Path(temporary) / "w")
        took = warm(Path(temporary) / "w", *command, "-q", seconds=300)
        assert took.code == 0, took.err
    for number in range(times):
        sent = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT)[number % 3]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "w"
            shutil.copytree(inputs, folder)
            (folder / "tmp").mkdir()
            before = contents(folder)
            moment = draw.uniform(0, took.seconds)
            ended = warm(folder, *command, "-q", seconds=300, kill=(sent, moment), TMPDIR=str(folder / "tmp"))
            where = f"{name}, signal {int(sent)} after {moment:.2f} s: exit code {ended.code}, {ended.err[-300:]}"
            assert ended.orphans == 0, f"{ended.orphans} processes outlive {where}"
            assert ended.code in {0, -sent if sent == signal.SIGKILL else 128 + sent}, where
            after = contents(folder)
            assert all(after.get(path) == before[path] for path in before), f"an input has changed: {where}"
            if sent == signal.SIGKILL:  # nobody could clear anything; the next command in the folder does
                again = warm(
                    folder, "repq-export", "demo", "--float", "-o", "after.onnx", "-q", TMPDIR=str(folder / "tmp")
                )
                assert again.code == 0, again.err
                after = contents(folder)
            left = [path for path in after if "repq-" in path]
            assert not left, f"left {left}: {where}"
            assert ("new.onnx" in after) == ("new.safetensors" in after) or name != "export", where
            for path, check in WHOLE.items():
                if path in after:
                    assert warm(folder, *check).code == 0, f"{path} is not whole: {where}"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_some_kills(name: str, warm: Run, inputs: Path) -> None:
    _kill(name, 2, warm, inputs)


@pytest.mark.release
@pytest.mark.parametrize("name", COMMANDS)
def test_sixty_kills(name: str, warm: Run, inputs: Path) -> None:
    _kill(name, 60, warm, inputs)
