"""From what a process of load says to its numbers, and the whole of it against the stand-in."""

from __future__ import annotations

import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.runner import open_engine
from repq_deploy.errors import BadInput
from repq_deploy.remote.load.loops import ClosedLoop, OpenLoop
from repq_deploy.remote.load.measure import LoadPlan, load, summary
from tests.engines.graphs import CLASSES, SIDE, write_tiny
from tests.remote.stand_in import StandIn, serving


def test_summary_counts_the_measured_stretch():
    run = {
        "sent": [
            (-0.2, -0.2, -0.1, "answered"),  # of the warm-up, before
            (-0.1, -0.1, 0.1, "answered"),  # begun before, ended within: throughput, no latency
            *((0.1 * n, 0.1 * n, 0.1 * n + 0.01 * (n + 1), "answered") for n in range(10)),
            (0.9, 0.9, 1.4, "answered"),  # latency, no throughput
            (0.5, 0.501, 0.502, "refused"),
            (0.6, 0.6, 0.7, "no answer"),
            (0.6, 0.6, 0.7, "no answer"),
        ],
        "different": 1,
        "cpu": 0.25,
    }
    found = summary(ClosedLoop(4), 2, 1.0, [run, run])
    assert (found.loop, found.sent, found.answered, found.refused) == ("4 at a time", 28, 22, 2)
    assert found.failed == {"no answer": 4}
    # Eleven latencies each round: 10, 20, ... 100 and 500 ms; the tenth of those in the loop ended at 1.0, too late.
    assert (found.median_ms, found.max_ms) == (pytest.approx(60), pytest.approx(500))
    assert found.refused_p99_ms == pytest.approx(2)
    assert found.late_p99_ms == pytest.approx(1)
    assert found.images_per_s == pytest.approx(2 * 10)
    assert (found.different, found.load_cpu) == (2, 0.25)


def test_a_loop_without_answers_has_no_latency():
    found = summary(OpenLoop(5), 1, 1.0, [{"sent": [(0.1, 0.15, 0.2, "timed out")], "different": 0, "cpu": 0.0}])
    assert (found.median_ms, found.max_ms, found.images_per_s) == (None, None, 0)
    assert found.late_p99_ms == pytest.approx(50)


def test_a_server_beside_its_engine(tmp_path):
    engine = build_engine(write_tiny(tmp_path).path, "onnxruntime").engine
    runner, _ = open_engine(engine)
    served = StandIn(lambda images: {"logits": runner(images)}, (3, SIDE, SIDE), {"logits": (CLASSES,)})
    with serving(served):
        loops = (ClosedLoop(2), OpenLoop(100, "fixed"))
        plan = LoadPlan(served.urls["http"], loops, (1, 4), 1, seconds=0.2, warmup=0.1, against=engine)
        results, direct = load(plan)
    assert [(one.batch, one.loop) for one in results] == [
        (1, "2 at a time"),
        (1, "100/s fixed"),
        (4, "2 at a time"),
        (4, "100/s fixed"),
    ]
    assert [one.batch for one in direct] == [1, 4, 8]
    best = max(one.images_per_s for one in direct)
    for one in results:
        assert (one.answered, one.failed, one.different) == (one.sent, {}, 0)
        assert one.of_engine == pytest.approx(one.images_per_s / best)
        assert one.added_ms == pytest.approx(one.median_ms - direct[0 if one.batch == 1 else 1].median_ms)
        assert one.median_ms <= one.p90_ms <= one.p99_ms <= one.max_ms
    assert results[1].sent == results[3].sent == 20
    assert set(served.batches) == {1, 4}


def test_rounds_go_over_every_load_by_grpc():
    served = StandIn(lambda images: {"logits": images.mean((2, 3))}, (3, 4, 4), {"logits": (3,)})
    with serving(served):
        plan = LoadPlan(served.urls["grpc"], (OpenLoop(50), ClosedLoop(1)), (1,), 2, seconds=0.2, warmup=0.0)
        results, direct = load(plan)
    assert direct == []
    assert results[0].sent == 20  # 10 a round
    assert [(one.answered, one.of_engine, one.added_ms) for one in results] == [
        (one.sent, None, None) for one in results
    ]


def test_a_server_that_answers_nothing_is_an_error():
    served = StandIn(lambda images: {}, (3, 4, 4), {"logits": (2,)}, status=503)
    with serving(served), pytest.raises(BadInput, match=r"answered no request \([0-9]+ of refused\)"):
        load(LoadPlan(served.urls["http"], (ClosedLoop(1),), (1,), 1, seconds=0.1, warmup=0.0))
    with pytest.raises(BadInput, match="no usable answer"):
        load(LoadPlan(served.urls["http"], (ClosedLoop(1),), (1,), 1, seconds=0.1))
