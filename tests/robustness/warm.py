"""Commands run by forking a process that has imported everything: tens of them a second, each with its own limits.

``python -m tests.robustness.warm`` reads a request a line, as JSON: the command, its arguments, the folder to be in,
the seconds and bytes it may take. It answers a line: exit code (null where it ran out of time), what it wrote, how long
it took, and the most memory that it had.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMANDS = {
    "repq-export": "export",
    "repq-build-engine": "build_engine",
    "repq-inspect": "inspect",
    "repq-eval": "evaluate",
    "repq-search": "search",
    "repq-bench": "bench",
}
#: What commands import only when they need it.
_HEAVY = (
    "torch",
    "timm",
    "repq_deploy.calibrate",
    "repq_deploy.cli.targets",
    "repq_deploy.export",
    "repq_deploy.engines.build",
    "repq_deploy.search.search",
    "repq_deploy.search.trade_off",
    "scipy.optimize",
)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    for name in (*_HEAVY, *(f"repq_deploy.cli.{module}" for module in COMMANDS.values())):
        importlib.import_module(name)
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(request, out.fileno(), err.fileno())
        code, usage = _wait(pid, request["seconds"], request.get("kill"))
        seconds = time.monotonic() - started
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    answer = {"code": code, "out": texts[0], "err": texts[1], "seconds": seconds, "peak": usage}
    return answer if request.get("kill") is None else {**answer, "orphans": _orphans(pid)}


def _orphans(session: int) -> int:
    """How many processes of an ended command's session are still there after five seconds."""
    deadline = time.monotonic() + 5
    while True:
        found = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
                found += int(of_session) == session and state != "Z"
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _child(request: dict[str, Any], out: int, err: int) -> None:
    code = 70
    try:
        os.setsid()
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, err)):
            os.dup2(source, target)
        for name in ("stdin", "stdout", "stderr"):  # the parent's were made for other files
            number = ("stdin", "stdout", "stderr").index(name)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
        os.chdir(request["folder"])
        for key, value in request.get("environment", {}).items():
            os.environ[key] = value
        tempfile.tempdir = None
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + request["bytes"],) * 2)
        sys.argv = [request["command"], *request["arguments"]]
        module = importlib.import_module(f"repq_deploy.cli.{COMMANDS[request['command']]}")
        module.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 71
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, seconds: float, kill: dict[str, Any] | None) -> tuple[int | None, int]:
    """The exit code, None where the time ran out, and the peak of resident memory in bytes.

    ``kill``: a signal to send, and after how many seconds.
    """
    started = time.monotonic()
    deadline = started + seconds
    while time.monotonic() < deadline:
        if kill is not None and time.monotonic() > started + kill["after"]:
            os.kill(pid, kill["signal"])
            kill = None
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, _, usage = os.wait4(pid, 0)
    return None, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
