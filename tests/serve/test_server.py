"""One server under load and at its end: refusals at once, and every request that was accepted is answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.batching import Runner
from repq_deploy.serve import model
from repq_deploy.serve.settings import ServeSettings
from tests.serve.running import SECONDS, Live, images, infer_json, running

client_of = pytest.importorskip("tritonclient.grpc", reason="the extra `serve` is not installed")


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, engines do not come to an end."""
    event = threading.Event()
    event.set()
    load: Callable[..., Runner] = model.load_engine

    def held(*arguments: object, **options: object) -> Runner:
        runner = load(*arguments, **options)

        def run(batch: np.ndarray) -> np.ndarray:
            assert event.wait(SECONDS)
            return runner(batch)

        return run

    monkeypatch.setattr(model, "load_engine", held)
    yield event
    event.set()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def hold(live: Live, pool: ThreadPoolExecutor, go: threading.Event, waiting: int) -> list[object]:
    """One request that the engine has, and so many that wait."""
    go.clear()
    batcher = live.server.repository.model("tiny").batcher
    futures = [pool.submit(live.infer, infer_json(images()))]
    until(lambda: live.metric("repq_requests_under_way") == 1 and batcher.waiting == 0)
    for count in range(1, waiting + 1):
        futures.append(pool.submit(live.infer, infer_json(images())))
        until(lambda count=count: batcher.waiting == count)
    return futures  # type: ignore[return-value]


def test_a_full_queue_refuses_at_once_and_loses_nothing(engine: Path, go: threading.Event):
    settings = ServeSettings(engines={"tiny": engine}, queue=2, batch=1)
    with running(settings) as live, ThreadPoolExecutor(8) as pool:
        accepted = hold(live, pool, go, waiting=2)
        start = time.monotonic()
        refused = live.infer(infer_json(images()))
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "2 images wait and 2 may" in refused.json()["error"]
        with client_of.InferenceServerClient(f"127.0.0.1:{live.serving.grpc_port}") as client:
            sent = client_of.InferInput("images", [1, 3, 8, 8], "FP32")
            sent.set_data_from_numpy(images())
            with pytest.raises(client_of.InferenceServerException, match="RESOURCE_EXHAUSTED"):
                client.infer("tiny", [sent])
            with pytest.raises(client_of.InferenceServerException):  # gives up: it is not computed
                client.infer("tiny", [sent], client_timeout=0.01)
        assert time.monotonic() - start < SECONDS / 2 and live.ask("GET", "/v2/health/ready").status == 200
        go.set()
        assert [each.result(SECONDS).status for each in accepted] == [200] * 3
        assert live.metric("repq_images_waiting") == live.metric("repq_requests_under_way") == 0


def test_at_its_end_it_is_no_longer_ready_and_answers_what_it_accepted(engine: Path, go: threading.Event):
    settings = ServeSettings(engines={"tiny": engine}, batch=1)
    with running(settings, grace_s=0.3) as live, ThreadPoolExecutor(8) as pool:
        accepted = hold(live, pool, go, waiting=2)
        live.server.stop()
        until(lambda: live.ask("GET", "/v2/health/ready").status == 503)
        late = pool.submit(live.infer, infer_json(images()))
        until(lambda: live.server.repository.model("tiny").batcher.waiting == 3)
        go.set()
        answers = [each.result(SECONDS) for each in (*accepted, late)]
        assert [each.status for each in answers] == [200] * 4
        assert answers[-1].headers["connection"] == "close"


def test_a_request_that_comes_late_on_a_connection_in_time_is_answered(engine: Path):
    body = json.dumps(infer_json(images())).encode()
    with running(ServeSettings(engines={"tiny": engine})) as live:
        connection = HTTPConnection("127.0.0.1", live.serving.port, timeout=SECONDS)
        connection.connect()
        live.server.stop()
        time.sleep(0.7)  # more than the time for handshakes
        connection.request("POST", "/v2/models/tiny/infer", body)
        assert connection.getresponse().status == 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to catch")
def test_sigterm_in_the_middle_of_a_load_loses_no_request(engine: Path):
    command = [sys.executable, "-m", "repq_deploy", "serve", str(engine), "--port", "0", "--grpc-port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            answered, lost = [], []
            stop = threading.Event()
            body = json.dumps(infer_json(images())).encode()

            def ask() -> None:
                connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
                while not stop.is_set():
                    try:
                        connection.connect() if connection.sock is None else None
                    except OSError:  # nobody listens any more: nothing was accepted
                        return
                    try:
                        connection.request("POST", "/v2/models/tiny/infer", body)
                        answered.append(connection.getresponse())
                        assert answered[-1].status == 200 and len(answered[-1].read()) > 100
                    except (OSError, HTTPException) as error:
                        lost.append(error)
                        return

            threads = [threading.Thread(target=ask) for _ in range(6)]
            for thread in threads:
                thread.start()
            until(lambda: len(answered) > 50)
            os.kill(process.pid, signal.SIGHUP)  # the file is the same: nothing happens
            os.kill(process.pid, signal.SIGTERM)
            for thread in threads:
                thread.join(SECONDS)
            stop.set()
            assert lost == [] and len(answered) > 50
            assert process.wait(SECONDS) == 0
            assert process.stderr is not None and process.stderr.read() == ""
        finally:
            process.kill()
