"""``repq-build-engine --emit-onnx``: the lowered graph as a file for a named TensorRT, to build an engine elsewhere.

A folder to copy to the machine that builds: ``model.onnx``, the reference tensors, ``build.sh`` and ``check.sh`` with
the commands of that version, and ``emitted.json``, which says what was made from what, and what was proven.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from repq_deploy import __version__
from repq_deploy.engines.api import BuildSettings
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.build import output_stem
from repq_deploy.engines.compute import lowering_for
from repq_deploy.engines.manifest import PassCount
from repq_deploy.engines.proofs import prove
from repq_deploy.engines.prove_engine import tolerance
from repq_deploy.engines.reference import Reference
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.errors import BadInput
from repq_deploy.exchange import deepstream as for_deepstream
from repq_deploy.exchange.commands import (
    FIRST_TO_COMPARE,
    polygraphy_run,
    trtexec_build,
    trtexec_compare,
    trtexec_run,
)
from repq_deploy.exchange.folder import prepare_folder, write_together
from repq_deploy.exchange.parsers import check_for_parser, parse_version
from repq_deploy.exchange.tensors import ReferenceTensors, reference_tensors, tensor_file_names, tensor_files
from repq_deploy.export.lowering import Lowering, lower
from repq_deploy.export.names import OUTPUT, PREFIX, recorded_classes
from repq_deploy.export.opsets import at_opset
from repq_deploy.export.passes.base import Pass
from repq_deploy.export.passes.quantize_before_moves import QuantizeBeforeMoves

__all__ = ["COMPUTES", "EmitPlan", "Emitted", "emit_passes", "emit_planned", "plan_emit"]

MODEL, PLAN, TIMINGS, MARK, BUILD, CHECK = (
    *("model.onnx", "model.plan", "timing.cache"),
    *("emitted.json", "build.sh", "check.sh"),
)
#: FP8 needs a GPU that has it, which only a build knows.
COMPUTES = ("int8", "fp16")
#: The lowest that hold the graph: Gelu began with 20, INT4 with 21.
_OPSET, _OPSET_OF_INT4 = 20, 21


@dataclass(frozen=True)
class EmitPlan:
    """One folder to write, for TensorRT ``version``."""

    source: SourceModel
    version: tuple[int, int]
    lowering: Lowering
    profile: Profile
    folder: Path
    deepstream: bool

    @property
    def release(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True)
class Emitted:
    """What was written: the ``files``, the ``commands`` that build, run and compare an engine in their folder, and
    ``record``, the content of ``emitted.json``."""

    folder: Path
    files: tuple[Path, ...]
    commands: dict[str, str]
    record: dict[str, Any]


def plan_emit(
    file: Path,
    version: str,
    *,
    output: Path | None = None,
    settings: BuildSettings | None = None,
    deepstream: bool = False,
) -> EmitPlan:
    """Check what can be checked without work; write nothing.

    Args:
        file: a canonical ONNX file.
        version: of TensorRT, as in ``10.3``.
        output: a folder that is there, or a name without suffix; ``.tensorrt-10.3`` is appended. None: beside ``file``.
        settings: its ``precision``, ``compute``, ``profile`` and ``force`` are those of the folder.
        deepstream: also write ``nvinfer``'s configuration, and a graph that takes what it gives.

    Raises:
        BadInput: a version, a model or a setting that this is not for.
    """
    asked = settings or BuildSettings()
    source = read_source(file)
    source.check_one_file()
    if asked.compute not in COMPUTES:
        raise BadInput(
            f"--compute {asked.compute}: --emit-onnx writes {' or '.join(COMPUTES)}; FP8 needs a build on its GPU"
        )
    if deepstream:
        for_deepstream.check_deepstream(source)
    stem = output_stem(file, output)
    parsed = parse_version(version)
    plan = EmitPlan(
        source=source,
        version=parsed,
        lowering=lowering_for(backend_named("tensorrt"), precision=asked.precision, compute=asked.compute),
        profile=asked.profile,
        folder=stem.with_name(f"{stem.name}.tensorrt-{'.'.join(map(str, parsed))}" + "-deepstream" * deepstream),
        deepstream=deepstream,
    )
    given = for_deepstream.PROBABILITIES if deepstream else OUTPUT
    names = (MODEL, PLAN, TIMINGS, BUILD, CHECK, *tensor_file_names([*source.named.names, given]))
    prepare_folder(plan.folder, names, mark=MARK, what="--emit-onnx", force=asked.force)
    return plan


def emit_planned(plan: EmitPlan, reference: Reference) -> Emitted:
    """Lower, prove, check against the parser's list, and write the folder.

    The graph is that of the backend ``tensorrt``, except that quantizers stay where they are: the list has INT8 only
    between a QuantizeLinear and its DequantizeLinear. What is proven is the float32 form, as in a build.

    Raises:
        BuildFailed: the passes changed what the graph computes.
        BadInput: the parser of that version would not take the graph.
    """
    lowered, passes = _lower(plan, plan.lowering)
    single, _ = _lower(plan, dataclasses.replace(plan.lowering, half=False))
    backend = backend_named("tensorrt")
    proofs = prove(plan.source, backend, single, reference, allow_rounding=False, runs_here=False)
    rounding = reference.rounding_sqnr_db[plan.lowering.precision]
    allowed = tolerance(plan.source.bits, plan.lowering.precision, rounding_sqnr_db=rounding)
    tensors, limit = reference_tensors(reference, plan.source.named, plan.profile), allowed.min_sqnr_db
    if plan.deepstream:
        preprocess = for_deepstream.check_deepstream(plan.source)
        lowered = for_deepstream.with_pixels(lowered, preprocess)
        tensors = for_deepstream.pixel_tensors(tensors, preprocess)
        limit = for_deepstream.probabilities_sqnr_db(reference.logits, limit)
    packed = any(tensor.data_type == onnx.TensorProto.INT4 for tensor in lowered.graph.initializer)
    opset = _OPSET_OF_INT4 if packed else _OPSET
    lowered = at_opset(lowered, opset)
    lowered.metadata_props.add(key=f"{PREFIX}engine.tensorrt", value=plan.release)
    check_for_parser(lowered, plan.version)
    commands = _commands(plan, tensors, limit)
    record = {
        "repq-deploy": __version__,
        "source": {"name": plan.source.path.name, "sha256": plan.source.sha256},
        "tensorrt": plan.release,
        "opset": opset,
        "precision": plan.lowering.precision,
        "compute": plan.lowering.compute,
        "profile": dataclasses.asdict(plan.profile),
        "passes": [dataclasses.asdict(one) for one in passes],
        "lowering_sqnr_db": proofs.lowering_sqnr_db,
        "min_sqnr_db": limit,
        "reference_inputs": reference.inputs,
        "deepstream": plan.deepstream,
        "commands": commands,
        "run": False,
    }
    texts = {
        BUILD: _script(commands["build"]),
        CHECK: _script(commands["run"], commands["compare"]),
        **(_settings_of_deepstream(plan) if plan.deepstream else {}),
        MARK: json.dumps(record, indent=2) + "\n",
    }
    files = {
        MODEL: lowered.SerializeToString(deterministic=True),
        **tensor_files(tensors),
        **{name: text.encode() for name, text in texts.items()},
    }
    return Emitted(plan.folder, write_together(plan.folder, files), commands, record)


def emit_passes(lowering: Lowering) -> list[Pass]:
    """The passes of the backend ``tensorrt`` that leave every quantizer before its dequantizer."""
    passes = backend_named("tensorrt").passes(lowering)
    return [one for one in passes if not isinstance(one, QuantizeBeforeMoves)]


def _lower(plan: EmitPlan, lowering: Lowering) -> tuple[onnx.ModelProto, tuple[PassCount, ...]]:
    lowered, reports = lower(plan.source.model, emit_passes(lowering))
    return lowered, tuple(PassCount(report.name, report.changed) for report in reports)


def _commands(plan: EmitPlan, tensors: ReferenceTensors, min_sqnr_db: float) -> dict[str, str]:
    """By what they do; all run in the folder itself."""
    here, engine, shape = Path(), Path(PLAN), tensors.images.shape[1:]
    build = trtexec_build(
        Path(MODEL), engine, image_shape=shape, profile=plan.profile, timing_cache=Path(TIMINGS), version=plan.version
    )
    if plan.version >= FIRST_TO_COMPARE:
        run = trtexec_compare(engine, here, tensors, min_sqnr_db=min_sqnr_db)
    else:
        run = trtexec_run(engine, here, tensors)
    compare = polygraphy_run(engine, here, runner="trt", kind="engine", min_sqnr_db=min_sqnr_db)
    return {"build": build, "run": run, "compare": compare}


def _settings_of_deepstream(plan: EmitPlan) -> dict[str, str]:
    classes = recorded_classes(plan.source.metadata)
    settings = for_deepstream.configuration(plan.source, plan.profile, engine=PLAN, labelled=bool(classes))
    named = {for_deepstream.LABELS: for_deepstream.labels(classes)} if classes else {}
    return {for_deepstream.CONFIG: settings, **named}


def _script(*commands: str) -> str:
    return "\n".join(("#!/bin/sh", "# Written by repq-deploy.", "set -e", 'cd "$(dirname "$0")"', *commands, ""))
