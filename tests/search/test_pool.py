"""Work spread over one process and over several gives the same results; over Ray: ``tests/cli/test_search.py``."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.search import pool
from repq_deploy.search.pool import spread


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


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_worker_that_is_killed_is_said(payload):
    with pytest.raises(BadInput, match=r"--workers 2: a worker process was killed \(SIGKILL\), .* use fewer"):
        list(spread(dying, payload, [1, 2, 3], workers=2))


def test_a_system_without_that_signal_says_the_exit_code(monkeypatch):
    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    processes = [SimpleNamespace(exitcode=code, join=lambda _: None) for code in (0, 3)]
    assert pool._what_ended(processes) == "a worker process ended with exit code 3; --workers 1 shows its error"


@pytest.mark.parametrize(("system", "most"), [("linux", 100), ("win32", 61)])
def test_windows_waits_for_61_processes_at_most(payload, monkeypatch, system, most):
    asked = []
    monkeypatch.setattr(pool, "_over_processes", lambda *given: iter(asked.append(given[-1]) or ()))
    monkeypatch.setattr(sys, "platform", system)
    assert list(spread(summing, payload, range(200), workers=100)) == []
    assert list(spread(summing, payload, range(4), workers=100)) == []
    assert asked == [most, 4]


def leaving(payload: bytes) -> Callable[[int], None]:
    return lambda _: os._exit(7)


def test_a_worker_that_ends_is_not_taken_for_want_of_memory(payload):
    with pytest.raises(BadInput, match=r"a worker process ended with exit code 7; --workers 1 shows its error"):
        list(spread(leaving, payload, [1, 2, 3], workers=2))


def test_workers_run_no_code_from_the_current_folder(payload, tmp_path, monkeypatch):
    """``signal`` is imported before anything else of a worker's."""
    (tmp_path / "signal.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    assert len(list(spread(summing, payload, [1, 2], workers=2))) == 2
    assert not (tmp_path / "ran").exists()
    assert "PYTHONSAFEPATH" not in os.environ


LOCAL_RAY = """
import socket, subprocess, sys
from pathlib import Path
from repq_deploy.search.pool import spread
from tests.search.test_pool import summing

done = spread(summing, Path(sys.argv[1]), [1, 2], workers=1, ray="local")
next(done)
import ray
stranger = "import ray; ray.init(address=sys.argv[1])"
code = f"import sys, os; os.environ.pop('RAY_AUTH_TOKEN'); os.environ['RAY_AUTH_MODE'] = 'disabled'; {stranger}"
address = ray.get_runtime_context().gcs_address
refused = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True)
assert refused.returncode, refused.stdout
print("InvalidAuthToken" in refused.stderr, len(list(done)))
"""


@pytest.mark.slow
def test_a_local_cluster_answers_only_those_who_know_its_token(payload):
    pytest.importorskip("ray")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOCAL_RAY, payload], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["True", "1"], done.stderr


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
