"""The README's table of speed, made from the whole one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module("speed")
    for name in {"speed", "subjects", "commands"} - before:
        sys.modules.pop(name, None)


def row(file: str, speed: str, batch: str = "1") -> list[str]:
    return ["onnxruntime", "deit_t", file, batch, "10.0", "11.0", "90.0", speed, "50", "0.5", "5.0"]


def test_overview_shows_ours_and_the_fastest_peer(speed: ModuleType) -> None:
    failed = ["onnxruntime", "deit_t", "Model Optimizer", "", "fails: no wheel", *[""] * 6]
    rows = [
        row("float", "1.00"),
        row("ours w8a8", "2.00"),
        row("ours w4a4", "1.80"),
        row("quantize_static, products only", "1.40"),
        row("quantize_static, all operators", "1.60"),
        failed,
    ]
    text = speed.title() + "".join(map(speed.table_line, rows))
    assert speed.overview(text).splitlines()[2:] == [
        "| onnxruntime | deit_t | 1 | 10.0 | 2.00 | 1.80 | 1.60 (quantize_static) |"
    ]


def test_overview_without_peers(speed: ModuleType) -> None:
    rows = [row(file, "1.00", batch="8") for file in ("float", "ours w8a8", "ours w4a4")]
    text = speed.title() + "".join(map(speed.table_line, rows))
    assert speed.overview(text).splitlines()[2:] == ["| onnxruntime | deit_t | 8 | 10.0 | 1.00 | 1.00 |  |"]
