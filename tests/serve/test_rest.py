"""What the server says and computes over REST, by hand and by ``tritonclient``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.manifest import read_manifest
from repq_deploy.engines.runner import open_engine
from tests.serve.running import SHAPE, Live, images, infer_json

http = pytest.importorskip("tritonclient.http", reason="the extra `client` is not installed")


@pytest.fixture
def client(live: Live) -> Any:
    with http.InferenceServerClient(f"127.0.0.1:{live.serving.port}") as found:
        yield found


def expected(engine: Path, batch: np.ndarray) -> np.ndarray:
    return open_engine(engine)[0](batch)


def test_health_and_metadata(live: Live, client: Any, engine: Path):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    version = read_manifest(engine).engine.sha256[:12]
    assert client.get_model_metadata("tiny", version) == {
        "name": "tiny",
        "versions": [version],
        "platform": "onnxruntime",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *SHAPE]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    config = client.get_model_config("tiny")
    assert (config["max_batch_size"], config["dynamic_batching"]["preferred_batch_size"]) == (8, [4])
    assert config["parameters"]["repq.preprocess"] == {"string_value": '{"size": 8}'}
    (listed,) = client.get_model_repository_index()
    assert (listed["name"], listed["version"], listed["state"]) == ("tiny", version, "READY")
    assert live.ask("GET", "/v2/models").json() == {"models": ["tiny"]}
    assert live.ask("GET", f"/v2/models/tiny/versions/{version}/ready").json() == {"name": "tiny", "ready": True}


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("wanted_binary", [True, False, None])
def test_answers_are_the_engines_to_the_bit(client: Any, engine: Path, sent_binary: bool, wanted_binary: bool | None):
    batch = images(3)
    sent = http.InferInput("images", batch.shape, "FP32")
    sent.set_data_from_numpy(batch, binary_data=sent_binary)
    wanted = None if wanted_binary is None else [http.InferRequestedOutput("logits", binary_data=wanted_binary)]
    found = client.infer("tiny", [sent], outputs=wanted, request_id="seven")
    np.testing.assert_array_equal(found.as_numpy("logits"), expected(engine, batch))
    assert found.get_response()["id"] == "seven"
    assert ("parameters" in found.get_output("logits")) == (wanted_binary is not False)


def test_nested_numbers_and_raw_bytes(live: Live, engine: Path):
    batch = images(2)
    flat = live.infer(infer_json(batch)).json()
    assert flat["model_name"] == "tiny" and flat["outputs"][0]["shape"] == [2, 10]
    nested = live.infer(infer_json(batch, data=batch.tolist())).json()
    raw = live.infer(batch.tobytes(), {"Inference-Header-Content-Length": "0"}).json()
    assert flat["outputs"] == nested["outputs"] == raw["outputs"]
    np.testing.assert_array_equal(np.array(raw["outputs"][0]["data"], np.float32), expected(engine, batch).ravel())


def test_leading_classes(live: Live, client: Any, engine: Path):
    batch = images(2)
    logits = expected(engine, batch)
    order = np.argsort(-logits, axis=1)[:, :3]
    texts = [[f"{logits[row, index]:f}:{index}" for index in order[row]] for row in range(2)]
    sent = http.InferInput("images", batch.shape, "FP32")
    sent.set_data_from_numpy(batch)
    found = client.infer("tiny", [sent], outputs=[http.InferRequestedOutput("logits", class_count=3)])
    assert [[text.decode() for text in row] for row in found.as_numpy("logits")] == texts
    wanted = [{"name": "logits", "parameters": {"classification": 3}}]
    (output,) = live.infer({**infer_json(batch), "outputs": wanted}).json()["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == ("BYTES", [2, 3], sum(texts, []))  # noqa: RUF017


def test_large_json_is_decoded_beside_the_loop(live: Live, engine: Path):
    batch = images(8).astype(np.float64)
    body = json.dumps(infer_json(batch), indent=8).encode()
    assert 50_000 < len(body) < 100_000
    found = np.array(live.infer(body).json()["outputs"][0]["data"], np.float32).reshape(8, 10)
    np.testing.assert_array_equal(found, expected(engine, batch.astype(np.float32)))


def test_what_prometheus_reads(live: Live):
    before = live.metric("repq_requests_total")
    assert live.infer(infer_json(images(2))).status == 200
    assert live.infer(b"").status == 400
    assert live.metric("repq_requests_total") == before + 2
    text = live.ask("GET", "/metrics").body.decode()
    assert 'repq_requests_total{model="tiny",outcome="invalid",protocol="rest"}' in text
    assert live.metric("repq_batch_images_sum") >= 2
    assert live.metric("repq_model") == 1


def test_openapi_of_nothing_else(live: Live):
    """No page, no documentation, no upload: what is not the protocol is not there."""
    for path in ("/", "/docs", "/openapi.json", "/v2/models/tiny/file", "/favicon.ico"):
        assert live.ask("GET", path).status == 404
