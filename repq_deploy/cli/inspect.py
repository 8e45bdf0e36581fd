"""``repq-inspect``: shows what a canonical ONNX file or an engine holds, and what a backend's passes change."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from repq_deploy.cli.common import Json, Quiet, Verbose, set_up, show
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.errors import BackendMissing, BadInput

if TYPE_CHECKING:
    from repq_deploy.engines.manifest import Manifest

__all__ = ["main"]

#: Of classes, in the text.
_NAMES = 8
#: Wide enough for the longest site name; a terminal cuts no column.
_WIDTH = 140


def inspect(
    file: Annotated[Path, typer.Argument(help="The file to show: an ONNX file that repq-export wrote, or an engine.")],
    passes: Annotated[
        str | None,
        typer.Option(help="Also rewrite the graph for this backend, and say how many places each pass changes."),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            help="With --passes: the arithmetic that multiplies quantized operands, int8, or on TensorRT also fp8, "
            "fp8+int8 or fp16.",
            show_default="int8",
        ),
    ] = None,
    allow_rounding: Annotated[
        bool, typer.Option("--allow-rounding", help="Let --compute fp8 round the codes that FP8 cannot hold exactly.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show the metadata and the quantizers of an ONNX file, or the manifest of an engine."""
    set_up(verbose=verbose, quiet=quiet)
    engine = file.suffix == ".engine"
    if (compute is not None or allow_rounding) and (engine or passes is None):
        raise BadInput("--compute and --allow-rounding: say how --passes lowers an ONNX file; name both")
    result = _engine(file, passes) if engine else _model(file, passes, compute or "int8", allow_rounding)
    show(result, as_json=as_json, text=lambda: _print(result))


def _model(file: Path, passes: str | None, compute: str, allow_rounding: bool) -> dict[str, Any]:
    from repq_deploy.engines.backends import backend_named
    from repq_deploy.engines.compute import lowering_for
    from repq_deploy.engines.source import read_source
    from repq_deploy.export.lowering import lower
    from repq_deploy.export.names import recorded_classes
    from repq_deploy.export.table import site_table

    source = read_source(file)
    result: dict[str, Any] = {
        "file": str(file),
        "bytes": len(source.data) + (0 if source.weights is None else source.weights.stat().st_size),
        "sha256": source.sha256,
        "metadata": source.metadata,
        "input": ["batch", *source.image_shape],
        "input_dtype": source.input.dtype,
        "class_names": list(recorded_classes(source.metadata)),
        "output": ["batch", source.outputs],
        "outputs": {name: ["batch", *shape] for name, shape in source.named.shapes.items()},
        "sites": [dataclasses.asdict(row) for row in site_table(source.model)],
    }
    if passes is not None:
        source.check_one_file()
        backend = backend_named(passes)
        lowering = lowering_for(backend, compute=compute, allow_rounding=allow_rounding)
        lowered, reports = lower(source.model, backend.passes(lowering))
        result["lowering"] = {
            "backend": passes,
            "precision": lowering.precision,
            "compute": compute,
            "passes": [dataclasses.asdict(report) for report in reports],
            "nodes": {"canonical": len(source.model.graph.node), "lowered": len(lowered.graph.node)},
        }
    return result


def _engine(file: Path, passes: str | None) -> dict[str, Any]:
    from repq_deploy.engines.manifest import read_manifest
    from repq_deploy.system.files import existing_file

    manifest = read_manifest(existing_file(file, "engine"))
    if passes not in (None, manifest.backend):
        raise BadInput(
            f"--passes {passes}: {file.name} was built for {manifest.backend}; inspect the ONNX file it was made from: "
            f"repq-inspect {manifest.source.name} --passes {passes}"
        )
    result: dict[str, Any] = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "input": ["batch", *manifest.image_shape],
        "input_dtype": manifest.input.dtype,
        "class_names": list(manifest.class_names),
        "manifest": manifest.to_dict(),
    }
    kernels = _kernels(file, manifest)
    return result if kernels is None else {**result, "product_kernels": kernels}


