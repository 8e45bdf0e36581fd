"""A cluster of two nodes on this machine, of which one stops while requests come, and another takes its place."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.runner import open_engine
from repq_deploy.errors import BuildFailed
from repq_deploy.serve.cluster import deployment
from repq_deploy.serve.cluster.deployment import APPLICATION, ClusterSettings, deploy
from repq_deploy.serve.cluster.replica import packed
from repq_deploy.serve.settings import ServeSettings
from repq_deploy.system.clusters import connected
from tests.engines.graphs import SIDE, write_tiny

#: Times that a client asks again, and seconds before the first of them; each is twice as long as the one before.
RETRIES, PAUSE = 7, 0.1
#: An engine that is not the one of its manifest.
ALTERED = {"tiny.onnxruntime.engine": b"altered"}


class Client:
    """Asks for the logits of one image until it is stopped, and asks again where no answer comes."""

    def __init__(self, port: int, body: bytes) -> None:
        self.port, self.body = port, body
        self.answers: list[list[float]] = []
        self.retried: Counter[str] = Counter()
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            for turn in range(RETRIES + 1):
                said = self._ask()
                if not said:
                    break
                self.retried[said] += 1
                time.sleep(PAUSE * 2**turn)
            else:
                self.failed.append(said)

    def _ask(self) -> str:
        """Empty where there was an answer, otherwise why not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/v2/models/tiny/infer", self.body)
            answer = connection.getresponse()
            read = answer.read()
            if answer.status != 200:
                return f"status {answer.status}"
            self.answers.append(json.loads(read)["outputs"][0]["data"])
            return ""
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()


def replicas_of(node: Any) -> int:
    """How many replicas a node's own process has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task").glob("*/children")
    pids = [pid for file in children for pid in file.read_text().split()]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if Path(f"/proc/{pid}").exists()]
    return sum(line.startswith(b"ray::ServeReplica") for line in lines)


def until(true: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.mark.release
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Serve's own models
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes as Linux shows them")
def test_a_node_that_stops_costs_no_request(tmp_path, record_property, monkeypatch):
    pytest.importorskip("ray")
    from ray import serve
    from ray.cluster_utils import Cluster

    engine = build_engine(write_tiny(tmp_path).path, "onnxruntime").engine
    image = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    expected = open_engine(engine)[0](image)[0].tolist()
    tensor = {"name": "images", "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)  # a replica takes one CPU, so that each node has room for one of two
        cluster.wait_for_nodes()
        settings = ServeSettings(engines={"tiny": engine}, batch=4)
        with connected(cluster.address):
            where = ClusterSettings(address=cluster.address, least=2, most=2, port=port)
            with monkeypatch.context() as altered:
                altered.setattr(
                    deployment, "packed", lambda settings: {"tiny": {**packed(settings)["tiny"], **ALTERED}}
                )
                with pytest.raises(
                    BuildFailed, match=r"no replica could be started: engine .*: its content \(7 bytes\)"
                ):
                    deploy(settings, where)
            deploy(settings, where)
            assert (replicas_of(cluster.head_node), replicas_of(second)) == (1, 1)
            clients = [Client(port, json.dumps({"inputs": [tensor]}).encode()) for _ in range(4)]
            try:
                until(lambda: all(len(one.answers) > 5 for one in clients), 30, "no answers")
                cluster.remove_node(second, allow_graceful=False)
                stopped = time.monotonic()
                third = cluster.add_node(num_cpus=1)
                until(lambda: (replicas_of(cluster.head_node), replicas_of(third)) == (1, 1), 60, "not recovered")
                recovered = time.monotonic() - stopped
                before = [len(one.answers) for one in clients]
                until(
                    lambda: all(len(one.answers) > n + 5 for one, n in zip(clients, before, strict=True)),
                    30,
                    "no answers after the recovery",
                )
                status = serve.status().applications[APPLICATION]
                until(lambda: serve.status().applications[APPLICATION].status == "RUNNING", 30, str(status))
            finally:
                for one in clients:
                    one.stop()
            serve.shutdown()
    finally:
        cluster.shutdown()
    retried = sum((one.retried for one in clients), Counter())
    record_property("answers", sum(len(one.answers) for one in clients))
    record_property("retried", dict(retried))
    record_property("recovered in seconds", recovered)
    assert [one.failed for one in clients] == [[]] * 4
    assert all(answer == expected for one in clients for answer in one.answers)
