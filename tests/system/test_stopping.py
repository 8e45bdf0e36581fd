"""Signals that one system has and another has not; those of Linux: ``cli/test_common.py``, ``robustness``."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal
signal.SIGBREAK = signal.SIGUSR1
del signal.SIGHUP
from repq_deploy.system.stopping import cleared, ends_with_signals
with ends_with_signals(lambda number: print("said", flush=True)), cleared(lambda: print("cleared", flush=True)):
    os.kill(os.getpid(), signal.SIGUSR1)
    raise SystemExit("still here")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGUSR1 stands for SIGBREAK")
def test_windows_break_clears_and_no_hang_up_is_needed():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["cleared", "said"]
    assert done.returncode > 128
