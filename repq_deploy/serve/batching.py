"""Requests of a few images as batches of many: a bounded queue, and threads that take from it what fits together.

A thread takes whatever waits as soon as its engine is free, so that requests gather while one batch is computed and
nothing waits for company that may not come. With a delay, several requests that do not fill a batch wait that long for
more. Nothing here knows of a network or of asyncio.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.batching import Runner
from repq_deploy.serve.refusals import Reason, Refused

__all__ = ["Batcher", "Closed"]

#: Rows [n, numbers] of one request.
Rows = NDArray[np.float32]


class Closed(Exception):
    """The batcher takes no more requests."""


@dataclass(frozen=True)
class _Waiting:
    """Images [n, ...] of one request, where their rows go, and since when they wait (``time.monotonic``)."""

    images: NDArray[Any]
    rows: Future[Rows]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs requests on ``runners``, each by a thread of its own.

    Args:
        runners: instances of one engine.
        batch: the most images of different requests in a batch; a request that has more is a batch by itself.
        queue: the most images that wait. A request that finds nobody waiting always has room.
        delay_s: how long several requests wait to fill a batch.
        observe: called by the threads after each batch with its number of images and the seconds that it took.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        *,
        batch: int,
        queue: int,
        delay_s: float = 0.0,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._batch, self._queue, self._delay_s, self._observe = batch, queue, delay_s, observe
        self._changed = threading.Condition()
        self._requests: deque[_Waiting] = deque()
        self._images = 0  # of all requests that wait
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(runner,), name=f"engine-{number}", daemon=True)
            for number, runner in enumerate(runners)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many images wait."""
        return self._images

    def submit(self, images: NDArray[Any]) -> Future[Rows]:
        """Take a request of n images [n, ...] for its rows [n, numbers]; one that is cancelled in time is not computed.

        Raises:
            Refused: the queue is full.
            Closed: after ``close``.
        """
        with self._changed:
            if self._closed:
                raise Closed
            if self._images and self._images + len(images) > self._queue:
                raise Refused(Reason.BUSY, f"{self._images} images wait and {self._queue} may; try again later")
            request = _Waiting(images, Future())
            self._requests.append(request)
            self._images += len(images)
            self._changed.notify()
        return request.rows

    def close(self) -> None:
        """Take no more, answer what waits, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, runner: Runner) -> None:
        while (requests := self._take()) is not None:
            wanted = [each for each in requests if each.rows.set_running_or_notify_cancel()]
            if wanted:
                self._run(runner, wanted)

    def _take(self) -> list[_Waiting] | None:
        """The requests of the next batch, oldest first; None when there will be no more."""
        with self._changed:
            while not self._requests:
                if self._closed:
                    return None
                self._changed.wait()
            self._wait_for_more()
            taken: list[_Waiting] = []
            images = 0
            while self._requests and (not taken or images + len(self._requests[0].images) <= self._batch):
                taken.append(self._requests.popleft())
                images += len(taken[-1].images)
            self._images -= images
            return taken

    def _wait_for_more(self) -> None:
        until = self._requests[0].since + self._delay_s
        while len(self._requests) > 1 and self._images < self._batch and not self._closed:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _run(self, runner: Runner, requests: Sequence[_Waiting]) -> None:
        batch = [each.images for each in requests]
        start = time.perf_counter()
        try:
            rows = runner(batch[0] if len(batch) == 1 else np.concatenate(batch))
        except Exception as error:  # a runtime's own: it is the answer, and the next batch may do better
            for each in requests:
                each.rows.set_exception(error)
            return
        self._observe(len(rows), time.perf_counter() - start)
        end = 0
        for each in requests:
            start_row, end = end, end + len(each.images)
            each.rows.set_result(rows[start_row:end])
