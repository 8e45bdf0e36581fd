"""Whoever has connected is served, and whoever comes after is never taken and then cut off."""

from __future__ import annotations

import socket
import sys

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.serve.listener import listen, take_no_more


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {port} of 127.0.0.1: cannot listen there: .*; give another"):
            listen("127.0.0.1", port)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is filtered")
def test_none_begins_and_those_that_have_begun_are_accepted():
    with listen("127.0.0.1", 0) as listener:
        early = [socket.create_connection(listener.getsockname(), timeout=5) for _ in range(4)]
        take_no_more(listener)
        for client in early:
            taken, _ = listener.accept()
            with client, taken:
                client.sendall(b"question")
                assert taken.recv(8) == b"question"
                taken.sendall(b"answer")
                assert client.recv(6) == b"answer"
        # The queue has room again, and still nobody gets into it.
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.2)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
