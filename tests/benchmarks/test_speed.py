"""The short table of speed, made from the whole one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def speed(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("speed")


def row(file: str, speed: str, batch: str = "1", cpu: str = "vnni") -> list[str]:
    return [cpu, "onnxruntime", "deit_t", file, batch, "10.0", "11.0", "90.0", speed, "50", "0.5", "5.0", "12.1"]


PEERS = [
    ("quantize_static, products only", "1.40"),
    ("quantize_static, all operators", "1.60"),
    ("quantize_static, unsigned weights", "1.30"),
    ("quantize_static, 7-bit weights", "1.50"),
]


def test_overview_shows_ours_and_the_fastest_peer(speed: ModuleType) -> None:
    failed = ["vnni", "onnxruntime", "deit_t", "Model Optimizer", "", "fails: no wheel", *[""] * 7]
    ours = [("float", "1.00"), ("ours w8a8", "2.00"), ("ours w8a8, any CPU", "1.50"), ("ours w4a4", "1.80")]
    rows = [*(row(*one) for one in (*ours, *PEERS)), failed]
    text = speed.title() + "".join(map(speed.table_line, rows))
    assert speed.overview(text).splitlines()[2:] == [
        "| vnni | onnxruntime | deit_t | 1 | 10.0 | 2.00 | 1.50 |  | 1.80 | 1.60 (quantize_static, all operators) | "
        "1.60 (quantize_static, all operators) |"
    ]


def test_where_bytes_saturate_the_fastest_exact_peer_is_another(speed: ModuleType) -> None:
    ours = [("float", "1.00"), ("ours w8a8, any CPU", "1.50"), ("ours w7a8", "1.80"), ("ours w4a4", "1.70")]
    rows = [row(*one, cpu="avx2") for one in (*ours, *PEERS)]
    text = speed.title() + "".join(map(speed.table_line, rows))
    assert speed.overview(text).splitlines()[2:] == [
        "| avx2 | onnxruntime | deit_t | 1 | 10.0 |  | 1.50 | 1.80 | 1.70 | 1.60 (quantize_static, all operators) | "
        "1.50 (quantize_static, 7-bit weights) |"
    ]


def test_overview_without_peers(speed: ModuleType) -> None:
    rows = [row(file, "1.00", batch="8") for file in ("float", "ours w8a8", "ours w4a4")]
    text = speed.title() + "".join(map(speed.table_line, rows))
    assert speed.overview(text).splitlines()[2:] == [
        "| vnni | onnxruntime | deit_t | 8 | 10.0 | 1.00 |  |  | 1.00 |  |  |"
    ]
