"""Independent work spread over processes of this machine or over a Ray cluster, with the same results in either case.

Each worker makes its work function once, from a payload of bytes. Every worker, even a single one in this process,
computes with one thread, because the order of a floating-point sum depends on the number of threads.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from repq_deploy.errors import BackendMissing, BadInput, first_line
from repq_deploy.search.pool_worker import do, open_worker
from repq_deploy.system.stopping import cleared

__all__ = ["ask_for_tokens", "check_cluster", "one_thread", "spread"]

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
                with _isolated():
                    pending = {pool.submit(do, item): item for item in items}
                    processes += multiprocessing.active_children()
                for done in as_completed(pending):
                    yield pending[done], done.result()
            except BrokenProcessPool as error:
                raise BadInput(f"--workers {workers}: {_what_ended(processes)}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _isolated() -> Iterator[None]:
    """Keep Python processes that start within the block from importing modules of the current folder, which may hold
    one of any name."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


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


def check_cluster(address: str) -> None:
    """Refuse a cluster that cannot be reached; Ray itself tries for minutes before it gives an address up.

    Raises:
        BadInput: an address of the wrong form, or nothing listens there.
        BackendMissing: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise BackendMissing("--ray needs the package ray, which is not installed; pip install ray")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address in ("auto", "local"):
            return
        raise BadInput(f"--ray {address!r}: expected HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise BadInput(f"--ray {address}: no cluster there ({error}); start one with: ray start --head") from error


def ask_for_tokens() -> None:
    """Let a Ray cluster that is started here answer only those who know a token made for it.

    Ray listens on all interfaces, whatever its address, and runs what it is sent.

    Raises:
        BadInput: Ray was imported before, and reads this on import.
    """
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return
    if "ray" in sys.modules:
        raise BadInput("--ray local: Ray is imported already, without RAY_AUTH_MODE=token; set it, or use --ray auto")
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _over_ray(
    factory: Factory[Item, Result], payload: Path, items: Sequence[Item], workers: int, address: str
) -> Iterator[tuple[Item, Result]]:
    check_cluster(address)
    if address == "local":
        ask_for_tokens()
    import ray  # noqa: PLC0415 - an extra
    from ray.util import ActorPool  # noqa: PLC0415

    try:
        with _isolated():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"--ray {address}: no cluster there ({first_line(error, 120)}); start one with: ray start --head"
        ) from error
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = max(1, min(workers or cores, cores, len(items)))
        # A node that is lost takes its actors along; Ray starts them elsewhere and repeats what they were doing.
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=3)(_Worker)
        stored = ray.put(payload.read_bytes())
        pool = ActorPool([actor.remote(factory, stored) for _ in range(count)])
        yield from pool.map_unordered(lambda worker, item: worker.do.remote(item), list(items))
    except ray.exceptions.RayError as error:
        raise BadInput(f"--ray {address}: a worker was lost and could not be replaced ({str(error)[:120]})") from error
    finally:
        ray.shutdown()
