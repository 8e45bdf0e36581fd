"""What the study of serving calls enough, from figures that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest

from repq_deploy.remote.load.loops import ClosedLoop
from repq_deploy.remote.load.measure import Direct, LoadResult, summary

OWN = Direct(batch=8, median_ms=100.0, p99_ms=120.0, images_per_s=80.0)


@pytest.fixture
def serving(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("serving")


@pytest.fixture
def result() -> LoadResult:
    run = {"sent": [(0.0, 0.0, 0.11, "answered")], "different": 0, "cpu": 0.1}
    return summary(ClosedLoop(1), 1, 1.0, [run])


def test_throughput_counts_from_16_clients(serving: ModuleType, result: LoadResult) -> None:
    results = [replace(result, images_per_s=speed) for speed in (1.0, 1.0, 67.9, 68.1)]
    found = serving.of_throughput(results, OWN)
    assert [(one.asked[:10], one.met) for one in found] == [("16 clients", False), ("32 clients", True)]
    assert found[1].found == "0.851 (68.1 of 80.0 images/s)"


def test_latency_of_one_client(serving: ModuleType, result: LoadResult) -> None:
    # 1.15 times 100 and 120 ms, and 3 ms: 118 and 141 ms.
    met = [one.met for one in serving.of_latency(replace(result, median_ms=117.9, p99_ms=141.1), OWN)]
    assert met == [True, False]


@pytest.mark.parametrize(
    ("changed", "memory", "counted", "met"),
    [
        ({}, [100, 101, 101, 102, 103], 5, [True, True, True]),
        ({"refused_p99_ms": 101.0}, [100] * 5, 5, [False, True, True]),
        ({"refused_p99_ms": None, "refused": 0}, [100] * 5, 5, [False, True, True]),
        ({}, [100, 100, 100, 100, 104], 5, [True, False, True]),
        ({"failed": {"no answer": 1}}, [100] * 5, 5, [True, True, False]),
        ({}, [100] * 5, 6, [True, True, False]),
        ({"different": 1}, [100] * 5, 5, [True, True, False]),
    ],
)
def test_overload(serving, result, changed, memory, counted, met) -> None:
    fine = {"answered": 5, "refused": 5, "sent": 10, "refused_median_ms": 2.0, "refused_p99_ms": 99.0}
    flood = replace(result, **{**fine, **changed})
    found = serving.of_overload(flood, {"memory_mb": memory, "counted": {"ok": counted}}, OWN)
    assert [one.met for one in found] == met


@pytest.mark.parametrize(
    ("failed", "code", "met"),
    [
        ({"no connection": 3}, 0, True),
        ({"no connection": 3, "no answer": 1}, 0, False),
        ({"no connection": 3}, 143, False),
        ({}, 0, False),  # it ended before the signal came: nothing was tried
    ],
)
def test_a_stop_loses_nothing(serving, result, failed, code, met) -> None:
    assert serving.of_stop(replace(result, failed=failed), code).met is met


def test_the_page_has_every_load_and_criterion(serving: ModuleType, result: LoadResult) -> None:
    facts = {"engine": "e", "bits": "w8a8", "input": "uint8", "machine": "m", "rounds": 1, "seconds": 2.0}
    criteria = serving.of_latency(result, OWN)
    lines = serving.page(facts, [result], [OWN], criteria).splitlines()
    assert [line.split(" |")[0] for line in lines if line.startswith("| ")][1:5] == [
        "| ---",
        "| 1 at a time",
        "| engine, batch 8",
        "| asked",
    ]
    assert len([*filter(lambda line: line.endswith("| yes |"), lines)]) == 2
