"""Batches: what is computed together, what is refused, and that no request is lost or answered with another's rows."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from repq_deploy.serve.batching import Batcher, Closed
from repq_deploy.serve.refusals import Reason, Refused

SECONDS = 10


class Engine:
    """Gives each image [n, 2] its double; records the sizes of batches, and waits where it is held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.entered, self.go = threading.Semaphore(0), threading.Event()
        self.go.set()

    def hold(self, batcher: Batcher) -> Future[Any]:
        """Let one request of one image occupy the engine."""
        self.go.clear()
        first = batcher.submit(images(0))
        assert self.entered.acquire(timeout=SECONDS)
        return first

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        self.entered.release()
        assert self.go.wait(SECONDS)
        if (batch < 0).any():
            raise RuntimeError("negative")
        return 2 * batch


def images(*values: float) -> np.ndarray:
    return np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_what_waits_is_computed_together_and_each_gets_its_own_rows(engine):
    batcher = Batcher([engine], batch=4, queue=100)
    first = engine.hold(batcher)
    others = [batcher.submit(images(value)) for value in range(1, 7)]
    assert batcher.waiting == 6
    engine.go.set()
    rows = [each.result(SECONDS) for each in (first, *others)]
    assert [float(row[0, 0]) for row in rows] == [0, 2, 4, 6, 8, 10, 12]
    assert engine.batches == [1, 4, 2] and batcher.waiting == 0
    batcher.close()


def test_a_request_is_never_split_nor_overtaken(engine):
    batcher = Batcher([engine], batch=4, queue=100)
    engine.hold(batcher)
    sizes = (3, 2, 1, 6, 1)
    others = [batcher.submit(images(*range(size))) for size in sizes]
    engine.go.set()
    assert [each.result(SECONDS).shape[0] for each in others] == list(sizes)
    assert engine.batches == [1, 3, 3, 6, 1]
    batcher.close()


def test_one_that_finds_no_room_is_refused_at_once_and_the_others_are_answered(engine):
    batcher = Batcher([engine], batch=2, queue=3)
    engine.hold(batcher)
    others = [batcher.submit(images(1)), batcher.submit(images(2, 3))]
    with pytest.raises(Refused, match="3 images wait and 3 may") as refused:
        batcher.submit(images(4))
    assert refused.value.reason is Reason.BUSY
    engine.go.set()
    assert [each.result(SECONDS)[-1, 0] for each in others] == [2, 6]
    assert batcher.submit(images(*range(50))).result(SECONDS).shape == (50, 2)  # nobody waits: there is always room
    batcher.close()


def test_one_that_is_cancelled_in_time_is_not_computed(engine):
    batcher = Batcher([engine], batch=8, queue=100)
    engine.hold(batcher)
    cancelled, kept = batcher.submit(images(1, 2)), batcher.submit(images(3))
    assert cancelled.cancel()
    engine.go.set()
    assert kept.result(SECONDS)[0, 0] == 6
    assert engine.batches == [1, 1] and batcher.waiting == 0
    batcher.close()


def test_the_engines_error_is_the_answer_of_its_batch_alone(engine):
    batcher = Batcher([engine], batch=8, queue=100)
    with pytest.raises(RuntimeError, match="negative"):
        batcher.submit(images(-1)).result(SECONDS)
    assert batcher.submit(images(1)).result(SECONDS)[0, 0] == 2
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more(engine):
    seen: list[int] = []
    batcher = Batcher([engine], batch=2, queue=100, observe=lambda count, seconds: seen.append(count))
    engine.hold(batcher)
    others = [batcher.submit(images(value)) for value in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while True:
        try:
            others.append(batcher.submit(images(4)))
        except Closed:
            break
    engine.go.set()
    closing.join(SECONDS)
    assert not closing.is_alive() and all(each.done() for each in others)
    assert sum(seen) == 1 + len(others) == sum(engine.batches)


def test_with_a_delay_several_wait_for_more_and_one_alone_does_not(engine):
    batcher = Batcher([engine], batch=3, queue=100, delay_s=SECONDS)
    assert batcher.submit(images(1)).result(SECONDS / 2)[0, 0] == 2  # alone
    engine.entered.acquire()
    engine.hold(batcher)
    two = [batcher.submit(images(1)), batcher.submit(images(2))]
    engine.go.set()
    assert not two[0].done()
    third = batcher.submit(images(3))
    assert [each.result(SECONDS / 2)[0, 0] for each in (*two, third)] == [2, 4, 6]
    assert engine.batches == [1, 1, 3]
    batcher.close()


def test_every_worker_takes_from_one_queue():
    both = [Engine(), Engine()]
    batcher = Batcher(both, batch=1, queue=100)
    for engine in both:
        engine.go.clear()
    waiting = [batcher.submit(images(value)) for value in (1, 2, 3)]
    assert all(engine.entered.acquire(timeout=SECONDS) for engine in both)
    for engine in both:
        engine.go.set()
    assert [each.result(SECONDS)[0, 0] for each in waiting] == [2, 4, 6]
    assert [size for engine in both for size in engine.batches] == [1, 1, 1]
    batcher.close()
