"""Work spread over one process and over several gives the same results; over Ray: ``tests/cli/test_search.py``."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.spread import spread


def summing(payload: bytes) -> Callable[[int], tuple[float, int]]:
    """A sum whose rounding depends on the number of threads, and the process that made it."""
    seed = int(payload)

    def work(item: int) -> tuple[float, int]:
        values = torch.randn(300_000, generator=torch.Generator().manual_seed(seed + item))
        return float(values.sum()), os.getpid()

    return work


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(b"7")
    return path


def test_one_process_computes_here_with_one_thread(payload):
    before = torch.get_num_threads()
    done = dict(spread(summing, payload, [1, 2, 3]))
    assert torch.get_num_threads() == before
    assert {pid for _, pid in done.values()} == {os.getpid()}
    assert sorted(done) == [1, 2, 3]


def test_processes_give_the_same_sums(payload):
    alone = dict(spread(summing, payload, range(6)))
    spread_out = dict(spread(summing, payload, range(6), workers=2))
    assert {item: value for item, (value, _) in spread_out.items()} == {i: value for i, (value, _) in alone.items()}
    assert os.getpid() not in {pid for _, pid in spread_out.values()}


def failing(payload: bytes) -> Callable[[int], float]:
    return math.sqrt


def test_an_error_of_a_worker_is_raised_here(payload):
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(spread(failing, payload, [1, -1, 4], workers=2))


def dying(payload: bytes) -> Callable[[int], None]:
    return lambda _: os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_said(payload):
    with pytest.raises(BadInput, match=r"--workers 2: a worker process was killed, .* use fewer"):
        list(spread(dying, payload, [1, 2, 3], workers=2))


def test_no_workers_is_refused(payload):
    with pytest.raises(BadInput, match="--workers 0"):
        list(spread(summing, payload, [1], workers=0))


def test_ray_missing_is_said(payload, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(BackendMissing, match="pip install ray"):
        list(spread(summing, payload, [1], ray="local"))


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "no cluster there"), ("127.0.0.1:x", "no cluster there"), ("x", "HOST:PORT")],
)
def test_no_cluster_there_is_said(payload, address, message):
    pytest.importorskip("ray")
    with pytest.raises(BadInput, match=message):
        list(spread(summing, payload, [1], ray=address))
