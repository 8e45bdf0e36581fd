"""How a child of Windows knows that its parent is gone; elsewhere: ``engines/backends/trt/test_child.py``."""

from __future__ import annotations

import os
import time

import pytest

from repq_deploy.system import children


def test_windows_looks_at_stdin_and_reads_nothing(kernel32, monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(children, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("a read would wait"))
    monkeypatch.setattr(os, "_exit", ended.append)
    children.end_with_parent()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [1]
    assert kernel32.stdin_open == []
