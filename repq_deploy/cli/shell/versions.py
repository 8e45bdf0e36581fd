"""``repq versions``: what is installed and on which machine, as a report of a bug needs it. Imports none of it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from repq_deploy import __version__
from repq_deploy.cli.common import Json, show
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say

__all__ = ["PACKAGES", "main"]

#: What computes, by distribution. A runtime may come under several names.
PACKAGES = (
    *("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon"),
    *("torch", "timm", "onnxscript", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "cuda-bindings", "ray"),
)


def versions(as_json: Json = False) -> None:
    """Show the versions of repq-deploy and of what it computes with, and the machine, for a report of a bug."""
    from repq_deploy.engines.backends.trt.gpu import gpu_target
    from repq_deploy.engines.bench.measure import describe_machine
    from repq_deploy.system.cpus import usable_cpus

    found: dict[str, Any] = {
        "repq-deploy": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": describe_machine(usable_cpus()),
        "gpu": gpu_target(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    show(found, as_json=as_json, text=lambda: _print(found))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _print(found: dict[str, Any]) -> None:
    lines = {**found, **found["packages"], "gpu": found["gpu"] or "none"}
    del lines["packages"]
    say(*(f"{name:24} {value or 'not installed'}" for name, value in lines.items()))


main = entry_point(versions, "repq versions")
