"""When the loops send, against a server whose time for an answer is known."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.remote.load.loops import ANSWERED, REFUSED, ClosedLoop, OpenLoop

SECONDS = {"warmup": 0.05, "seconds": 0.3, "timeout": 5.0}


class Server:
    """Answers after ``takes`` seconds, and remembers how many requests were under way."""

    def __init__(self, takes: float, outcome: str = ANSWERED) -> None:
        self.takes, self.outcome = takes, outcome
        self.under_way, self.most, self.numbers = 0, 0, []

    async def send(self, number: int, deadline: float) -> str:
        assert deadline > asyncio.get_running_loop().time() + 4
        self.numbers.append(number)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.takes)
        self.under_way -= 1
        return self.outcome


def test_a_closed_loop_keeps_as_many_under_way_as_it_is_told():
    server = Server(0.02)
    sent = asyncio.run(ClosedLoop(3).run(server.send, **SECONDS))
    assert server.most == 3
    assert sorted(server.numbers) == list(range(len(sent)))
    # 0.35 s of 20 ms each for 3 clients: 52 at the most, and a busy machine leaves at least half.
    assert 26 <= len(sent) <= 54
    assert all(one.ended - one.due >= 0.02 for one in sent)
    assert min(one.due for one in sent) == pytest.approx(-0.05, abs=0.01)


def test_a_closed_loop_does_not_spin_on_a_server_that_refuses():
    sent = asyncio.run(ClosedLoop(1).run(Server(0, REFUSED).send, **SECONDS))
    assert 5 <= len(sent) <= 36


def test_an_open_loop_sends_whether_or_not_it_was_answered():
    server = Server(0.2)
    sent = asyncio.run(OpenLoop(100, "fixed").run(server.send, **SECONDS))
    assert len(sent) == 35
    assert server.most >= 15  # 20 are due while the first waits for its answer


def test_latency_counts_from_when_a_request_was_due():
    """The first request keeps the whole event loop for 0.15 s, as a stall does; those due meanwhile came too late."""

    async def stalls(number: int, deadline: float) -> str:
        if number == 0:
            time.sleep(0.15)
        return ANSWERED

    options = {**SECONDS, "warmup": 0.0}
    sent = asyncio.run(OpenLoop(100, "fixed").run(stalls, **options))
    late = [one.ended - one.due for one in sent]
    assert sum(each > 0.05 for each in late) >= 9
    assert max(late) >= 0.15


def test_times_of_arrivals():
    assert OpenLoop(4, "fixed").times(-0.5, 1) == [-0.5, -0.25, 0, 0.25, 0.5, 0.75]
    times = OpenLoop(2000, "poisson", seed=1).times(0, 2)
    assert len(times) == 4000
    gaps = [b - a for a, b in itertools.pairwise(times)]
    # The gaps of a Poisson process are exponential: their deviation is their mean.
    assert statistics.pstdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert times == OpenLoop(2000, "poisson", seed=1).times(0, 2)


def test_what_no_loop_can_do_is_refused():
    with pytest.raises(BadInput, match="concurrency 0: expected 1 to 1024"):
        ClosedLoop(0)
    with pytest.raises(BadInput, match=r"rate 0: expected 0\.01 to 100000"):
        OpenLoop(0)
