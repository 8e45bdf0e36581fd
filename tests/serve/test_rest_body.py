"""The bodies of several requests together are bounded too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request

from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.rest_body import Bodies


def request(body: bytes) -> Request:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, object]:
        return next(messages)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-length", str(len(body)).encode())]}
    return Request(scope, receive)


def test_what_is_held_at_a_time_is_at_most_four_times_the_largest_body():
    bodies = Bodies(100, patience_s=5)

    async def held(count: int, then: Callable[[], Awaitable[None]]) -> None:
        if count == 0:
            await then()
            return
        async with bodies.read(request(bytes(100))) as body:
            assert body == bytes(100)
            await held(count - 1, then)

    async def one_more() -> None:
        async with bodies.read(request(b"a")) as body:
            assert body == b"a"

    with pytest.raises(Refused, match="401 bytes of requests are held") as refused:
        asyncio.run(held(4, one_more))
    assert refused.value.reason is Reason.BUSY
    asyncio.run(held(3, one_more))  # nothing of the refused ones is counted any more
    asyncio.run(held(4, lambda: asyncio.sleep(0)))
