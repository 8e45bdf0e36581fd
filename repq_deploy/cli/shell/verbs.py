"""The verbs of ``repq``. A new one is a row here, and where it has a console script of its own a line of pyproject."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VERBS", "Verb"]


@dataclass(frozen=True)
class Verb:
    """``repq NAME``: ``main`` of a module, which is imported when it is run; and what it does."""

    name: str
    module: str
    summary: str


VERBS = (
    Verb("export", "repq_deploy.cli.export", "calibrate a model and write it, quantized, as ONNX"),
    Verb(
        "build-engine",
        "repq_deploy.cli.build_engine",
        "build an engine from that file, and validate it",
    ),
    Verb("eval", "repq_deploy.cli.evaluate", "measure the accuracy of a model, an ONNX file or an engine"),
    Verb("bench", "repq_deploy.cli.bench", "measure latency, memory and size of models side by side"),
    Verb("serve", "repq_deploy.cli.serving.serve", "serve engines over the Open Inference Protocol, REST and gRPC"),
    Verb("search", "repq_deploy.cli.search", "choose the bits of each layer under a budget"),
    Verb("inspect", "repq_deploy.cli.inspect", "show what an ONNX file or an engine holds"),
    Verb("report", "repq_deploy.cli.report", "write one HTML page about files, engines and measurements"),
    Verb("versions", "repq_deploy.cli.shell.versions", "show what is installed, for a report of a bug"),
)
