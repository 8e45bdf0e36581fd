"""A worker process of ``spread``. It watches its parent from the first moment, so nothing heavy is imported before.

A worker waits for work on a pipe that stays open when its parent is killed; without the watch it would never end.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["do", "open_worker"]

_work: Callable[[Any], Any] | None = None


def open_worker(module: str, factory: str, payload: Path) -> None:
    """Make the function that does one item: by ``factory`` of ``module``, from what the file ``payload`` holds."""
    global _work  # noqa: PLW0603 - what a worker process has instead of arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C, which the parent answers for all
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch  # noqa: PLC0415 - takes seconds

    torch.set_num_threads(1)
    make = functools.reduce(getattr, factory.split("."), importlib.import_module(module))
    _work = make(payload.read_bytes())  # type: ignore[operator]


def do(item: Any) -> Any:
    """The result of one item."""
    assert _work is not None  # noqa: S101 - set by open_worker
    return _work(item)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
