"""One connection of the REST server, bounded: what uvicorn's own leaves to a proxy in front of it.

A head that does not arrive, an answer that is not read and connections without number each hold memory for ever.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from repq_deploy.serve.rest import Refusal

__all__ = ["BoundedConnection"]


class BoundedConnection(H11Protocol):
    """Closed where a head, or the reading of an answer, takes more than ``patience_s``. Those beyond ``most`` are told
    so, those beyond twice as many are not."""

    def __init__(self, *arguments: Any, most: int, patience_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most, self._patience_s = most, patience_s
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    @property
    def arriving(self) -> bool:
        """A request may be on its way: none has come yet, or a part of one has."""
        return self.cycle is None or bool(self.conn.trailing_data[0])

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > 2 * self._most:
            transport.abort()
        elif len(self.connections) > self._most:
            self.app = _too_many()
        self._head = self.loop.call_later(self._patience_s, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits_for_head = self.conn.their_state is h11.IDLE
        if self._head is not None and not waits_for_head:
            self._head.cancel()
            self._head = None
        elif self._head is None and waits_for_head and not self.transport.is_closing():
            self._head = self.loop.call_later(self._patience_s, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head, self._reading):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self.loop.call_later(self._patience_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or a head of more than 64 kB."""
        head = [(b"content-type", b"application/json"), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=head, reason=b"Bad Request"),
            h11.Data(data=json.dumps({"error": msg}).encode()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _too_many() -> Refusal:
    head = {"connection": "close", "retry-after": "1"}
    return Refusal(b'{"error":"too many connections; try again later"}', 503, head, "application/json")
