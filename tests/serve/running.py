"""A server that runs beside a test, in a thread, and what a test asks it with."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from repq_deploy.engines.api import BuildSettings, build_engine
from repq_deploy.engines.batching import Profile
from repq_deploy.serve.server import Server, Serving
from repq_deploy.serve.settings import Listening, ServeSettings
from tests.engines.graphs import SIDE, write_tiny

__all__ = ["SECONDS", "SHAPE", "Answered", "Live", "build_tiny", "images", "infer_json", "running"]

#: What is not there by then never will be.
SECONDS = 20
SHAPE = (3, SIDE, SIDE)


def build_tiny(folder: Path, seed: int = 0) -> Path:
    """The engine of ``tests.engines.graphs.tiny``, for 1 to 8 images, 4 at best."""
    folder.mkdir(exist_ok=True)
    source = write_tiny(folder, seed=seed)
    return build_engine(source.path, "onnxruntime", settings=BuildSettings(profile=Profile(1, 4, 8))).engine


def images(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def infer_json(batch: np.ndarray, **fields: Any) -> dict[str, Any]:
    """A request of the protocol in JSON; ``fields`` are those of its input."""
    described = {"name": "images", "datatype": "FP32", "shape": list(batch.shape), "data": batch.ravel().tolist()}
    return {"inputs": [{**described, **fields}]}


@dataclass(frozen=True)
class Answered:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Live:
    """A server that is ready."""

    server: Server
    serving: Serving

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answered:
        """One request on a connection of its own; a ``body`` that is not bytes is sent as JSON."""
        connection = HTTPConnection("127.0.0.1", self.serving.port, timeout=SECONDS)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, found, response.read())
        finally:
            connection.close()

    def infer(self, body: Any, headers: dict[str, str] | None = None) -> Answered:
        return self.ask("POST", "/v2/models/tiny/infer", body, headers)

    def raw(self, *parts: bytes) -> bytes:
        """All that comes back for bytes as they are, until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.serving.port), timeout=SECONDS) as connection:
            found = b""
            try:
                for part in parts:
                    connection.sendall(part)
                while chunk := connection.recv(65536):
                    found += chunk
            except ConnectionError:  # what was not read when it was closed
                pass
            return found

    def reset(self, part: bytes) -> None:
        """Send the beginning of a request, and break the connection off."""
        with socket.create_connection(("127.0.0.1", self.serving.port), timeout=SECONDS) as connection:
            connection.sendall(part)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@contextmanager
def running(settings: ServeSettings, **options: Any) -> Iterator[Live]:
    """A server of ``settings`` on ports that are free; ``options`` are those of ``Listening``."""
    chosen = {"port": 0, "grpc_port": 0, "grace_s": 0.0, **options}
    server, ready, failed = Server(settings, Listening(**chosen)), threading.Event(), []
    said: list[Serving] = []

    def run() -> None:
        try:
            asyncio.run(server.run(lambda serving: (said.append(serving), ready.set())[0]))
        except Exception as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(SECONDS)
        if failed:
            raise failed[0]
        yield Live(server, said[0])
    finally:
        server.stop()
        thread.join(SECONDS)
        assert not thread.is_alive()
