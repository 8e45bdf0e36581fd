"""Ray clusters: refusing one that is not there, and starting one here that answers nobody else."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from repq_deploy.errors import BackendMissing, BadInput, first_line

__all__ = ["ask_for_tokens", "check_cluster", "connected", "isolated_children"]


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


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to the cluster at ``address``: HOST:PORT, ``auto`` for one that runs here, ``local`` to start one
    on this machine for the time of the block.

    Raises:
        BadInput, BackendMissing: as ``check_cluster``; or no cluster answers.
    """
    check_cluster(address)
    if address == "local":
        ask_for_tokens()
    import ray  # noqa: PLC0415 - an extra

    try:
        with isolated_children():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"--ray {address}: no cluster there ({first_line(error, 120)}); start one with: ray start --head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def isolated_children() -> Iterator[None]:
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
