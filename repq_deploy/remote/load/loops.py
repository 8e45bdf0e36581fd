"""When requests are sent: in a closed loop by clients that wait for their answers, in an open one at times set before.

A closed loop asks what a server can do: it is never sent more than it has answered, and so a slow server is asked less.
An open loop asks what users meet, who come whether or not others were answered. Its latencies count from the time at
which a request was to be sent, so that a server that stalls, or a client that comes too late, is not flattered
(G. Tene's "coordinated omission").

Times are seconds from the start of the measured stretch. The warm-up lies before 0 and runs into it, so that it
begins under steady load.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from repq_deploy.errors import BadInput

__all__ = ["ANSWERED", "NO_CONNECTION", "REFUSED", "ClosedLoop", "Loop", "OpenLoop", "Sent"]

#: What became of a request; anything else is in the words of whoever sent it.
ANSWERED, REFUSED, NO_CONNECTION = "answered", "refused", "no connection"

#: Seconds for which a client of a closed loop waits after a request that failed, as it would spin on a full server.
_PAUSE = 0.01

#: Sends request number n, to be answered before a time of the event loop's clock, and says what became of it.
Send = Callable[[int, float], Awaitable[str]]


@dataclass(frozen=True)
class Sent:
    """A request: when it was to be sent, when the load's process came to it, when it ended, and what became of it."""

    due: float
    begun: float
    ended: float
    outcome: str


@dataclass(frozen=True)
class ClosedLoop:
    """``concurrency`` clients, each with one request under way."""

    concurrency: int

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 1024:
            raise BadInput(f"concurrency {self.concurrency}: expected 1 to 1024 requests at a time")

    @property
    def name(self) -> str:
        return f"{self.concurrency} at a time"

    async def run(self, send: Send, *, warmup: float, seconds: float, timeout: float) -> list[Sent]:
        """Every request that began before the end, once all have ended."""
        clock = asyncio.get_running_loop().time
        zero, numbers, found = clock() + warmup, itertools.count(), list[Sent]()

        async def client() -> None:
            while (due := clock() - zero) < seconds:
                outcome = await send(next(numbers), zero + due + timeout)
                found.append(Sent(due, due, clock() - zero, outcome))
                if outcome != ANSWERED:
                    await asyncio.sleep(_PAUSE)

        await asyncio.gather(*(client() for _ in range(self.concurrency)))
        return found


@dataclass(frozen=True)
class OpenLoop:
    """``rate`` requests a second on average: at random times (a Poisson process) or at equal distances."""

    rate: float
    arrivals: Literal["poisson", "fixed"] = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.01 <= self.rate <= 100_000:
            raise BadInput(f"rate {self.rate:g}: expected 0.01 to 100000 requests a second")

    @property
    def name(self) -> str:
        return f"{self.rate:g}/s {self.arrivals}"

    def times(self, start: float, end: float) -> list[float]:
        """When requests are due, from ``start`` to before ``end``."""
        count = round(self.rate * (end - start))
        if self.arrivals == "fixed":
            return [start + number / self.rate for number in range(count)]
        # As many arrivals of a Poisson process as are expected lie in a stretch like as many uniform numbers.
        return sorted(np.random.default_rng([self.seed, count]).uniform(start, end, count).tolist())

    async def run(self, send: Send, *, warmup: float, seconds: float, timeout: float) -> list[Sent]:
        """Every request, once all have ended."""
        clock = asyncio.get_running_loop().time
        zero, found = clock() + warmup, list[Sent]()

        async def request(number: int, due: float) -> None:
            begun = clock() - zero
            outcome = await send(number, zero + due + timeout)
            found.append(Sent(due, begun, clock() - zero, outcome))

        async with asyncio.TaskGroup() as group:
            for number, due in enumerate([*self.times(-warmup, 0), *self.times(0, seconds)]):
                await asyncio.sleep(zero + due - clock())
                group.create_task(request(number, due))
        return found


Loop = ClosedLoop | OpenLoop
