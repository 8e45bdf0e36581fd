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
from repq_deploy.engines.batching import Profile, Runner
from repq_deploy.engines.compute import check_compute
from repq_deploy.engines.manifest import FileRecord, Manifest, PassCount, manifest_path
from repq_deploy.engines.ort import open_reference
from repq_deploy.engines.reference import Reference, make_reference, read_reference, run_batches
from repq_deploy.engines.runner import load_engine, open_engine
from repq_deploy.engines.select import Backend
from repq_deploy.engines.source import SourceModel
from repq_deploy.engines.validate import (
    Tolerance,
    Validation,
    compare,
    not_run,
    smallest_activation_bits,
    sqnr_db,
    tolerance,
)
from repq_deploy.errors import BackendMissing, BadInput, BuildFailed
from repq_deploy.files import atomic_output, check_writable, write_atomically

if TYPE_CHECKING:
    import onnx

    from repq_deploy.export.equivalence import Stretch

__all__ = ["BuildPlan", "BuiltEngine", "build_engine", "make_reference", "output_stem", "plan_build", "validate_engine"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class BuildPlan:
    """One engine to build, checked as far as it can be without building."""

    source: SourceModel
    backend: Backend
    version: str
    precision: str
    targets: tuple[str, ...]
    target: str | None
    profile: Profile
    engine: Path
    reference: Path
    compute: str = "int8"
    allow_rounding: bool = False


@dataclass(frozen=True)
class BuiltEngine:
    """An engine file, its manifest, and the seconds the build took without validation."""

    engine: Path
    manifest: Manifest
    seconds: float


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
    *,
    stem: Path,
    precision: str | None = None,
    targets: Sequence[str] = (),
    profile: Profile | None = None,
    compute: str = "int8",
    allow_rounding: bool = False,
) -> BuildPlan:
    """Check that ``backend`` is here, can do what is asked, and that its files can be written.

    ``precision`` None is the backend's default; ``compute`` and ``allow_rounding`` are those of ``lower``. Nothing is
    written.
    """
    version = backend.version()
    if precision is None:
        precision = backend.precisions[0]
    elif precision not in backend.precisions:
        raise BadInput(
            f"precision {precision!r}: backend {backend.name} computes in {' or '.join(backend.precisions)} around Q/DQ"
        )
    target = backend.target(targets)
    check_compute(compute, backend=backend.name, precision=precision, target=target, allow_rounding=allow_rounding)
    parts = [compute] * (compute != "int8") + [target] * (target is not None)
    suffix = "".join(f"-{part}" for part in parts).replace("+", "-")
    engine = stem.with_name(f"{stem.name}.{backend.name}{suffix}.engine")
    plan = BuildPlan(
        source=source,
        backend=backend,
        version=version,
        precision=precision,
        targets=tuple(targets),
        target=target,
        profile=profile or Profile(),
        engine=engine,
        reference=stem.with_name(f"{stem.name}.reference.npz"),
        compute=compute,
        allow_rounding=allow_rounding,
    )
    for path in (plan.engine, manifest_path(plan.engine), plan.reference):
        check_writable(path)
    return plan


