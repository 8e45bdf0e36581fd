"""Requests that cannot be answered: each is told so in the protocol's way, and leaves the server as it was."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.runner import open_engine
from repq_deploy.serve.settings import ServeSettings
from tests.serve.running import SHAPE, Live, images, infer_json, running

NUMBERS = int(np.prod(SHAPE))
LENGTH = "Inference-Header-Content-Length"


def an_input(**fields: Any) -> dict[str, Any]:
    """A request whose input has other ``fields``, and none of those that are None."""
    (tensor,) = infer_json(images(), **fields)["inputs"]
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


def binary(data: bytes, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    """A request with a tensor as bytes behind the JSON."""
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, *SHAPE], "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + data, {LENGTH: str(len(head))}


def outputs(*wanted: Any) -> dict[str, Any]:
    return {**infer_json(images()), "outputs": list(wanted)}


def with_one(value: float) -> bytes:
    batch = images()
    batch[0, 1, 2, 3] = value
    return batch.tobytes()


GOOD = images().tobytes()
SIZE = len(GOOD)
DEEP = b"[" * 500 + b"]" * 500
BAD_JSON = {
    "empty": b"",
    "no JSON": b"images",
    "half of JSON": b'{"inputs": [',
    "no UTF-8": b'{"inputs": "\xff\xfe"}',
    "a list": [],
    "a number": b"7",
    "nested deeply": b"[" * 50_000,
    "nested deeply in data": b'{"inputs":[{"name":"images","datatype":"FP32","shape":[1],"data":'
    + b"[" * 900
    + b"]" * 900,
    "no inputs": {},
    "inputs of null": {"inputs": None},
    "inputs of texts": {"inputs": ["images"]},
    "an empty list of inputs": {"inputs": []},
    "many inputs": {"inputs": [{}] * 1000},
    "two inputs": {"inputs": infer_json(images())["inputs"] * 2},
    "another name": an_input(name="pixels"),
    "a number as name": an_input(name=3),
    "no name": an_input(name=None),
    "another datatype": an_input(datatype="FP16"),
    "UINT8 for FP32": an_input(datatype="UINT8"),
    "no datatype": an_input(datatype=None),
    "no shape": an_input(shape=None),
    "a shape without images": an_input(shape=list(SHAPE)),
    "an empty shape": an_input(shape=[]),
    "other sides": an_input(shape=[1, 3, 9, 8]),
    "negative sizes": an_input(shape=[-1, 3, -8, -8]),
    "no image": an_input(shape=[0, *SHAPE], data=[]),
    "too many images": infer_json(images(9)),
    "fractions as sizes": an_input(shape=[1.0, 3.0, 8.0, 8.0]),
    "truths as sizes": an_input(shape=[True, *SHAPE]),
    "huge sizes": an_input(shape=[10**18, 3, 8, 8]),
    "a number of 5000 digits": b'{"inputs":[{"shape":[' + b"9" * 5000 + b"]}]}",
    "many axes": an_input(shape=[1] * 500),
    "no data": an_input(data=None),
    "too little data": an_input(data=[0.0] * (NUMBERS - 1)),
    "too much data": an_input(data=[0.0] * (NUMBERS + 1)),
    "ragged data": an_input(data=[[0.0], [0.0, 1.0]]),
    "data of another shape": an_input(data=np.zeros((1, 8, 8, 3)).tolist()),
    "data of texts": an_input(data=["0"] * NUMBERS),
    "data of null": an_input(data=[None] * NUMBERS),
    "data of truths": an_input(data=[True] * NUMBERS),
    "a text as data": an_input(data="0" * NUMBERS),
    "NaN": an_input(data=[float("nan")] * NUMBERS),
    "too large for float32": an_input(data=[1e300] * NUMBERS),
    "too large for a float": json.dumps(an_input(data=[0.0] * NUMBERS)).replace("0.0", "1e999").encode(),
    "another output": outputs({"name": "boxes"}),
    "an output twice": outputs({"name": "logits"}, {"name": "logits"}),
    "an output without a name": outputs({}),
    "outputs of texts": outputs("logits"),
    "more classes than there are": outputs({"name": "logits", "parameters": {"classification": 11}}),
    "a negative number of classes": outputs({"name": "logits", "parameters": {"classification": -1}}),
    "a text as number of classes": outputs({"name": "logits", "parameters": {"classification": "3"}}),
    "parameters of a list": {**infer_json(images()), "parameters": []},
    "a number as id": {**infer_json(images()), "id": 7},
    "shared memory": an_input(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 768}),
}
BAD_BINARY = {
    "truncated": binary(GOOD[:-4], binary_data_size=SIZE),
    "fewer bytes than its shape": binary(GOOD[:-4], binary_data_size=SIZE - 4),
    "more bytes than its shape": binary(GOOD + b"\0" * 4, binary_data_size=SIZE + 4),
    "bytes that are nobody's": binary(GOOD + b"\0", binary_data_size=SIZE),
    "negative size": binary(GOOD, binary_data_size=-SIZE),
    "a text as size": binary(GOOD, binary_data_size=str(SIZE)),
    "true as size": binary(GOOD, binary_data_size=True),
    "no size": binary(GOOD),
    "NaN in bytes": binary(with_one(np.nan), binary_data_size=SIZE),
    "infinity in bytes": binary(with_one(-np.inf), binary_data_size=SIZE),
    "no number as length": (GOOD, {LENGTH: "a lot"}),
    "negative length": (GOOD, {LENGTH: "-1"}),
    "length beyond the body": (GOOD, {LENGTH: str(SIZE + 1)}),
    "length of many digits": (GOOD, {LENGTH: "9" * 4000}),
    "raw bytes of half an image": (GOOD[: SIZE // 2], {LENGTH: "0"}),
    "raw bytes of one and a half": (GOOD + GOOD[: SIZE // 2], {LENGTH: "0"}),
    "no raw bytes": (b"", {LENGTH: "0"}),
}
POST = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\n"
#: What is no HTTP, or not as the server takes it: 4xx, and the connection is closed.
BAD_HTTP = {
    "no HTTP": b"images please\r\n\r\n",
    "zeros": b"\0" * 200,
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x5a" * 200 + b"\r\n\r\n",
    "a huge length": POST + b"Content-Length: 999999999999\r\n\r\n",
    "a length of many digits": POST + b"Content-Length: " + b"9" * 300 + b"\r\n\r\n",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nabcde",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    "a chunk without size": POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "chunks without end": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"2000\r\n" + b" " * 8192 + b"\r\n",
    "a long line": b"GET /" + b"a" * 70_000,
    "a flood of header fields": b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(9000)),
    "a long header field": POST + b"X: " + b"a" * 70_000,
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
}


@pytest.fixture(autouse=True)
def as_it_was(live: Live) -> Iterator[None]:
    """After each request the server is alive, holds nothing of it, and computes what it did."""
    yield
    assert live.ask("GET", "/v2/health/ready").json() == {"ready": True}
    assert live.metric("repq_requests_under_way") == live.metric("repq_images_waiting") == 0
    assert live.infer(infer_json(images())).status == 200


def check(answer: Any, status: int) -> None:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    (message,) = answer.json().values()
    assert answer.json() == {"error": message} and 10 < len(message) < 400 and "\n" not in message
    assert "defect" not in message


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_json_that_is_no_request(live: Live, body: Any):
    check(live.infer(body), 400)


@pytest.mark.parametrize(("body", "headers"), BAD_BINARY.values(), ids=BAD_BINARY.keys())
def test_bytes_that_are_no_images(live: Live, body: bytes, headers: dict[str, str]):
    check(live.infer(body, headers), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/tiny/../../../etc/passwd", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("DELETE", "/v2/models/tiny", 405),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/tiny/versions/1/infer", 404),
        ("GET", f"/v2/models/{'a' * 5000}", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/tiny/versions/0/config", 404),
        ("POST", "/v2/repository/models/other/load", 404),
        ("POST", "/v2/repository/models/tiny/unload", 404),
    ],
)
def test_what_is_not_there(live: Live, method: str, path: str, status: int):
    check(live.ask(method, path, infer_json(images()) if method == "POST" else None), status)


def test_bodies_that_are_too_large_or_compressed(live: Live):
    check(live.infer(b" " * 100_001), 413)
    check(live.infer(b"\x1f\x8b", {"Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize("data", BAD_HTTP.values(), ids=BAD_HTTP.keys())
def test_what_is_no_http(live: Live, data: bytes):
    more = [b"2000\r\n" + b" " * 8192 + b"\r\n"] * 20 if b"2000\r\n" in data else []
    answer = live.raw(data, *more)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ")), answer
    assert b'{"error":' in answer


def test_clients_that_break_off(live: Live):
    for part in (b"", b"POST /v2/mod", POST, POST + b"Content-Length: 900\r\n\r\n" + b"x" * 500):
        live.reset(part)


def test_clients_that_are_slow(engine):
    """A head or a body that does not arrive."""
    with running(ServeSettings(engines={"tiny": engine}), patience_s=0.2, grpc_port=None) as live:
        assert live.raw(b"") == live.raw(b"POST /v2/mod") == b""
        for body in (b"Content-Length: 900\r\n\r\nxyz", b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 18 + b"\r\nxyz"):
            half = live.raw(POST + body)
            assert half.startswith(b"HTTP/1.1 408 ") and b"within 0.2 s" in half
        assert live.metric("repq_requests_under_way") == 0


def test_more_connections_than_there_may_be(engine):
    with running(ServeSettings(engines={"tiny": engine}), connections=2, patience_s=1, grpc_port=None) as live:
        address = ("127.0.0.1", live.serving.port)
        held = [socket.create_connection(address) for _ in range(2)]
        try:
            answer = live.ask("GET", "/v2/health/live")
            assert (answer.status, "error" in answer.json()) == (503, True)
        finally:
            for each in held:
                each.close()
        assert live.ask("GET", "/v2/health/live").status == 200


def test_after_all_of_that_the_answers_are_the_engines(live: Live, engine):
    runner, _ = open_engine(engine)
    batch = images(3, seed=5)
    found = live.infer(infer_json(batch)).json()["outputs"][0]
    assert found["shape"] == [3, 10]
    np.testing.assert_array_equal(np.array(found["data"], np.float32).reshape(3, 10), runner(batch))
    assert live.server.repository.settings.max_body == 100_000
