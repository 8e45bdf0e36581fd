"""Running the package's commands as a user does, with wall time and peak memory of each process; and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Ran", "run_command", "table_line", "write_results"]

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"


@dataclass(frozen=True)
class Ran:
    """What a command printed with ``--json``, its exit code, seconds, and peak resident memory in GB."""

    result: dict[str, Any]
    exit_code: int
    seconds: float
    peak_gb: float


def run_command(verb: str, *arguments: str) -> Ran:
    """Run ``verb`` with ``--json -q``. Exit codes other than 0 and 1 end the program with the command's message."""
    script = str(Path(sys.executable).parent / verb)
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([script, *arguments, "--json", "-q"], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, message = out.read().decode(), err.read().decode()
    if code not in (0, 1) or not text:
        sys.exit(f"{verb} {' '.join(arguments)} ended with exit code {code}:\n{message}")
    return Ran(json.loads(text), code, time.monotonic() - started, usage.ru_maxrss / 1e6)


def table_line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"


def write_results(name: str, table: str) -> None:
    """Put ``table`` between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->`` of docs/results.md."""
    begin, end = (f"<!-- {name}:{what} -->" for what in ("begin", "end"))
    before, rest = _PAGE.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    _PAGE.write_text(f"{before}{begin}\n{table}{end}{after}", encoding="utf-8")