def build_engine(
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
        lowered, passes = _lower(plan, half=plan.precision == "fp16")
        proofs = _prove(plan, lowered, reference)
        plan.backend.build(lowered, engine_file, profile=plan.profile, targets=plan.targets, progress=progress)
        seconds = time.perf_counter() - started
        engine = engine_file.read_bytes()
        progress(1.0, "validating")
        manifest = _manifest(plan, reference, engine, passes, proofs)
        manifest = dataclasses.replace(manifest, validation=_validate(engine, manifest, reference))
        reference_file.write_bytes(reference.to_bytes())
        manifest_file.write_text(manifest.to_json(), encoding="utf-8")
    return BuiltEngine(plan.engine, manifest, seconds)


def validate_engine(path: Path) -> Manifest:
    """Run an engine on its reference I/O and put the verdict into its manifest, which is also returned.

    Needs the engine, its ``.json`` and its ``.reference.npz`` in one folder.

    Raises:
        BadInput: one of the three is missing, altered, or belongs to another model.
        BackendMissing: the engine's runtime or GPU is not here; the manifest stays as it is.
    """
    runner, manifest = open_engine(path)
    reference_path = path.with_name(manifest.reference)
    reference = read_reference(reference_path)
    if reference.source_sha256 != manifest.source.sha256:
        raise BadInput(
            f"reference {reference_path}: belongs to another model than engine {path.name}; "
            f"rebuild with: repq-build-engine {manifest.source.name} --backend {manifest.backend}"
        )
    manifest = dataclasses.replace(
        manifest, reference_inputs=reference.inputs, validation=_judge(runner, manifest, reference)
    )
    write_atomically(manifest_path(path), manifest.to_json().encode())
    return manifest


def _lower(plan: BuildPlan, *, half: bool) -> tuple[onnx.ModelProto, tuple[PassCount, ...]]:
    from repq_deploy.export.lowering import lower  # noqa: PLC0415 (only a build needs the exporter's dependencies)

    lowered, reports = lower(
        plan.source.model,
        backend=plan.backend.name,
        half=half,
        compute=plan.compute,
        allow_rounding=plan.allow_rounding,
    )
    return lowered, tuple(PassCount(report.name, report.changed) for report in reports)


@dataclass(frozen=True)
class _Proofs:
    """The figures of the manifest of the same names; see ``Manifest``."""

    lowering_sqnr_db: float
    kernels_sqnr_db: float | None
    rounded_sqnr_db: float | None


def _prove(plan: BuildPlan, lowered: onnx.ModelProto, reference: Reference) -> _Proofs:
    """Compare the lowered graph with the canonical one: on the same runtime in the same precision, and on its own.

    Where rounding is allowed, both figures are no condition.

    Raises:
        BuildFailed: the passes changed what the graph computes; or the runtime, where it can be run here, computes
            something else. Logits alone would not tell: at few bits they drift too far.
    """
    from repq_deploy.export.equivalence import (  # noqa: PLC0415 (as in _lower)
        LEAST_SQNR_DB,
        compare_lowering,
        expect,
        least_kernels_sqnr_db,
    )

    if plan.precision == "fp16":
        lowered, _ = _lower(plan, half=False)
    expected = expect(plan.source.model, lowered, reference.images)
    stretches = compare_lowering(expected, lowered)
    lowering_db = min(one.sqnr_db for one in stretches)
    if plan.allow_rounding:
        run = open_reference(plan.source, data=lowered.SerializeToString())
        return _Proofs(lowering_db, None, sqnr_db(reference.logits, run_batches(run, reference.images)))
    weakest = _weakest(stretches, LEAST_SQNR_DB)
    if not weakest.holds(LEAST_SQNR_DB):
        raise BuildFailed(
            f"lowering {plan.source.path.name} for {plan.backend.name} changed what it computes: "
            f"{_shortfall(weakest, LEAST_SQNR_DB)}; please report this model"
        )
    if not plan.backend.portable:
        return _Proofs(lowering_db, None, None)
    stretches = compare_lowering(expected, lowered, kernels=plan.backend.run_graph)
    least = least_kernels_sqnr_db(smallest_activation_bits(plan.source.bits))
    weakest = _weakest(stretches, least)
    if not weakest.holds(least):
        raise BuildFailed(
            f"{plan.backend.name} {plan.version} does not compute the graph of {plan.source.path.name}: "
            f"{_shortfall(weakest, least)}; take another --backend, and please report this model"
        )
    return _Proofs(lowering_db, min(one.sqnr_db for one in stretches), None)


def _weakest(stretches: Sequence[Stretch], least_db: float) -> Stretch:
    """The stretch of the lowest SQNR, of those that do not hold if there are any."""
    return min(stretches, key=lambda one: (one.holds(least_db), one.sqnr_db))


def _shortfall(stretch: Stretch, least_db: float) -> str:
    return f"SQNR {stretch.sqnr_db:.1f} dB at {stretch.end!r}, expected at least {least_db:.0f}"


def _manifest(
    plan: BuildPlan,
    reference: Reference,
    engine: bytes,
    passes: tuple[PassCount, ...],
    proofs: _Proofs,
) -> Manifest:
    return Manifest(
        backend=plan.backend.name,
        target=plan.target,
        precision=plan.precision,
        engine=FileRecord(plan.engine.name, hashlib.sha256(engine).hexdigest()),
        source=FileRecord(plan.source.path.name, plan.source.sha256),
        reference=plan.reference.name,
        reference_inputs=reference.inputs,
        image_shape=plan.source.image_shape,
        classes=plan.source.classes,
        profile=plan.profile,
        versions={"repq-deploy": __version__, plan.backend.name: plan.version},
        session=plan.backend.session_options(),
        passes=passes,
        **dataclasses.asdict(proofs),
        metadata=plan.source.metadata,
        compute=plan.compute,
        allow_rounding=plan.allow_rounding,
        validation=not_run(
            "not validated yet",
            _tolerance(plan.source.bits, plan.precision, reference, proofs.rounded_sqnr_db),
        ),
    )


def _validate(engine: bytes, manifest: Manifest, reference: Reference) -> Validation:
    try:
        runner = load_engine(engine, manifest)
    except BackendMissing as error:
        return not_run(str(error), manifest.validation.tolerance)
    return _judge(runner, manifest, reference)


def _judge(runner: Runner, manifest: Manifest, reference: Reference) -> Validation:
    logits = run_batches(runner, reference.images)
    allowed = _tolerance(manifest.bits, manifest.precision, reference, manifest.rounded_sqnr_db)
    return compare(reference.logits, logits, allowed)


def _tolerance(bits: str, precision: str, reference: Reference, rounded_db: float | None) -> Tolerance:
    """``rounded_db`` is given where the lowering was allowed to round: the engine cannot be nearer than that."""
    rounding = reference.rounding_sqnr_db[precision]
    return tolerance(bits, precision, rounding_sqnr_db=rounding if rounded_db is None else min(rounding, rounded_db))
