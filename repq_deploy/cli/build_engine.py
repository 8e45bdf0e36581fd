"""``repq-build-engine``: builds a validated engine from a canonical ONNX file, or validates an engine again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.cli.answers.build import print_engines, print_plans
from repq_deploy.cli.answers.emit import emit
from repq_deploy.cli.common import (
    DryRun,
    Force,
    Json,
    Quiet,
    Seed,
    Verbose,
    console,
    progress_bar,
    refuse_other_options,
    set_up,
    show,
)
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.engines.backends import backend_names
from repq_deploy.errors import BadInput

if TYPE_CHECKING:
    from repq_deploy.engines.api import BuildSettings
    from repq_deploy.engines.build import BuildPlan
    from repq_deploy.engines.manifest import Manifest
    from repq_deploy.triton.repository import Repository

__all__ = ["main"]

#: The options that have an effect beside ``--emit-onnx``.
_OF_EMIT_ONNX = (
    *("file", "emit_onnx", "tensorrt_version", "deepstream", "output", "min_batch", "opt_batch", "max_batch"),
    *("precision", "compute", "reference_data", "seed", "as_json", "force", "dry_run", "verbose", "quiet"),
)


def build_engine(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="The ONNX file that repq-export wrote.")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help=f"The runtime to build for: {', '.join(backend_names())}. Repeat it for several. "
            "Default: the best one whose engine this machine can run."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="For TensorRT: the GPU generations to build for, such as sm89 or sm86,sm89.")
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option(
            help="The CPUs to build for: any (exact on every CPU), vnni or arm64 (fastest there with 8-bit weights), "
            "avx2, or native (the kind of this machine). Default: any, or native where any would be much slower."
        ),
    ] = None,
    min_batch: Annotated[int, typer.Option(help="The smallest batch size that the engine takes.")] = 1,
    opt_batch: Annotated[int, typer.Option(help="The batch size that the engine is tuned for.")] = 8,
    max_batch: Annotated[int, typer.Option(help="The largest batch size that the engine takes.")] = 32,
    precision: Annotated[
        str | None,
        typer.Option(help="The float type around the quantized operations: fp16 or fp32. Default: the backend's own."),
    ] = None,
    compute: Annotated[
        str,
        typer.Option(help="The arithmetic of quantized products: int8, or on TensorRT also fp8, fp8+int8 or fp16."),
    ] = "int8",
    allow_rounding: Annotated[
        bool, typer.Option("--allow-rounding", help="Let --compute fp8 round the codes that FP8 cannot hold exactly.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The engine's folder, or its path without .<backend>.engine, its suffix."),
    ] = None,
    reference_data: Annotated[
        str | None,
        typer.Option(
            help="The images to validate with: a folder, or an .npz file of preprocessed ones. Default: random noise."
        ),
    ] = None,
    validate_only: Annotated[
        Path | None,
        typer.Option(help="Build nothing; validate this engine again, with the manifest and reference beside it."),
    ] = None,
    speed_check: Annotated[
        bool,
        typer.Option(
            "--speed-check/--no-speed-check",
            help="After the build, time the engine against the float model for a few seconds, and say whether it is "
            "faster on this machine.",
        ),
    ] = True,
    exchange: Annotated[
        Path | None,
        typer.Option(
            help="A folder for the reference inputs and outputs as Polygraphy's JSON and as raw tensors for trtexec; "
            "the commands that compare with them are printed."
        ),
    ] = None,
    emit_onnx: Annotated[
        bool,
        typer.Option(
            "--emit-onnx",
            help="Build nothing; write the lowered ONNX file for the TensorRT of --tensorrt-version, with reference "
            "tensors and the commands that build and check an engine on the machine it is for.",
        ),
    ] = False,
    tensorrt_version: Annotated[
        str | None, typer.Option(help="For --emit-onnx: the version of TensorRT, such as 10.3, that of JetPack 6.")
    ] = None,
    deepstream: Annotated[
        bool,
        typer.Option(
            "--deepstream", help="For --emit-onnx: a graph that takes pixels, and the configuration of nvinfer for it."
        ),
    ] = False,
    triton_repository: Annotated[
        Path | None,
        typer.Option(
            help="Also put the engine into this model repository of Triton Inference Server, as a new version of the "
            "model."
        ),
    ] = None,
    triton_backend: Annotated[
        str | None,
        typer.Option(
            help="Triton's backend for it: python runs an ONNX Runtime engine in Triton's Python backend. Default: "
            "Triton's own for the runtime."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    force: Force = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Build an engine from an ONNX file that repq-export wrote, and prove that the engine computes the same."""
    set_up(verbose=verbose, quiet=quiet)
    if (file is None) == (validate_only is None):
        raise BadInput("expected either an ONNX file of repq-export or --validate-only ENGINE")
    if validate_only is not None:
        refuse_other_options(context, "--validate-only", ("validate_only", "as_json", "dry_run", "verbose", "quiet"))
        _validate(validate_only, as_json=as_json, dry_run=dry_run)
        return
    # ONNX takes a second to import; a typing error should not.
    from repq_deploy.cli.serving.triton import repository_for
    from repq_deploy.engines.api import BuildSettings, plan_engines
    from repq_deploy.engines.batching import Profile
    from repq_deploy.engines.build import make_reference
    from repq_deploy.exchange.emit import plan_emit
    from repq_deploy.exchange.engine import check_exchange

    settings = BuildSettings(
        precision=precision,
        compute=compute,
        allow_rounding=allow_rounding,
        cpu=cpu,
        targets=() if target is None else tuple(part.strip().lower() for part in target.split(",")),
        profile=Profile(min_batch, opt_batch, max_batch),
        reference_data=reference_data,
        seed=seed,
        force=force,
        check_speed=speed_check,
    )
    assert file is not None  # noqa: S101 (checked above)
    if emit_onnx or tensorrt_version is not None or deepstream:
        if not (emit_onnx and tensorrt_version):
            raise BadInput("expected --emit-onnx and --tensorrt-version together, and --deepstream beside them only")
        refuse_other_options(context, "--emit-onnx", _OF_EMIT_ONNX)
        plan = plan_emit(file, tensorrt_version, output=output, settings=settings, deepstream=deepstream)
        emit(plan, settings, as_json=as_json, dry_run=dry_run)
        return
    planned = plan_engines(file, backend or (), output, settings)
    if exchange is not None:
        check_exchange(exchange, planned[0].plan.source.named, force=force)
    repository = repository_for(planned, triton_repository, triton_backend, force=force)
    if dry_run:
        entries = [_plan_entry(one.plan, one.why) for one in planned]
        show({"dry_run": True, "engines": entries}, as_json=as_json, text=lambda: print_plans(entries))
        return
    with console.status("running the reference"):
        reference = make_reference(planned[0].plan.source, data=reference_data, seed=seed)
    entries = []
    for one in planned:
        entries.append(_build(one.plan, one.why, reference, settings, exchange, repository))
        if not as_json:  # as each is there: the next one may fail
            print_engines(entries[-1:])
    show({"engines": entries}, as_json=as_json, text=lambda: None)
    _exit(entries)


