"""What becomes of requests on the wire, by REST and by gRPC, against the stand-in and against worse."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from repq_deploy.errors import BadInput
from repq_deploy.remote.address import parse_address
from repq_deploy.remote.load.connections import NO_ANSWER, TIMED_OUT, open_connections
from repq_deploy.remote.load.loops import ANSWERED, NO_CONNECTION, REFUSED
from repq_deploy.remote.load.worker import images_for
from repq_deploy.remote.model import RemoteModel, TensorInfo, open_remote
from tests.remote.stand_in import StandIn, serving

SCHEMES = ("http", "grpc")


def means(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": np.float32([[image.mean(), image.max()] for image in images])}


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serving(StandIn(means, (3, 4, 4), {"logits": (2,)})) as served:
        yield served


def sent(model: RemoteModel, count: int = 4, *, seconds: float = 5.0, batch: int = 2) -> tuple[list[str], int]:
    """The outcomes of ``count`` requests, one after the other, and how many answers differ."""

    async def run() -> tuple[list[str], int]:
        connections = open_connections(model, images_for(model, batch)[:2])
        try:
            deadline = asyncio.get_running_loop().time() + seconds
            return [await connections.send(number, deadline) for number in range(count)], connections.different
        finally:
            await connections.close()

    return asyncio.run(run())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_requests_are_answered_by_the_server(server, scheme):
    with open_remote(server.urls[scheme]) as model:
        assert sent(model) == ([ANSWERED] * 4, 0)
    assert server.batches == [2] * 4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_answer_that_is_another_requests_is_counted(server, scheme):
    with open_remote(server.urls[scheme]) as model:
        calls = iter(range(9))
        server.predict = lambda images: {"logits": np.float32([[next(calls) > 2, 0]] * len(images))}
        assert sent(model) == ([ANSWERED] * 4, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_refusals_are_told_from_failures(server, scheme):
    with open_remote(server.urls[scheme]) as model:
        server.status = 503
        assert sent(model, 2)[0] == [REFUSED] * 2
    unknown = replace(model, address=replace(model.address, model="other"))
    server.status = 200
    if scheme == "http":
        server.status = 400
        assert sent(unknown, 1)[0] == ["status 400"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_there(server, scheme):
    with open_remote(server.urls[scheme]) as model:
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = replace(model, address=parse_address(f"{scheme}://127.0.0.1:{port}/tiny"))
    assert sent(gone, 1)[0] == [NO_CONNECTION]


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A port whose every connection gets ``answer`` once something has come, and is then closed."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def model_at(port: int) -> RemoteModel:
    images = TensorInfo("images", (-1, 3, 4, 4), "UINT8")
    address = parse_address(f"http://127.0.0.1:{port}/tiny")
    return RemoteModel(address, (images,), (TensorInfo("logits", (-1, 2), "FP32"),), None, {}, 5.0, None, None)


CHUNKED = b"HTTP/1.1 %s Said\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"", NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", NO_ANSWER),
        (b"HTTP/1.1 503 Full\r\nconnection: close\r\n\r\nall", REFUSED),
        (
            b"HTTP/1.1 500 Full\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nall\r\n0\r\n\r\n",
            "status 500",
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nal", NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnone\r\n", NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + b"a" * 100_000, NO_ANSWER),
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", REFUSED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nConnection: close\r\n\r\nall", ANSWERED),
    ],
)
def test_connections_that_end(answer, outcome):
    with listening(answer) as port:
        assert sent(model_at(port), 2)[0] == [outcome] * 2


def test_a_connection_that_the_server_has_closed_is_not_used_again():
    with listening(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall") as port:
        model = model_at(port)

        async def run() -> list[str]:
            connections = open_connections(model, images_for(model, 1))
            deadline, found = asyncio.get_running_loop().time() + 5, []
            for number in range(2):
                found.append(await connections.send(number, deadline))
                await asyncio.sleep(0.05)  # until the end of the connection has come
            await connections.close()
            return found

        assert asyncio.run(run()) == [ANSWERED] * 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_that_says_nothing(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        model = replace(model_at(port), address=parse_address(f"{scheme}://127.0.0.1:{port}/tiny"))
        assert sent(model, 1, seconds=0.1)[0] == [TIMED_OUT]


def test_what_is_sent_is_what_the_model_takes(server):
    with open_remote(server.urls["http"]) as model:
        first, second, *_ = images_for(model, 3)
        assert (first.shape, first.dtype) == ((3, 3, 4, 4), np.float32)
        assert not np.array_equal(first, second)
        with pytest.raises(BadInput, match="takes 2 images at most"):
            images_for(replace(model, largest_batch=2), 3)
        tokens = TensorInfo("tokens", (-1, 77), "INT64")
        with pytest.raises(BadInput, match=r"takes INT64 \[-1, 77\]; only images"):
            images_for(replace(model, inputs=(tokens,)), 1)
    bytes_of = images_for(model_at(1), 1)[0]
    assert (bytes_of.dtype, len(images_for(model_at(1), 1)), len(images_for(model_at(1), 100))) == (np.uint8, 8, 2)
