"""Standard streams: whatever becomes of them, no traceback; and no name from a file that steers the terminal."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

__all__ = ["StdoutFailed", "guarded_streams", "printable", "say"]


_BROKEN_PIPE = 128 + 13


class StdoutFailed(Exception):
    """What the command answers cannot be written."""


def printable(text: str, *, keep: str = "") -> str:
    """``text`` with control characters, line breaks among them, as escapes; those in ``keep`` stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def say(*lines: str) -> None:
    """Write lines of an answer to stdout."""
    sys.stdout.writelines(f"{printable(line, keep=chr(9))}\n" for line in lines)


class _Guarded:
    """A standard stream whose failures are ``failed``'s business."""

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._failed = failed

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._failed(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Give closed streams a place to go, and see to it that all of stdout is written within the block.

    What stderr cannot take is dropped: the exit code still tells how the command ended.

    Raises:
        StdoutFailed: the answer cannot be written.
        SystemExit: whoever read it has gone (``| head``): 141, as SIGPIPE ends other programs.
    """
    _open_closed()
    if sys.platform == "win32" and isinstance(sys.stdout, TextIOWrapper):
        # A pipe's encoding is not Unicode there, and names of files may be.
        sys.stdout.reconfigure(errors="backslashreplace")
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Guarded(sys.stdout, _stdout_failed), _Guarded(sys.stderr, lambda _: _discard(2))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def _stdout_failed(error: OSError) -> None:
    _discard(1)
    # Windows has no error of its own for a reader that has gone.
    if isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL):
        sys.exit(_BROKEN_PIPE)
    raise StdoutFailed(f"stdout: {error.strerror or error}") from error


def _open_closed() -> None:
    """A closed stream's number would be that of the next file, and libraries that print would write into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _discard(number: int) -> None:
    """Let what is still buffered for a stream go nowhere, or Python would fail on it once more at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
