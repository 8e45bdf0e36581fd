"""Importing a benchmark's script as its own command does: beside the others."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """``benchmark("speed")`` imports ``benchmarks/speed.py``; what it imported is forgotten afterwards."""
    with _importing(monkeypatch, BENCHMARKS) as imports:
        yield imports


@pytest.fixture
def family_benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """``family_benchmark("train")`` imports ``benchmarks/families/train.py``."""
    with _importing(monkeypatch, BENCHMARKS / "families", BENCHMARKS) as imports:
        yield imports


@contextlib.contextmanager
def _importing(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import from ``folders``, the first before the others."""
    before = set(sys.modules)
    for folder in reversed(folders):
        monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in {path.stem for folder in folders for path in folder.glob("*.py")} - before:
        sys.modules.pop(name, None)