def _build(
    plan: BuildPlan,
    why: str,
    reference: Any,
    settings: BuildSettings,
    exchange: Path | None,
    repository: Repository | None,
) -> dict[str, Any]:
    from repq_deploy.cli.serving.triton import add_version
    from repq_deploy.engines.api import build_and_time
    from repq_deploy.engines.bench.against_float import speed_words
    from repq_deploy.exchange.engine import write_exchange

    console.print(f"backend {plan.backend.name}: {why}")
    with progress_bar() as progress:
        task = progress.add_task(f"building {plan.engine.name}", total=100)
        built = build_and_time(
            plan,
            reference,
            settings,
            progress=lambda fraction, phase: progress.update(
                task, completed=round(100 * fraction), description=f"{plan.engine.name}: {phase}"
            ),
        )
    entry = _entry(built.engine, built.manifest)
    form = None if built.form is None else built.form.why
    speed = None if built.speed is None else {**built.speed.to_dict(), "words": speed_words(built.speed)}
    size = built.engine.stat().st_size
    facts = {"why": why, "form": form, "bytes": size, "seconds": built.seconds, "speed": speed}
    entry |= {**facts, "triton": add_version(repository, built)}
    if exchange is None:
        return entry
    written = write_exchange(exchange, built.engine, built.manifest, reference)
    files = [str(path) for path in written.files]
    return {**entry, "exchange": {"folder": str(exchange), "files": files, "commands": written.commands}}


def _validate(engine: Path, *, as_json: bool, dry_run: bool) -> None:
    from repq_deploy.engines.build import validate_engine
    from repq_deploy.engines.manifest import read_manifest

    if dry_run:
        entry = _entry(engine, read_manifest(engine))
        plan = {"dry_run": True, "engines": [entry]}
        show(plan, as_json=as_json, text=lambda: say(f"would run {engine} on {entry['reference']}"))
        return
    with console.status(f"validating {engine.name}"):
        entry = _entry(engine, validate_engine(engine))
    show({"engines": [entry]}, as_json=as_json, text=lambda: print_engines([entry]))
    _exit([entry])


def _entry(engine: Path, manifest: Manifest) -> dict[str, Any]:
    """The command's answer about one engine: its manifest, and before it the facts that a reader looks for first."""
    return {
        "engine": str(engine),
        "backend": manifest.backend,
        "verdict": manifest.validation.verdict,
        "reference": str(engine.with_name(manifest.reference)),
        "manifest": manifest.to_dict(),
    }


def _plan_entry(plan: BuildPlan, why: str) -> dict[str, Any]:
    from repq_deploy.engines.build import cpu_form

    form = cpu_form(plan)
    return {
        "engine": str(plan.engine),
        "backend": plan.backend.name,
        "why": why,
        "version": plan.version,
        "target": plan.target,
        "cpu": None if form is None else form.kind,
        "form": None if form is None else form.why,
        "precision": plan.lowering.precision,
        "compute": plan.lowering.compute,
        "batch": [plan.profile.min, plan.profile.opt, plan.profile.max],
        "reference": str(plan.reference),
        "bits": plan.source.bits,
    }


def _exit(entries: list[dict[str, Any]]) -> None:
    """Exit status 1 where an engine does not compute what it should; the printed verdict has said why."""
    if any(entry["verdict"] == "FAILED" for entry in entries):
        raise typer.Exit(1)


main = entry_point(build_engine, "repq-build-engine")
