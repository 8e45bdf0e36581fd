"""A connection too many is told so, although what it sends is not wanted."""

from __future__ import annotations

import json
import socket

from repq_deploy.serve.settings import ServeSettings
from tests.serve.running import running


def test_a_client_that_sends_a_large_body_reads_that_there_are_too_many(engine):
    settings = ServeSettings(engines={"tiny": engine})
    with running(settings, connections=1, patience_s=2, grpc_port=None) as live:
        with socket.create_connection(("127.0.0.1", live.serving.port)):
            # More than the buffers of two sockets hold: it must be read for the answer not to be lost with it.
            answer = live.infer(bytes(8_000_000))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert json.loads(answer.body) == {"error": "too many connections; try again later"}
