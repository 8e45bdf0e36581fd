"""Child processes that do not outlive this one: they are killed when it is stopped, and end by themselves when it dies.

Each is ``python -P -m MODULE``, with this process's own search path (-P: the current folder may hold a module of any
name). Its stdin is a pipe that nothing is written to: it is closed when this process is gone, however it went.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from repq_deploy.system.stopping import cleared

__all__ = ["child_process", "end_with_parent"]

_SECONDS_BETWEEN_LOOKS = 0.5


@contextlib.contextmanager
def child_process(command: Sequence[str], *, stderr: IO[Any]) -> Iterator[subprocess.Popen[str]]:
    """Run ``command`` for as long as the block; its stdout is a pipe of text."""
    search_path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    child = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": search_path},
        encoding="utf-8",
        errors="replace",
    )
    try:
        with cleared(child.kill):
            yield child
    finally:
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None  # noqa: S101 - asked for above
            pipe.close()


def end_with_parent() -> None:
    """In a child: end as soon as the parent is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                _look_at_stdin()
            else:
                os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _look_at_stdin() -> None:
    """Return once nobody is at the other end of stdin.

    On Windows a thread that waits in a read keeps all others from asking anything about stdin. Libraries ask as they
    are loaded, and the process would hang for ever.
    """
    if sys.platform == "win32":
        from repq_deploy.system import windows  # noqa: PLC0415 - of this system only

        while windows.stdin_is_open():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
