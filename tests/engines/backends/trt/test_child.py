"""Whatever becomes of the builder's process, the caller gets an engine or one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repq_deploy.engines.backends.trt import child
from repq_deploy.engines.batching import Profile
from repq_deploy.errors import BuildFailed

posix = pytest.mark.skipif(sys.platform == "win32", reason="no process ends by a signal there")

PHASE = 'print(\'{"fraction": 0.5, "phase": "Optimizing graph"}\', flush=True); '


def build(output: Path, seen: list[tuple[float, str]]) -> None:
    child.build_in_child(
        b"model",
        output,
        backend="tensorrt-rtx",
        module="json",
        profile=Profile(),
        targets=(),
        progress=lambda fraction, phase: seen.append((fraction, phase)),
    )


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            r"crashed \(SIGSEGV\) in the phase 'Optimizing graph'",
            marks=posix,
        ),
        pytest.param("import os; os.write(1, b'{\"fra'); os.kill(os.getpid(), 9)", r"crashed \(SIGKILL\)", marks=posix),
        ("raise SystemExit('out of luck')", "ended with exit status 1 in the phase 'Optimizing graph': out of luck"),
        ('print(\'{"error": "node x: bad"}\'); raise SystemExit(1)', "backend tensorrt-rtx: node x: bad$"),
    ],
)
def test_a_dead_builder_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, words: str) -> None:
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", PHASE + script))
    seen: list[tuple[float, str]] = []
    with pytest.raises(BuildFailed, match=words) as caught:
        build(tmp_path / "x.engine", seen)
    assert "\n" not in str(caught.value)
    assert seen == [(0.5, "Optimizing graph")]


@pytest.mark.parametrize(
    ("status", "said"),
    [(1, "ended with exit status 1"), (0xC0000005, r"crashed (0xc0000005)"), (-signal.SIGTERM, "crashed (SIGTERM)")],
)
def test_a_crash_is_told_by_the_number_that_is_looked_up(status: int, said: str) -> None:
    assert child._ending(status) == said


def test_a_worker_whose_parent_is_gone_ends_whatever_its_system_says(monkeypatch, tmp_path: Path) -> None:
    request = {"module": "json", "model": str(tmp_path / "m"), "profile": {}, "targets": [], "output": "x"}
    (tmp_path / "m").write_bytes(b"")
    (tmp_path / "request").write_text(json.dumps(request))
    script = (
        "import io, os, sys; from repq_deploy.engines.backends.trt import worker\n"
        "class Broken(io.StringIO):\n"
        "    def write(self, text): raise OSError(22, 'Invalid argument')\n"
        "worker.os.fdopen = lambda *_, **__: Broken()\n"
        "worker.build_serialized = lambda *_, progress, **__: progress(0.5, 'x')\n"
        "sys.exit(worker.main() + 40)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "request")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_the_request_reaches_the_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        "import json, sys, pathlib; r = json.load(open(sys.argv[1])); "
        "pathlib.Path(r['output']).write_bytes(pathlib.Path(r['model']).read_bytes() + str(r['profile']).encode())"
    )
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", script))
    build(tmp_path / "x.engine", [])
    assert (tmp_path / "x.engine").read_bytes() == b"model{'min': 1, 'opt': 8, 'max': 32}"


def test_an_interrupt_ends_the_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = []
    popen = subprocess.Popen

    def remember(*arguments: object, **options: object) -> object:
        started.append(popen(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    def interrupt(fraction: float, phase: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", PHASE + "import time; time.sleep(60)"))
    with pytest.raises(KeyboardInterrupt):
        child.build_in_child(
            b"", tmp_path / "x", backend="b", module="m", profile=Profile(), targets=(), progress=interrupt
        )
    assert started[0].returncode != 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are there")
def test_a_builder_ends_with_its_parent_however_that_goes(tmp_path: Path) -> None:
    """Killed by SIGKILL, a parent can clear nothing."""
    parent = (
        "import sys, time; from repq_deploy.system.children import child_process\n"
        "with child_process([sys.executable, '-c', sys.argv[1]], stderr=sys.stderr) as child:\n"
        "    print(child.pid, child.stdout.readline(), flush=True); time.sleep(60)"
    )
    worker = (
        "import time; from repq_deploy.system.children import end_with_parent; "
        "end_with_parent(); print('working', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent, worker], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number, word = process.stdout.readline().split()
        assert word == "working"
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{number}").exists() and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)
