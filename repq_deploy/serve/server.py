"""One process that serves: REST and gRPC in one event loop, the engines in threads beside it.

Threads and not processes are its workers: ONNX Runtime and the others compute outside Python's lock, all workers take
from one queue, and a new version takes an old one's place in one step. What Python does for a request takes a fraction
of a millisecond; who needs more than one Python, or more than one machine, runs more of these servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from repq_deploy.serve.connections import BoundedConnection
from repq_deploy.serve.grpc_service import grpc_server
from repq_deploy.serve.listener import listen, take_no_more
from repq_deploy.serve.metrics import Metrics
from repq_deploy.serve.model import ServedModel
from repq_deploy.serve.repository import Repository
from repq_deploy.serve.rest import rest_app
from repq_deploy.serve.settings import Listening, ServeSettings

__all__ = ["Server", "Serving"]

#: For handshakes that are under way when no more may begin.
_SETTLE_S = 0.2
#: For requests that are on their way then; a connection that still asks nothing is closed.
_ARRIVING_S = 2.0
#: At the end all that wait are answered, however long the queue is; gRPC wants a number.
_ANSWERING_S = 86_400.0


@dataclass(frozen=True)
class Serving:
    """What a server says once it is ready: where it listens (``grpc_port`` None: not), and its models."""

    host: str
    port: int
    grpc_port: int | None
    models: tuple[ServedModel, ...]

    def urls(self, name: str) -> list[str]:
        """Where clients of the model ``name`` turn to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        found = [f"http://{host}:{self.port}/{name}"]
        return found if self.grpc_port is None else [*found, f"grpc://{host}:{self.grpc_port}/{name}"]


class Server:
    """Serves ``settings`` where ``listening`` says, from ``run`` until ``stop``."""

    def __init__(self, settings: ServeSettings, listening: Listening) -> None:
        self.listening, self.metrics = listening, Metrics()
        self.repository = Repository(settings, self.metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[Serving], None]) -> None:
        """Listen, load, call ``ready``, and go on until ``stop`` or a signal; then answer what was accepted.

        It listens while it loads: health is answered, and requests are told that their model is not ready.

        Raises:
            BadInput, BackendMissing, ValidationFailed: it cannot listen, or a model cannot be served.
        """
        self._loop = asyncio.get_running_loop()
        where = self.listening
        listener = listen(where.host, where.port)
        with contextlib.closing(listener), self._signals():
            http = self._http()
            answering = asyncio.create_task(http.serve(sockets=[listener]))
            grpc, grpc_port = None, None
            try:
                if where.grpc_port is not None:
                    grpc, grpc_port = await grpc_server(
                        self.repository,
                        self.metrics,
                        host=where.host,
                        port=where.grpc_port,
                        most_at_a_time=where.connections,
                    )
                    await grpc.start()
                loading, stopped = asyncio.create_task(self._load()), asyncio.create_task(self._stop.wait())
                await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
                if loading.done():
                    models = loading.result()
                    ready(Serving(where.host, listener.getsockname()[1], grpc_port, models))
                await stopped
                loading.cancel()
            finally:
                await self._drain(http, listener, answering, grpc)

    def stop(self) -> None:
        """Let ``run`` come to its end; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop.set)

    async def _load(self) -> tuple[ServedModel, ...]:
        await self.repository.load_all()
        return tuple(self.repository.model(name) for name in self.repository.names)

    def _http(self) -> _Http:
        where = self.listening
        # Each bad request would be a line of the log; defects are still there.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        app = rest_app(self.repository, self.metrics, patience_s=where.patience_s)
        connection: Any = partial(BoundedConnection, most=where.connections, patience_s=where.patience_s)
        config = uvicorn.Config(
            _closing_when_stopped(app, self.repository),
            http=connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=2 * where.connections,
            timeout_keep_alive=int(where.idle_s),
        )
        return _Http(config)

    async def _drain(self, http: _Http, listener: socket.socket, answering: asyncio.Task[None], grpc: Any) -> None:
        """No longer ready, then no more connections, then no more requests, then the end of all that are under way."""
        self.repository.stopping = True
        if http.started:
            await asyncio.sleep(self.listening.grace_s)
            take_no_more(listener)
            await asyncio.sleep(_SETTLE_S)
            await http.take_last(listener)
            await http.arrived(_ARRIVING_S)
        http.should_exit = True
        if grpc is not None:
            await grpc.stop(_ANSWERING_S)
        await answering
        await self.repository.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop, a second one at once; SIGHUP loads what has changed. Elsewhere than in the main
        thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        background: set[asyncio.Task[None]] = set()

        def end(number: int, _: object) -> None:
            if self._stop.is_set():
                os._exit(128 + number)
            loop.call_soon_threadsafe(self._stop.set)

        def load() -> None:
            task = loop.create_task(self.repository.load_changed())
            background.add(task)
            task.add_done_callback(background.discard)

        handlers: dict[int, Callable[[int, object], Any]] = {signal.SIGINT: end, signal.SIGTERM: end}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = lambda number, frame: loop.call_soon_threadsafe(load)
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Http(uvicorn.Server):
    """uvicorn, with signals left to us, and an end that cuts off no connection."""

    async def take_last(self, listener: socket.socket) -> None:
        """Stop to listen; connections that the system has taken for us, and we have not yet, are taken before."""
        taken = []
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        kind: Any = self.config.http_protocol_class
        connection = partial(kind, config=self.config, server_state=self.server_state, app_state={})
        for each in taken:
            each.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(connection, each)

    async def arrived(self, within_s: float) -> None:
        """Wait until no request is on its way on a connection that is open, or for ``within_s`` seconds."""
        connections: Any = self.server_state.connections
        end = time.monotonic() + within_s
        while time.monotonic() < end and any(each.arriving for each in connections):
            await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _closing_when_stopped(app: ASGIApp, repository: Repository) -> ASGIApp:
    """``app``, whose answers ask clients to leave once the server is about to stop, so that none is cut off."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        async def last(message: Message) -> None:
            if message["type"] == "http.response.start" and repository.stopping:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await app(scope, receive, last)

    return closing
