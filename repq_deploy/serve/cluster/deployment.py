"""Replicas of the service as a deployment of Ray Serve: how many, what each may hold, and until when they are there.

A request goes to a proxy of Ray Serve, which hands it to a replica that has room. What finds none waits in the proxy;
beyond ``queue`` requests it answers 503 at once. So what waits is lost with no replica, and each replica has as many
requests as it needs to compute one batch and gather the next.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.manifest import Manifest
from repq_deploy.errors import BadInput, BuildFailed, one_line
from repq_deploy.serve.cluster.replica import Replica, packed
from repq_deploy.serve.model import check_files
from repq_deploy.serve.settings import ServeSettings
from repq_deploy.system.clusters import connected

__all__ = ["APPLICATION", "ClusterSettings", "deploy", "options_of", "serve_on_cluster"]

#: What the service is called in Ray Serve.
APPLICATION = "repq-serve"


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Where the service is deployed, and how often.

    Attributes:
        address: of the cluster: HOST:PORT, ``auto`` or ``local``, as for ``system.clusters.connected``.
        least, most: replicas; as many as the load asks for where they differ.
        host, port: where Ray Serve listens, on every node that has a replica; where Serve runs already, it listens as
            it was told to.
    """

    address: str = "auto"
    least: int = 1
    most: int = 1
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= 1000:
            raise BadInput(f"--replicas {self.least}-{self.most}: expected a number such as 2, or a range such as 1-4")
        if self.port == 0:
            raise BadInput("--port 0: nodes of a cluster all listen on one port; give its number")

    @classmethod
    def replicas(cls, text: str) -> tuple[int, int]:
        """The least and the most of ``2`` or ``1-4``.

        Raises:
            BadInput: another form.
        """
        least, dash, most = text.partition("-")
        if not least.isdecimal() or (dash and not most.isdecimal()):
            raise BadInput(f"--replicas {text[:40]!r}: expected a number such as 2, or a range such as 1-4")
        return int(least), int(most if dash else least)


def options_of(settings: ServeSettings, cluster: ClusterSettings, manifests: list[Manifest]) -> dict[str, Any]:
    """The options of the deployment, in Ray Serve's words."""
    batch = settings.batch or max(one.profile.opt for one in manifests)
    computed = batch * settings.workers  # at a time, by one replica
    on_cpus = all(backend_named(one.backend).on_cpus for one in manifests)
    options: dict[str, Any] = {
        "max_ongoing_requests": 2 * computed,
        "max_queued_requests": settings.queue,
        "ray_actor_options": {"num_cpus": settings.workers * settings.threads, "num_gpus": 0 if on_cpus else 1},
        "graceful_shutdown_timeout_s": 30,
        "health_check_period_s": 5,
    }
    if cluster.least == cluster.most:
        return {**options, "num_replicas": cluster.most}
    scaling = {
        "min_replicas": cluster.least,
        "max_replicas": cluster.most,
        "target_ongoing_requests": computed,
    }
    return {**options, "autoscaling_config": scaling}


def deploy(settings: ServeSettings, cluster: ClusterSettings) -> None:
    """Deploy the service, or put it in the place of the one that is there, and wait until it is ready.

    Called while connected to the cluster; it outlives the connection. Where ``threads`` is 0 an instance has one.

    Raises:
        BadInput: an engine whose files are not there.
        BuildFailed: replicas that cannot be started.
    """
    from ray import serve  # noqa: PLC0415 - an extra

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    manifests = [check_files(engine) for engine in settings.engines.values()]
    settings = replace(settings, threads=settings.threads or 1)
    options = options_of(settings, cluster, manifests)
    serve.start(proxy_location="EveryNode", http_options={"host": cluster.host, "port": cluster.port})
    made: Any = serve.deployment(serve.ingress()(Replica))
    try:
        serve.run(
            made.options(name=APPLICATION, **options).bind(settings, packed(settings)),
            name=APPLICATION,
            route_prefix="/",
        )
    except RuntimeError as error:
        raise BuildFailed(f"--ray {cluster.address}: no replica could be started: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """What kept a replica from starting: the last line of its traceback, which Ray Serve keeps, or Serve's words."""
    from ray import serve  # noqa: PLC0415 - an extra

    application = serve.status().applications.get(APPLICATION)
    kept = application.deployments[APPLICATION].message if application and application.deployments else ""
    last = (kept.strip().splitlines() or [one_line(error)])[-1]
    return last.removeprefix("repq_deploy.errors.").partition(": ")[2] if "repq_deploy.errors." in last else last[:600]


def serve_on_cluster(settings: ServeSettings, cluster: ClusterSettings, ready: Callable[[], None]) -> None:
    """Deploy, call ``ready``, and go on until SIGTERM or Ctrl-C; then replicas answer what they took, and end.

    Raises:
        BadInput, BackendMissing, BuildFailed: no cluster, or as ``deploy``.
    """
    with connected(cluster.address):
        from ray import serve  # noqa: PLC0415 - an extra

        try:
            deploy(settings, cluster)
            with _stopped() as stopped:
                ready()
                while not stopped.wait(0.5):
                    pass
        finally:
            serve.delete(APPLICATION)


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """What SIGTERM and Ctrl-C set within the block; elsewhere than in the main thread it is never set."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
