"""Independent work spread over processes of this machine or over a Ray cluster, with the same results in either case.

Each worker makes its work function once, from a payload of bytes. Every worker, even a single one in this process,
computes with one thread, because the order of a floating-point sum depends on the number of threads.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from repq_deploy.errors import BadInput
from repq_deploy.search.pool_worker import do, open_worker
from repq_deploy.system.clusters import connected, isolated_children
from repq_deploy.system.stopping import cleared

__all__ = ["one_thread", "spread"]

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Of processes, which Windows waits for all at once; results do not depend on their number.
_MOST_ON_WINDOWS = 61

#: A function of a module that makes, from the payload, the function that does one item.
Factory = Callable[[bytes], Callable[[Item], Result]]


def spread(
    factory: Factory[Item, Result], payload: Path, items: Sequence[Item], *, workers: int = 1, ray: str | None = None
) -> Iterator[tuple[Item, Result]]:
    """Do ``items`` and yield (item, result) as they finish, in any order.

    Args:
        workers: the number of processes, at least 1. With ``ray``, 0 means as many as the cluster has cores.
        ray: address of a Ray cluster, ``auto`` for the one that runs here, ``local`` to start one on this machine. Its
            nodes need this package installed; the payload travels through Ray.

    Raises:
        BadInput: no workers, or no cluster at that address.
        BackendMissing: ``ray`` is asked for and not installed.
    """
    if ray is not None:
        yield from _over_ray(factory, payload, items, workers, ray)
        return
    if workers < 1:
        raise BadInput(f"--workers {workers}: expected at least 1")
    if workers == 1 or len(items) < 2:
        with one_thread():
            work = factory(payload.read_bytes())
            for item in items:
                yield item, work(item)
        return
    most = _MOST_ON_WINDOWS if sys.platform == "win32" else workers
    yield from _over_processes(factory, payload, items, min(workers, len(items), most))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _over_processes(
    factory: Factory[Item, Result], payload: Path, items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    named = (factory.__module__, factory.__qualname__, payload)
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's locked thread pool
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=open_worker, initargs=named)
    processes: list[Any] = []

    def end() -> None:
        for process in processes:
            process.kill()  # what it was doing is not wanted any more

    try:
        with cleared(end):
            try:
                with isolated_children():
                    pending = {pool.submit(do, item): item for item in items}
                    processes += multiprocessing.active_children()
                for done in as_completed(pending):
                    yield pending[done], done.result()
            except BrokenProcessPool as error:
                raise BadInput(f"--workers {workers}: {_what_ended(processes)}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _what_ended(processes: Sequence[Any]) -> str:
    """Why workers are gone, as far as their exit codes tell."""
    for process in processes:
        process.join(1)
    # The pool ends those that are left with SIGTERM.
    codes = [process.exitcode for process in processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
    if hasattr(signal, "SIGKILL") and -signal.SIGKILL in codes:
        return "a worker process was killed (SIGKILL), most likely for want of memory; use fewer"
    said = f"with exit code {codes[0]}" if codes else "unexpectedly"
    return f"a worker process ended {said}; --workers 1 shows its error"


class _Worker:
    """A Ray actor."""

    def __init__(self, factory: Factory[Any, Any], payload: bytes) -> None:
        torch.set_num_threads(1)
        self._work = factory(payload)

    def do(self, item: Any) -> tuple[Any, Any]:
        return item, self._work(item)


def _over_ray(
    factory: Factory[Item, Result], payload: Path, items: Sequence[Item], workers: int, address: str
) -> Iterator[tuple[Item, Result]]:
    with connected(address):
        import ray  # noqa: PLC0415 - an extra
        from ray.util import ActorPool  # noqa: PLC0415

        try:
            cores = int(ray.cluster_resources().get("CPU", 1))
            count = max(1, min(workers or cores, cores, len(items)))
            # A node that is lost takes its actors along; Ray starts them elsewhere and repeats what they were doing.
            actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=3)(_Worker)
            stored = ray.put(payload.read_bytes())
            pool = ActorPool([actor.remote(factory, stored) for _ in range(count)])
            yield from pool.map_unordered(lambda worker, item: worker.do.remote(item), list(items))
        except ray.exceptions.RayError as error:
            said = f"--ray {address}: a worker was lost and could not be replaced ({str(error)[:120]})"
            raise BadInput(said) from error
