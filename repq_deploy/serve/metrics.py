"""What is measured of a server, as Prometheus reads it from ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from repq_deploy.serve.model import Observe, ServedModel

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Upper bounds of times, from 0.25 ms to 16 s, each twice the one before; and of batches.
_SECONDS = tuple(0.00025 * 2**power for power in range(17))
_IMAGES = tuple(2**power for power in range(14))


class Metrics:
    """Counters of one server; several in one process do not share any."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "repq_requests",
            "Requests by how they ended: ok, or why not.",
            ("model", "protocol", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "repq_request_seconds",
            "From the whole request to its answer, of those that were answered.",
            ("model", "protocol"),
            registry=registry,
            buckets=_SECONDS,
        )
        self._under_way = Gauge("repq_requests_under_way", "Requests that have no answer yet.", registry=registry)
        self._waiting = Gauge("repq_images_waiting", "Images in the queue.", ("model",), registry=registry)
        self._batches = Histogram(
            "repq_batch_images", "Images that were computed together.", ("model",), registry=registry, buckets=_IMAGES
        )
        self._engine = Histogram(
            "repq_engine_seconds",
            "How long the engine took for a batch.",
            ("model",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._info = Gauge(
            "repq_model",
            "1 for the version that is served.",
            ("model", "version", "backend", "bits"),
            registry=registry,
        )

    def begin(self) -> None:
        """A request is under way."""
        self._under_way.inc()

    def end(self, model: str, protocol: str, outcome: str, seconds: float | None = None) -> None:
        """It has ended after so many ``seconds``; ``model`` is empty where there is none of its name."""
        self._under_way.dec()
        self._requests.labels(model, protocol, outcome).inc()
        if seconds is not None:
            self._seconds.labels(model, protocol).observe(seconds)

    def of_batches(self, model: str) -> Observe:
        """What the batches of ``model`` are told to; from any thread."""
        images, seconds = self._batches.labels(model), self._engine.labels(model)

        def observe(count: int, elapsed: float) -> None:
            images.observe(count)
            seconds.observe(elapsed)

        return observe

    def serves(self, model: ServedModel, before: ServedModel | None) -> None:
        """``model`` takes the place of ``before``."""
        if before is not None:
            self._info.remove(*_labels(before))
        self._info.labels(*_labels(model)).set(1)
        self._waiting.labels(model.name).set_function(lambda: model.batcher.waiting)

    def text(self) -> bytes:
        return generate_latest(self._registry)


def _labels(model: ServedModel) -> tuple[str, str, str, str]:
    return model.name, model.version, model.manifest.backend, model.manifest.bits
