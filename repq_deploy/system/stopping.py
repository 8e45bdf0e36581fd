"""One way to stop: what a process has under way is cleared, then it ends with 128 plus the signal's number.

Raising an exception in place of that is not enough: exporters and pools catch it and make another error of it, or wait
for their workers first.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["cleared", "ends_with_signals", "when_stopped"]

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))

_numbers = itertools.count()
_to_clear: dict[int, Callable[[], None]] = {}


@contextlib.contextmanager
def when_stopped(clear: Callable[[], None]) -> Iterator[None]:
    """Call ``clear`` where a signal ends the process within the block; it must not wait for anything."""
    number = next(_numbers)
    _to_clear[number] = clear
    try:
        yield
    finally:
        del _to_clear[number]


@contextlib.contextmanager
def cleared(clear: Callable[[], None]) -> Iterator[None]:
    """Call ``clear`` at the end of the block, however it ends."""
    try:
        with when_stopped(clear):
            yield
    finally:
        clear()


@contextlib.contextmanager
def ends_with_signals(say: Callable[[int], None]) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM, SIGHUP and Windows' SIGBREAK end the process within the block, the last things begun cleared
    first.

    ``say`` is called with the signal's number. Only the main thread can take signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # a second one is no reason to leave the first one's work undone
        for clear in [_to_clear[key] for key in sorted(_to_clear, reverse=True)]:
            with contextlib.suppress(Exception):
                clear()
        with contextlib.suppress(Exception):
            say(number)
        os._exit(128 + number)

    # What was ignored stays so: nohup ignores SIGHUP for those that it starts.
    taken = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in taken}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
