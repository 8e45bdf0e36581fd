"""From a canonical ONNX file to an engine, its manifest and its reference I/O; and validating one again later."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repq_deploy import __version__
from repq_deploy.engines.backends import Backend
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.compute import COMPUTES, lowering_for
from repq_deploy.engines.cpu import CpuForm, can_run, choose_form, kind_here
from repq_deploy.engines.judge import allowed_for, judge
from repq_deploy.engines.manifest import FileRecord, Manifest, PassCount, manifest_path
from repq_deploy.engines.proofs import Proofs, prove
from repq_deploy.engines.prove_engine import Validation, not_run
from repq_deploy.engines.reference import Reference, make_reference, read_reference
from repq_deploy.engines.runner import load_engine, open_runner
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.export.names import PREFIX
from repq_deploy.system.files import atomic_output, check_writable, write_atomically
from repq_deploy.system.outputs import check_outputs

if TYPE_CHECKING:
    import onnx

    from repq_deploy.engines.bench.against_float import Speed
    from repq_deploy.export.lowering import Lowering

__all__ = [
    "BuildPlan",
    "BuiltEngine",
    "Progress",
    "build_planned",
    "cpu_form",
    "make_reference",
    "output_stem",
    "plan_build",
    "validate_engine",
]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class BuildPlan:
    """One engine to build, checked as far as it can be without building."""

    source: SourceModel
    backend: Backend
    version: str
    lowering: Lowering
    targets: tuple[str, ...]
    target: str | None
    profile: Profile
    engine: Path
    reference: Path


@dataclass(frozen=True)
class BuiltEngine:
    """An engine file, its manifest, the seconds that the build took without validation, ``form``: the CPUs that it is
    for and why, or None for GPUs; and ``speed``: how it compares with the float model here, None if not asked for."""

    engine: Path
    manifest: Manifest
    seconds: float
    form: CpuForm | None
    speed: Speed | None = None


def output_stem(source: Path, output: Path | None) -> Path:
    """The path without suffixes: ``output`` itself, in ``output`` if that is a folder, or beside ``source``."""
    if output is None:
        return source.with_suffix("")
    if output.is_dir():
        return output / source.stem
    if output.suffix in (".engine", ".json", ".npz", ".onnx"):
        raise BadInput(f"output {output}: give a name without suffix; the backend and .engine are appended")
    return output


def plan_build(
    source: SourceModel,
    backend: Backend,
    lowering: Lowering | None = None,
    *,
    stem: Path,
    targets: Sequence[str] = (),
    profile: Profile | None = None,
    reference_data: str | None = None,
    force: bool = False,
) -> BuildPlan:
    """Check that ``backend`` is installed and can do what is asked, and that the files can be written; write nothing.

    ``lowering`` is one of ``lowering_for``; None means the backend's default. ``reference_data`` is what
    ``make_reference`` will read, so it must not be an output. ``force`` allows outputs to replace files of other tools.
    """
    source.check_one_file()
    lowering = lowering or lowering_for(backend)
    version = backend.version()
    target = backend.target(targets, lowering)
    parts = [lowering.compute] * (lowering.compute != COMPUTES[0])
    parts += [part for part in (target, lowering.cpu) if part is not None]
    suffix = "".join(f"-{part}" for part in parts).replace("+", "-")
    engine = stem.with_name(f"{stem.name}.{backend.name}{suffix}.engine")
    plan = BuildPlan(
        source=source,
        backend=backend,
        version=version,
        lowering=lowering,
        targets=tuple(targets),
        target=target,
        profile=profile or Profile(),
        engine=engine,
        reference=stem.with_name(f"{stem.name}.reference.npz"),
    )
    check_outputs(
        [("engine", plan.engine), ("manifest", manifest_path(plan.engine)), ("reference", plan.reference)],
        [("model", source.path), ("--reference-data", reference_data)],
        force=force,
    )
    return plan


def build_planned(
    plan: BuildPlan, reference: Reference, *, progress: Progress = lambda fraction, phase: None
) -> BuiltEngine:
    """Lower, build and validate. The engine, its manifest and the reference appear together, or none of them does.

    An engine that fails validation is kept, with a manifest that says so.

    Raises:
        BuildFailed: the builder refused the graph or crashed.
    """
    with contextlib.ExitStack() as outputs:
        # Left in reverse order: the manifest, which vouches for the other two, comes last.
        manifest_file = outputs.enter_context(atomic_output(manifest_path(plan.engine)))
        reference_file = outputs.enter_context(atomic_output(plan.reference))
        engine_file = outputs.enter_context(atomic_output(plan.engine))
        started = time.perf_counter()
        form = cpu_form(plan)
        lowering = dataclasses.replace(plan.lowering, sums_in_16_bits=form is not None and form.sums_in_16_bits)
        lowered, passes = _lower(plan, lowering, form)
        single = _lower(plan, dataclasses.replace(lowering, half=False), form)[0] if lowering.half else lowered
        runs_here = form is not None and can_run(form.kind, saturates=plan.backend.saturates())
        proofs = prove(
            plan.source, plan.backend, single, reference, allow_rounding=lowering.allow_rounding, runs_here=runs_here
        )
        plan.backend.build(lowered, engine_file, profile=plan.profile, targets=plan.targets, progress=progress)
        seconds = time.perf_counter() - started
        engine = engine_file.read_bytes()
        progress(1.0, "validating")
        manifest = _manifest(plan, reference, engine, passes, proofs, form, plan.backend.oldest_runtime(lowered))
        manifest = dataclasses.replace(manifest, validation=_validate(engine, manifest, reference))
        reference_file.write_bytes(reference.to_bytes())
        manifest_file.write_bytes(manifest.to_json().encode())
    return BuiltEngine(plan.engine, manifest, seconds, form)


def validate_engine(path: Path) -> Manifest:
    """Run an engine on its reference I/O and put the verdict into its manifest, which is also returned.

    Needs the engine, its ``.json`` and its ``.reference.npz`` in one folder.

    Raises:
        BadInput: one of the three is missing, altered, or belongs to another model.
        BackendMissing: the engine's runtime or GPU is not here; the manifest stays as it is.
    """
    check_writable(manifest_path(path))
    runner, manifest = open_runner(path)
    reference_path = path.with_name(manifest.reference)
    reference = read_reference(reference_path)
    if reference.source_sha256 != manifest.source.sha256:
        raise BadInput(
            f"reference {reference_path}: belongs to another model than engine {path.name}; "
            f"rebuild with: repq-build-engine {manifest.source.name} --backend {manifest.backend}"
        )
    manifest = dataclasses.replace(
        manifest, reference_inputs=reference.inputs, validation=judge(runner, manifest, reference)
    )
    write_atomically(manifest_path(path), manifest.to_json().encode())
    return manifest


def cpu_form(plan: BuildPlan) -> CpuForm | None:
    """The form that the model is lowered to, with the CPUs that it is for; None for a GPU."""
    if not plan.backend.on_cpus:
        return None
    from repq_deploy.export.lowering import lower, saturation_of  # noqa: PLC0415

    found = saturation_of(lower(plan.source.model, plan.backend.passes(plan.lowering))[0])
    here = kind_here(saturates=plan.backend.saturates())
    return choose_form(plan.lowering.cpu, here=here, products=found.products, weight_share=found.weight_share)


def _lower(plan: BuildPlan, lowering: Lowering, form: CpuForm | None) -> tuple[onnx.ModelProto, tuple[PassCount, ...]]:
    from repq_deploy.export.lowering import lower  # noqa: PLC0415 (only a build needs the exporter's dependencies)

    lowered, reports = lower(plan.source.model, plan.backend.passes(lowering))
    if form is not None:
        needs = plan.backend.session_options()
        for key, value in {"cpu": form.kind, "backend": plan.backend.name, **needs}.items():
            lowered.metadata_props.add(key=f"{PREFIX}engine.{key.lower()}", value=value)
    return lowered, tuple(PassCount(report.name, report.changed) for report in reports)


def _manifest(
    plan: BuildPlan,
    reference: Reference,
    engine: bytes,
    passes: tuple[PassCount, ...],
    proofs: Proofs,
    form: CpuForm | None,
    oldest_runtime: str | None,
) -> Manifest:
    return Manifest(
        backend=plan.backend.name,
        target=plan.target,
        precision=plan.lowering.precision,
        engine=FileRecord(plan.engine.name, hashlib.sha256(engine).hexdigest()),
        source=FileRecord(plan.source.path.name, plan.source.sha256),
        reference=plan.reference.name,
        reference_inputs=reference.inputs,
        image_shape=plan.source.image_shape,
        outputs=plan.source.outputs,
        profile=plan.profile,
        versions={"repq-deploy": __version__, plan.backend.name: plan.version},
        session=plan.backend.session_options(),
        passes=passes,
        lowering_sqnr_db=proofs.lowering_sqnr_db,
        rounded_sqnr_db=proofs.rounded_sqnr_db,
        kernel_codes=proofs.kernel_codes,
        cpu=None if form is None else form.kind,
        oldest_runtime=oldest_runtime,
        metadata=plan.source.metadata,
        compute=plan.lowering.compute,
        allow_rounding=plan.lowering.allow_rounding,
        validation=not_run(
            "not validated yet",
            allowed_for(plan.source.bits, plan.lowering.precision, reference, proofs.rounded_sqnr_db),
        ),
    )


def _validate(engine: bytes, manifest: Manifest, reference: Reference) -> Validation:
    try:
        runner = load_engine(engine, manifest)
    except BackendMissing as error:
        return not_run(str(error), manifest.validation.tolerance)
    return judge(runner, manifest, reference)
