"""Progress on stderr: a bar or a spinner on a terminal, a line now and then in a log."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["console", "progress_bar"]

#: No line before this many seconds of work: what is quick needs none.
SILENT_SECONDS = 10.0
#: At least these seconds lie between two lines, and more the longer it takes: a tenth of the time so far.
SECONDS_A_LINE = 20.0
SHARE_A_LINE = 0.1


class _Console(Console):
    """A console on stderr whose bars move only where something can move.

    rich obeys ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM``. To it, ``FORCE_COLOR`` makes a terminal of a file too; here
    a file that was asked to be colourful still gets lines.
    """

    @property
    def moves(self) -> bool:
        """Whether stderr is a terminal on which a line can be drawn over."""
        return bool(sys.stderr.isatty()) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")

    def status(self, status: Any, **options: Any) -> Any:
        """A spinner with a text that its ``update`` changes; lines where nothing can move, and only if it lasts."""
        return super().status(status, **options) if self.moves else _lines(str(status))


#: People read stderr; stdout is for data.
console = _Console(stderr=True, highlight=False)


class _Pace:
    """When the next line is due."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()
        self._wait = SILENT_SECONDS

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds until a line is due; none or fewer: now."""
        return self._wait - (time.monotonic() - self._said)

    def said(self) -> None:
        """A line was written."""
        self._said = time.monotonic()
        self._wait = max(SECONDS_A_LINE, SHARE_A_LINE * self.elapsed)


class _Progress(Progress):
    """A bar on a terminal; elsewhere, as in a log of hours, a line now and then."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=console, disable=console.quiet or not console.moves)
        self._pace = _Pace()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if not console.moves and self._pace.left <= 0:
            task = next(task for task in self.tasks if task.id == task_id)
            _say(f"{task.description} {_so_far(task)}", self._pace)


def progress_bar() -> Progress:
    """A progress bar on stderr: silent under ``-q``, lines where stderr is not a terminal that can draw one."""
    return _Progress()


def _so_far(task: Task) -> str:
    return f"{task.completed:g}/{task.total:g} ({task.percentage:.0f} %)" if task.total else f"{task.completed:g}"


def _say(text: str, pace: _Pace) -> None:
    minutes, seconds = divmod(round(pace.elapsed), 60)
    console.print(f"{text}, {minutes}:{seconds:02}", soft_wrap=True, markup=False)
    pace.said()


class _Text:
    """What is being done, where it can be changed as a spinner's text can."""

    def __init__(self, text: str) -> None:
        self.text = text

    def update(self, status: Any, **_options: Any) -> None:
        self.text = str(status)


@contextmanager
def _lines(text: str) -> Iterator[_Text]:
    """Say what is being done, as lines of a thread of its own: the work reports nothing meanwhile."""
    said, over, pace = _Text(text), threading.Event(), _Pace()

    def write() -> None:
        while not over.wait(max(pace.left, 0.0)):
            _say(f"{said.text} ...", pace)

    writer = threading.Thread(target=write, name="progress", daemon=True)
    writer.start()
    try:
        yield said
    finally:
        over.set()
        writer.join()
