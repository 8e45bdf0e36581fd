"""A replica on a node that has none of the files, asked as Ray Serve asks it; and the options of its deployment."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.manifest import read_manifest
from repq_deploy.engines.reference import read_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.errors import BadInput
from repq_deploy.serve.cluster.deployment import ClusterSettings, options_of
from repq_deploy.serve.cluster.replica import Replica, packed
from repq_deploy.serve.settings import ServeSettings
from tests.engines.graphs import write_tiny


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> ServeSettings:
    engine = build_engine(write_tiny(tmp_path_factory.mktemp("engine")).path, "onnxruntime").engine
    return ServeSettings(engines={"tiny": engine}, threads=1)


async def asked(app: Any, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
    """The status and the JSON of an answer of an ASGI application."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(one.get("body", b"") for one in sent[1:]))


def test_a_replica_needs_no_files_and_gives_the_engine_s_logits(settings, tmp_path, monkeypatch):
    (engine,) = settings.engines.values()
    files = packed(settings)
    reference = read_reference(engine.with_name(read_manifest(engine).reference))
    images = {"name": "images", "datatype": "FP32", "shape": [2, *reference.images.shape[1:]]}
    images["data"] = reference.images[:2].ravel().tolist()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def run() -> tuple[int, Any]:
        replica = Replica.__new__(Replica)
        await Replica.__init__(replica, replace(settings, engines={"tiny": Path("/nowhere")}), files)
        assert len([*tmp_path.iterdir()]) == 1
        answer = await asked(
            replica.__serve_build_asgi_app__(),
            "POST",
            "/v2/models/tiny/infer",
            json.dumps({"inputs": [images]}).encode(),
        )
        replica.__del__()
        return answer

    status, answer = asyncio.run(run())
    assert status == 200, answer
    logits = np.float32(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
    np.testing.assert_array_equal(logits, open_engine(engine)[0](reference.images[:2]))
    assert [*tmp_path.iterdir()] == []


def test_files_that_were_altered_on_the_way_are_refused(settings):
    files = packed(settings)
    (name,) = (name for name in files["tiny"] if name.endswith(".engine"))
    altered = {"tiny": {**files["tiny"], name: files["tiny"][name][:-1] + b"!"}}
    replica = Replica.__new__(Replica)
    with pytest.raises(BadInput, match=r"is not what tiny\.onnxruntime\.json describes"):
        asyncio.run(Replica.__init__(replica, settings, altered))
    replica.__del__()


def test_options_of_the_deployment(settings):
    manifests = [read_manifest(engine) for engine in settings.engines.values()]  # of batch 8 at best
    two = options_of(replace(settings, workers=2, threads=3, queue=50), ClusterSettings(least=2, most=2), manifests)
    assert two["num_replicas"] == 2
    assert two["ray_actor_options"] == {"num_cpus": 6, "num_gpus": 0}
    assert (two["max_ongoing_requests"], two["max_queued_requests"]) == (32, 50)
    scaled = options_of(replace(settings, batch=4), ClusterSettings(least=1, most=3), manifests)
    assert scaled["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 4}
    assert "num_replicas" not in scaled


@pytest.mark.parametrize(("text", "expected"), [("2", (2, 2)), ("1-4", (1, 4))])
def test_replicas(text, expected):
    assert ClusterSettings.replicas(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1-", "-2", "1-x", "1.5"])
def test_no_number_of_replicas(text):
    with pytest.raises(BadInput, match="expected a number such as 2, or a range such as 1-4"):
        ClusterSettings.replicas(text)


def test_what_no_cluster_can_do_is_refused():
    with pytest.raises(BadInput, match="--replicas 3-2"):
        ClusterSettings(least=3, most=2)
    with pytest.raises(BadInput, match="--port 0"):
        ClusterSettings(port=0)
