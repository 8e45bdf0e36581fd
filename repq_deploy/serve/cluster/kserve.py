"""A KServe ``InferenceService`` that runs ``repq-serve`` on a cluster: the same settings as one YAML document."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import yaml

from repq_deploy.serve.settings import Listening, ServeSettings

__all__ = ["inference_service"]

#: Where KServe's storage initializer puts what ``storageUri`` names.
_MODELS = PurePosixPath("/mnt/models")
_HTTP, _GRPC = 8080, 8081


def inference_service(settings: ServeSettings, listening: Listening, *, name: str, image: str, storage: str) -> str:
    """The document.

    Args:
        name: of the service, as Kubernetes allows it.
        image: the container image, in which ``repq-serve`` is installed.
        storage: ``storageUri``, as in ``s3://bucket/folder``: there lie the engines, each with its two files.
    """
    arguments = [f"{each}={_MODELS / path.name}" for each, path in settings.engines.items()]
    arguments += ["--host", "0.0.0.0", "--port", str(_HTTP), "--grpc-port", str(_GRPC)]  # noqa: S104 - of a container
    for option, value, default in _options(settings, listening):
        if value != default:
            arguments += [option, f"{value:g}"]
    container: dict[str, Any] = {
        "name": "kserve-container",
        "image": image,
        "command": ["repq-serve"],
        "args": arguments,
        "env": [{"name": "STORAGE_URI", "value": storage}],
        "ports": [{"name": "http1", "containerPort": _HTTP, "protocol": "TCP"}],
        "readinessProbe": _probe("/v2/health/ready", 2),
        "livenessProbe": _probe("/v2/health/live", 10),
    }
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"terminationGracePeriodSeconds": 60, "containers": [container]}},
    }
    return yaml.safe_dump(service, sort_keys=False)


def _options(settings: ServeSettings, listening: Listening) -> list[tuple[str, float, float]]:
    """The options that are not at their defaults: name, value, default."""
    plain, here = ServeSettings(engines={}), Listening()
    return [
        ("--workers", settings.workers, plain.workers),
        ("--threads", settings.threads, plain.threads),
        ("--batch", settings.batch, plain.batch),
        ("--queue", settings.queue, plain.queue),
        ("--delay", settings.delay_ms, plain.delay_ms),
        ("--max-body", settings.max_body_mb, plain.max_body_mb),
        ("--connections", listening.connections, here.connections),
        ("--timeout", listening.patience_s, here.patience_s),
        ("--grace", listening.grace_s, here.grace_s),
    ]


def _probe(path: str, period_s: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": _HTTP}, "periodSeconds": period_s}
