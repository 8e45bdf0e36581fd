"""What is served and how, in one value: the same for one machine and for a cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.batching import THREADS
from repq_deploy.engines.manifest import Manifest
from repq_deploy.errors import BadInput
from repq_deploy.system.cpus import usable_cpus

__all__ = ["Listening", "ServeSettings", "engines_by_name", "model_name", "session_options"]

#: What a model may be called: it stands in URLs and in the labels of metrics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What is served, and the limits that keep it alive.

    Attributes:
        engines: the engine files by the names that clients call them by.
        workers: instances of each engine, each with a thread of its own that feeds it; they share the queue.
        threads: of one instance on CPUs; 0 shares the CPUs that the process may use among the workers.
        batch: the most images of different requests that are computed together; 0 is the engine's best batch.
        queue: how many images may wait for each model; a request that finds no room is refused at once.
        delay_ms: how long several requests that do not fill a batch wait for more. One that is alone never waits.
        max_body_mb: the largest body of a request, in 10^6 bytes.
    """

    engines: dict[str, Path]
    workers: int = 1
    threads: int = 0
    batch: int = 0
    queue: int = 128
    delay_ms: float = 0.0
    max_body_mb: float = 64.0

    @property
    def max_body(self) -> int:
        """The largest body in bytes."""
        return int(self.max_body_mb * 1e6)


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where one server listens, and what it grants clients that are slow or many.

    Attributes:
        port, grpc_port: 0 takes any that is free; ``grpc_port`` None serves no gRPC.
        connections: the most that are open at a time.
        patience_s: within which a request's head, and then its body, must have arrived.
        idle_s: after which a connection that asks nothing more is closed.
        grace_s: how long after SIGTERM it goes on, no longer ready, until it takes no more connections.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    connections: int = 256
    patience_s: float = 20.0
    idle_s: float = 60.0
    grace_s: float = 0.5


def model_name(engine: Path) -> str:
    """``deit_s`` of ``deit_s.onnxruntime.engine``: what a model is called where nothing else is asked for."""
    return engine.name.removesuffix(engine.suffix).rpartition(".")[0] or engine.stem


def engines_by_name(engines: Sequence[str]) -> dict[str, Path]:
    """The engines given as ``FILE`` or ``NAME=FILE``, by name.

    Raises:
        BadInput: a name that cannot stand in an URL, or one that two engines have.
    """
    found: dict[str, Path] = {}
    for text in engines:
        given, equals, file = text.partition("=")
        path = Path(file if equals else text)
        name = given if equals else model_name(path)
        if _NAME.fullmatch(name) is None:
            raise BadInput(f"model {name[:60]!r}: a name has letters, digits, '.', '_' and '-'; give NAME={path.name}")
        if name in found:
            raise BadInput(f"model {name}: two engines have this name, {found[name]} and {path}; give one as NAME=FILE")
        found[name] = path
    return found


def session_options(manifest: Manifest, settings: ServeSettings) -> dict[str, str]:
    """The options that one worker's instance is opened with, beside those of the manifest."""
    if not backend_named(manifest.backend).on_cpus:
        return {}
    if settings.threads:
        return {THREADS: str(settings.threads)}
    # Alone, an instance leaves the number to its runtime, which knows about cores and hyperthreads.
    return {} if settings.workers == 1 else {THREADS: str(max(1, len(usable_cpus()) // settings.workers))}
