"""A client that does not read its answer is cut off; one that reads it in time is not."""

from __future__ import annotations

import asyncio

from repq_deploy.serve.connections import BoundedConnection


class Transport(asyncio.Transport):
    """Records that it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        self.aborted = True


async def paused(*, resumes: bool) -> bool:
    """Whether the connection is cut off whose client does not read, or reads again at once."""
    import uvicorn
    from uvicorn.server import ServerState

    async def app(scope: object, receive: object, send: object) -> None: ...

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    connection = BoundedConnection(config, ServerState(), {}, asyncio.get_running_loop(), most=2, patience_s=0.02)
    transport = Transport()
    connection.connection_made(transport)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.pause_writing()
    if resumes:
        connection.resume_writing()
    await asyncio.sleep(0.1)
    return transport.aborted


def test_an_answer_that_nobody_reads():
    assert asyncio.run(paused(resumes=False)) is True
    assert asyncio.run(paused(resumes=True)) is False
