"""The README's table of speed, made from the whole one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def speed(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("speed")


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
