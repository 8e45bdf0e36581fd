"""Progress in logs: silent where work is short, and lines at a pace that slows where it is long."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from repq_deploy.cli.common import set_up
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.shell import progress as shown
from repq_deploy.cli.shell.progress import console, progress_bar


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shown, "time", clock)
    return clock


def lines_of(call, clock: Clock, seconds: float, quiet: bool = False) -> list[str]:
    """What is written about work that says how far it is ten times a second."""

    def verb() -> None:
        set_up(verbose=False, quiet=quiet)
        steps = round(10 * seconds)
        with progress_bar() as progress:
            task = progress.add_task("training", total=steps)
            for step in range(1, steps + 1):
                clock.now += 0.1
                progress.update(task, completed=step)

    done = call(entry_point(verb, "repq-verb"))
    assert (done.code, done.out) == (0, "")
    return done.err.splitlines()


def test_short_work_is_silent(call, clock):
    assert lines_of(call, clock, 9.5) == []


def test_a_minute_is_a_few_lines_that_say_how_far(call, clock):
    lines = lines_of(call, clock, 65)
    assert len(lines) == 3
    assert lines[0] in ("training 100/650 (15 %), 0:10", "training 101/650 (16 %), 0:10")
    assert lines_of(call, clock, 65, quiet=True) == []


def test_hours_are_no_thousands_of_lines(call, clock):
    assert 30 < len(lines_of(call, clock, 2 * 3600)) < 60


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_status_that_lasts_is_a_line_and_one_that_does_not_is_none(call, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def verb() -> None:
        set_up(verbose=False, quiet=False)
        with console.status("quick"):
            pass
        monkeypatch.setattr(shown, "SILENT_SECONDS", 0.0)
        with console.status("getting the weights") as status:
            time.sleep(0.1)
            status.update("never said")

    assert call(entry_point(verb, "repq-verb")).err == "getting the weights ..., 0:00\n"


COLOURS = """
from repq_deploy.cli.common import progress_bar, console
console.print("[bold red]RANDOM[/] weights")
with progress_bar() as progress:
    progress.update(progress.add_task("x", total=2), completed=1)
with console.status("y"):
    pass
"""


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, b"RANDOM weights\n"),
        ({"FORCE_COLOR": "1", "TERM": "xterm"}, b"\x1b[1;31mRANDOM\x1b[0m weights\n"),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}, b"\x1b[1mRANDOM\x1b[0m weights\n"),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, b"RANDOM weights\n"),
    ],
)
def test_what_is_piped_has_colours_if_asked_and_never_a_moving_bar(environment, said):
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")}
    done = subprocess.run(
        [sys.executable, "-c", COLOURS], env={**inherited, **environment}, capture_output=True, check=True
    )
    assert done.stderr.replace(b"\r\n", b"\n") == said


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize(
    ("environment", "moves", "red"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_on_a_terminal_the_bar_moves_unless_the_terminal_cannot(environment, moves, red):
    import pty

    ours, theirs = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE")}
    subprocess.run(
        [sys.executable, "-c", COLOURS], env={**inherited, **environment}, stdout=theirs, stderr=theirs, check=True
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: nobody has the other end
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert (b"\x1b[?25l" in written) == moves
    assert (b"\x1b[1;31m" in written) == red
