"""From a canonical ONNX file to its engines, for Python as for ``repq-build-engine``, which parses options for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from repq_deploy.engines.backends import backend_named, choose_backend
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.bench.against_float import check_speed
from repq_deploy.engines.build import (
    BuildPlan,
    BuiltEngine,
    Progress,
    build_planned,
    make_reference,
    output_stem,
    plan_build,
)
from repq_deploy.engines.compute import COMPUTES, lowering_for
from repq_deploy.engines.reference import Reference
from repq_deploy.engines.source import read_source

__all__ = ["BuildSettings", "PlannedEngine", "build_and_time", "build_engine", "plan_engines"]


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What is asked of an engine.

    Attributes:
        precision: the float type around the quantized operations, "fp16" or "fp32"; None: the backend's own.
        compute: the arithmetic of quantized products, one of ``compute.COMPUTES``.
        allow_rounding: let compute "fp8" round the codes that FP8 cannot hold.
        cpu: which CPUs the engine is for, one of ``cpu.CPU_OPTIONS``; None lets the model decide.
        targets: for TensorRT: the GPU generations to build for, such as ``sm89``.
        profile: the smallest, best and largest batch size.
        reference_data: the images to validate with: a folder, or an ``.npz`` file of preprocessed ones; None: noise.
        seed: of that noise, or of the choice of images.
        force: replace existing files that repq-deploy did not write.
        check_speed: after the build also time the engine against the float model on this machine, for a few seconds.
            Off here, unlike on the command line: who builds from Python often builds many, or beside other work, which
            a measurement neither stands nor informs.
    """

    precision: str | None = None
    compute: str = COMPUTES[0]
    allow_rounding: bool = False
    cpu: str | None = None
    targets: tuple[str, ...] = ()
    profile: Profile = field(default_factory=Profile)
    reference_data: str | None = None
    seed: int = 0
    force: bool = False
    check_speed: bool = False


@dataclass(frozen=True)
class PlannedEngine:
    """One engine to build, and why for this backend."""

    plan: BuildPlan
    why: str


def plan_engines(
    file: Path, backends: Sequence[str] = (), output: Path | None = None, settings: BuildSettings | None = None
) -> list[PlannedEngine]:
    """Check all that can be checked before building; write nothing.

    Args:
        file: a canonical ONNX file.
        backends: names of backends; none of them: the best one whose engine this machine can run.
        output: a folder, or the engine's path without ``.<backend>.engine``; None: beside ``file``.

    Raises:
        BadInput: a file that cannot be read, settings that a backend does not have, or outputs that cannot be written.
        BackendMissing: a backend's package, or the device that it needs, is missing.
    """
    asked = settings or BuildSettings()
    chosen = [(backend_named(name), "asked for") for name in dict.fromkeys(backends)] or [choose_backend()]
    source = read_source(file)
    planned = []
    for backend, why in chosen:
        lowering = lowering_for(
            backend,
            precision=asked.precision,
            compute=asked.compute,
            allow_rounding=asked.allow_rounding,
            cpu=asked.cpu,
        )
        plan = plan_build(
            source,
            backend,
            lowering,
            stem=output_stem(file, output),
            targets=asked.targets,
            profile=asked.profile,
            force=asked.force,
            reference_data=asked.reference_data,
        )
        planned.append(PlannedEngine(plan, why))
    return planned


def build_engine(
    file: Path | str,
    backend: str | None = None,
    *,
    output: Path | str | None = None,
    settings: BuildSettings | None = None,
    progress: Progress = lambda fraction, phase: None,
) -> BuiltEngine:
    """Build one engine from a canonical ONNX file, prove it, and write it with its manifest and reference.

    Args:
        file: what ``export_onnx`` or ``repq-export`` wrote.
        backend: "onnxruntime", "openvino", "tensorrt-rtx" or another that is installed; None: the best one here.
        output: a folder, or the engine's path without ``.<backend>.engine``; None: beside ``file``.
        settings: default: ``BuildSettings()``.
        progress: called with the fraction that is done, and with what is being done.

    Returns:
        The engine's path and its manifest, whose ``validation.verdict`` is PASSED, FAILED or BUILT, NOT RUN; with
        ``check_speed`` also ``speed``. No time goes into a file: two builds write the same bytes.

    Raises:
        BadInput, BackendMissing: as ``plan_engines``.
        BuildFailed: the builder refuses the graph, or a proof fails; then nothing is written.
    """
    asked = settings or BuildSettings()
    names = () if backend is None else (backend,)
    (planned,) = plan_engines(Path(file), names, None if output is None else Path(output), asked)
    reference = make_reference(planned.plan.source, data=asked.reference_data, seed=asked.seed)
    return build_and_time(planned.plan, reference, asked, progress=progress)


def build_and_time(
    plan: BuildPlan,
    reference: Reference,
    settings: BuildSettings,
    *,
    progress: Progress = lambda fraction, phase: None,
) -> BuiltEngine:
    """``build_planned``, and where ``settings`` ask for it the check of speed, once the engine's files are in place."""
    built = build_planned(plan, reference, progress=progress)
    if not settings.check_speed:
        return built
    progress(1.0, "timing against the float model")
    return replace(built, speed=check_speed(built.engine, built.manifest, plan.source))