def _kernels(file: Path, manifest: Manifest) -> dict[str, int] | None:
    """How many products run in each number type on this machine; None where the runtime does not tell."""
    from repq_deploy.engines.backends import backend_named
    from repq_deploy.engines.runner import check_engine

    ask = backend_named(manifest.backend).product_kernels
    if ask is None:
        return None
    try:
        check_engine(file, manifest)
        return ask(file, manifest.session)
    except BackendMissing:
        return None


def _print(result: dict[str, Any]) -> None:
    images = ", ".join(map(str, result["input"]))
    say(f"{result['file']}: {result['bytes'] / 1e6:.2f} MB, takes images {result['input_dtype']} [{images}]")
    if names := result["class_names"]:
        shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
        say(f"{'classes':16} {len(names)}: {shown}")
    if "manifest" in result:
        _print_engine(result)
        return
    say(*_metadata(result["metadata"]))
    table = Table(box=None, pad_edge=False)
    for column in ("site", "kind", "bits", "codes", "scale", "zero point", "shape", "stored"):
        table.add_column(column, no_wrap=True)
    for row in result["sites"]:
        smallest, largest = row["scale"]
        scale = f"{smallest:.4g}" if row["channels"] == 1 else f"{smallest:.3g} to {largest:.3g} [{row['channels']}]"
        shape = " x ".join(map(str, row["shape"])) or "?"
        codes = f"{row['codes'][0]} to {row['codes'][1]}"
        table.add_row(
            row["name"], row["kind"], str(row["bits"]), codes, scale, str(row["zero_point"]), shape, row["stored"]
        )
    Console(file=sys.stdout, width=_WIDTH, highlight=False, markup=False).print(table)
    if "lowering" in result:
        lowering = result["lowering"]
        say(
            f"lowering for {lowering['backend']}, {lowering['precision']}, products in {lowering['compute']}: "
            f"{lowering['nodes']['canonical']} nodes become {lowering['nodes']['lowered']}"
        )
        _print_passes(lowering["passes"])


def _metadata(metadata: dict[str, str]) -> list[str]:
    """A line for each record, and for each rewrite that was refused; what was measured at every site is
    ``repq-report``'s to show, and images and classes have their lines above."""
    from repq_deploy.export.names import CLASSES, INPUT_FORM, REFUSED, SITES, recorded_refusals

    entries = metadata | ({SITES: "measured; see repq-report"} if SITES in metadata else {})
    rows = [(key, value) for key, value in entries.items() if key not in (CLASSES, INPUT_FORM, REFUSED)]
    rows += [(REFUSED, line) for line in recorded_refusals(metadata)]
    return [f"{key.removeprefix('repq.'):16} {value}" for key, value in rows]


def _print_engine(result: dict[str, Any]) -> None:
    manifest = result["manifest"]
    validation = manifest["validation"]
    say(
        f"backend          {manifest['backend']} {manifest['versions'].get(manifest['backend'], '')}",
        f"target           {manifest['cpu'] or manifest['target'] or 'default'}",
        f"precision        {manifest['precision']}, products in {manifest['compute']}",
        f"batch            {manifest['profile']['min']} to {manifest['profile']['max']}",
        f"made from        {manifest['source']['name']} {manifest['source']['sha256']}",
        f"verdict          {validation['verdict']}: {validation['reason']}",
        *_metadata(manifest["metadata"]),
    )
    if kernels := result.get("product_kernels"):
        share = kernels.get("i8", 0) / sum(kernels.values())
        found = ", ".join(f"{count} in {kind}" for kind, count in sorted(kernels.items()))
        say(f"products here    {found} ({100 * share:.0f} % on integers)")
    _print_passes(manifest["passes"])


def _print_passes(passes: list[dict[str, Any]]) -> None:
    width = max([16, *(len(one["name"]) for one in passes)])
    say(f"{'pass':{width}} places changed", *(f"{one['name']:{width}} {one['changed']}" for one in passes))


main = entry_point(inspect, "repq-inspect")
