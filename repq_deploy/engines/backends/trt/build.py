"""Building an engine with TensorRT or TensorRT-RTX, whose Python interfaces are the same where we use them.

Runs in the child process of ``build_worker``: the builder can crash on a graph it should refuse. ``trt`` is the module.
The network is strongly typed, so precisions are the graph's own; TF32 is off because a float32 graph asks for float32.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.source import INPUT
from repq_deploy.errors import BuildFailed

__all__ = ["build_serialized", "make_logger"]

_SHOWN_ERRORS = 3


def build_serialized(
    trt: Any,
    model: bytes,
    *,
    profile: Profile,
    targets: Sequence[str],
    progress: Callable[[float, str], None],
) -> bytes:
    """The serialized engine of an ONNX model for ``targets`` (``sm89``), the builder's default where none is named.

    Raises:
        BuildFailed: the parser or the builder refuses the graph.
    """
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise BuildFailed(_parser_errors(parser))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = monitor = _monitor(trt, progress)
    shapes = builder.create_optimization_profile()
    _, *image_shape = network.get_input(0).shape
    shapes.set_shape(INPUT, *((batch, *image_shape) for batch in (profile.min, profile.opt, profile.max)))
    config.add_optimization_profile(shapes)
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
    engine = builder.build_serialized_network(network, config)
    del monitor  # the builder keeps no reference to it, so it had to live until here
    if engine is None:
        raise BuildFailed("; ".join(logger.errors[-_SHOWN_ERRORS:]) or "the builder gave no engine and no reason")
    return bytes(engine)


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the errors, each as one line, in ``errors``."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    shown = [
        f"node {error.node_name() or error.node()} ({error.node_operator()}): {' '.join(error.desc().split())}"
        for error in errors[:_SHOWN_ERRORS]
    ]
    more = len(errors) - len(shown)
    return "; ".join(shown + [f"and {more} more"] * (more > 0))


def _monitor(trt: Any, progress: Callable[[float, str], None]) -> Any:
    """Report nested phases as one fraction: a phase's steps divide the step of its parent that it runs in."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.phases: dict[str, list[int]] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self.lock:
                self.phases[phase] = [0, max(steps, 1)]
            self.report()

        def step_complete(self, phase: str, step: int) -> bool:
            with self.lock:
                self.phases[phase][0] = step + 1
            self.report()
            return True

        def phase_finish(self, phase: str) -> None:
            with self.lock:
                self.phases.pop(phase, None)

        def report(self) -> None:
            with self.lock:
                phases = list(self.phases.items())
            fraction, width = 0.0, 1.0
            for _, (done, steps) in phases:
                fraction += width * done / steps
                width /= steps
            progress(min(fraction, 1.0), phases[-1][0] if phases else "")

    return Monitor()
