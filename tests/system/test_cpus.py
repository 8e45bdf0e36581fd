"""Which CPUs a process has, and what becomes of pinning where a system knows none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from repq_deploy.system.cpus import can_pin, pin, usable_cpus

linux = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


@linux
def test_a_pinned_process_has_those_cpus_only():
    last = usable_cpus()[-1]
    script = (
        "from repq_deploy.system.cpus import can_pin, pin, usable_cpus\n"
        f"assert can_pin(); pin([{last}]); print(*usable_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(last)]


def test_without_affinity_all_cpus_are_used_and_nothing_is_pinned(monkeypatch):
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus() == (0, 1, 2)
    assert not can_pin()
    pin([0])


def test_windows_has_a_mask(kernel32):
    assert can_pin()
    assert usable_cpus() == (0, 2, 3, 5)
    pin((2, 5))
    assert kernel32.mask == 0b100100
    assert usable_cpus() == (2, 5)


def test_more_cpus_than_one_mask_of_windows_has_are_not_pinned(kernel32, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    kernel32.mask = 0
    assert usable_cpus() == tuple(range(96))
    assert not can_pin()
    pin([1])
    assert kernel32.mask == 0
