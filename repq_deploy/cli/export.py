"""``repq-export``: a timm model and a folder of images become a canonical ONNX file."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from repq_deploy.bits import PRESETS, BitWidths
from repq_deploy.cli.common import (
    DryRun,
    Json,
    Quiet,
    Seed,
    Verbose,
    console,
    entry_point,
    hardware_note,
    progress_bar,
    set_up,
    show,
)
from repq_deploy.errors import ValidationFailed
from repq_deploy.files import check_writable

__all__ = ["main"]

#: Images that the proof runs on.
PROOF_IMAGES = 4


class Attention(StrEnum):
    """How attention is quantized: as the method does it, or one of ``repq_deploy.softmax.SoftmaxQuantizer``."""

    method = "method"
    float = "float"
    uniform = "uniform"
    log2 = "log2"
    log_sqrt2 = "log_sqrt2"
    adalog = "adalog"
    tan = "tan"


def export(
    model: Annotated[str, typer.Argument(help="deit_s, swin_t, ..., any timm id of these families, or demo.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    bits: Annotated[str, typer.Option(help="Bits, as in w6a6 or w4a4,head=w8a8; 2 to 8.")] = "w8a8",
    method: Annotated[str, typer.Option(help="repq, or the baselines percentile and minmax.")] = "repq",
    preset: Annotated[str, typer.Option(help=f"What is quantized: {' or '.join(PRESETS)}.")] = "deploy",
    attention: Annotated[
        Attention,
        typer.Option(help="Quantizer of attention probabilities; float leaves attention's products in float."),
    ] = Attention.method,
    float_model: Annotated[
        bool, typer.Option("--float", help="Write the float model instead, to compare with; nothing is calibrated.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights: .safetensors, or a .pt of tensors only.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of the checkpoint.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Image height and width in pixels.")] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--no-pretrained", help="timm's weights, or random ones for structural work.")
    ] = True,
    calib_data: Annotated[
        str | None, typer.Option(help="Calibration images: a folder, flat or one folder a class, or an .npz.")
    ] = None,
    num_calib: Annotated[int, typer.Option(min=1, help="How many of them to use.")] = 32,
    save_quantized: Annotated[
        Path | None, typer.Option(help="Also save the PyTorch model, as safetensors, for repq-eval.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Calibrate a Vision Transformer and export it as ONNX with Q/DQ at the given bits."""
    set_up(verbose=verbose, quiet=quiet)
    widths = BitWidths.parse(bits, preset=preset)
    for path in filter(None, (output, save_quantized)):
        check_writable(path)
    # Torch takes seconds to import; a typing error should not.
    from repq_deploy import models
    from repq_deploy.methods import find_method

    find_method(method)
    spec = models.resolve(
        model, checkpoint=checkpoint, num_classes=num_classes, img_size=img_size, pretrained=pretrained
    )
    if float_model:
        written = _write_float(spec, checkpoint, output, seed, dry_run=dry_run)
        show(written, as_json=as_json, text=lambda: _print_float(written))
        return
    if dry_run:
        plan = _plan(spec, widths, method, output)
        show(plan, as_json=as_json, text=lambda: _print_plan(plan))
        return
    result = _run(spec, widths, method, attention, checkpoint, calib_data, num_calib, output, save_quantized, seed)
    show(result, as_json=as_json, text=lambda: _print_result(result))


def _run(
    spec: Any,
    widths: BitWidths,
    method: str,
    attention: Attention,
    checkpoint: Path | None,
    calib_data: str | None,
    num_calib: int,
    output: Path,
    save_quantized: Path | None,
    seed: int,
) -> dict[str, Any]:
    import torch

    from repq_deploy import models
    from repq_deploy import quantized as quantized_file
    from repq_deploy.calib_data import Preprocess, load_sample
    from repq_deploy.calibrate import quantize
    from repq_deploy.export import canonical_onnx, compare_export, write_canonical

    if spec.weights == "random":
        console.print(f"[bold red]RANDOM WEIGHTS[/]: {spec.name} is untrained; use the result for structural work only")
    if calib_data is None:
        calib_data = "demo:calib"
        if spec.weights not in ("demo", "random"):
            console.print(
                "[bold yellow]calibrating on the embedded Fashion-MNIST images[/]: accuracy will suffer; "
                "give --calib-data a folder of images like those the model will see"
            )
    started = time.monotonic()
    network = models.create(spec, checkpoint, seed)
    float_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    preprocess = Preprocess.from_model(network)
    sample = load_sample(calib_data, preprocess, count=num_calib, seed=seed)
    images = torch.from_numpy(sample.pixels)
    with progress_bar() as progress:
        task = progress.add_task(f"calibrating {spec.name} {widths} with {method}")
        quantized = quantize(
            network,
            spec,
            images,
            bits=widths,
            method=method,
            attention=None if attention is Attention.method else attention.value,  # type: ignore[arg-type]
            seed=seed,
            preprocess=preprocess.to_json(),
            calibration_sha256=sample.source.sha256,
            report=lambda doing, done, total: progress.update(
                task, description=f"{spec.name} {widths} {method}: {doing}", completed=done, total=total
            ),
        )
    calibrated = time.monotonic()
    with console.status("exporting to ONNX"):
        model = canonical_onnx(quantized, tuple(images.shape[1:]))  # type: ignore[arg-type]
    exported = time.monotonic()
    with console.status("comparing codes with ONNX Runtime"):
        agreement = compare_export(quantized, model, images[:PROOF_IMAGES])
    worst = agreement.worst
    if failing := agreement.failing:
        raise ValidationFailed(
            f"{failing[0].site}: {100 * failing[0].equal:.3f} % of its codes in ONNX Runtime equal PyTorch's, expected "
            f"at least 99.9 % ({len(failing)} sites differ); nothing was written, please report this model"
        )
    write_canonical(model, output)
    if save_quantized is not None:
        quantized_file.save(quantized, save_quantized)
    return {
        "output": str(output),
        "model": spec.name,
        "bits": str(widths),
        "preset": widths.preset,
        "method": method,
        "attention": quantized.softmax,
        "calibration_images": len(images),
        "preprocess": preprocess.to_json(),
        "bytes": output.stat().st_size,
        "of_float": output.stat().st_size / float_bytes,
        "sites": len(agreement.sites),
        "codes_equal_worst": worst.equal,
        "codes_equal_mean": agreement.mean_equal,
        "worst_site": worst.site,
        "logits_relative_error": agreement.relative_error,
        "free_running_relative_error": agreement.free_relative_error,
        "free_running_top1_equal": agreement.top1_equal,
        "seconds": {
            "calibrate": calibrated - started,
            "export": exported - calibrated,
            "prove": time.monotonic() - exported,
        },
    }


def _write_float(spec: Any, checkpoint: Path | None, output: Path, seed: int, *, dry_run: bool) -> dict[str, Any]:
    from repq_deploy import models
    from repq_deploy.calib_data import Preprocess
    from repq_deploy.export import float_onnx, write_canonical

    if not dry_run:
        network = models.create(spec, checkpoint, seed)
        preprocess = Preprocess.from_model(network)
        with console.status("exporting to ONNX"):
            model = float_onnx(network, (3, *preprocess.size))
        write_canonical(model, output)
    return {"output": str(output), "model": spec.name, "bits": "float", "dry_run": dry_run}


def _print_float(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    sys.stdout.write(f"{verb} {result['output']}: {result['model']} in float\n")


def _print_result(result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    sys.stdout.write(
        f"wrote {result['output']}: {result['model']} {result['bits']} by {result['method']}, "
        f"{result['bytes'] / 1e6:.1f} MB ({result['of_float']:.3f} of float)\n"
        f"codes equal in PyTorch and ONNX Runtime: {100 * result['codes_equal_mean']:.4f} % over {result['sites']} "
        f"sites, at worst {100 * result['codes_equal_worst']:.4f} % ({result['worst_site']})\n"
        f"calibrated in {seconds['calibrate']:.1f} s, exported in {seconds['export']:.1f} s, "
        f"proved in {seconds['prove']:.1f} s\n"
        f"{hardware_note(result['bits'])}"
        f"next: repq-build-engine {result['output']}\n"
    )


def _plan(spec: Any, widths: BitWidths, method: str, output: Path) -> dict[str, Any]:
    from repq_deploy.models import build_architecture
    from repq_deploy.quantized import wrap

    quantized = wrap(build_architecture(spec), spec, widths, softmax="uniform")
    sites = {site.name: str(widths.of(site.name, site.role)) for site, _, _ in quantized.linears()}
    sites |= {s.name: f"a{widths.of(s.name, 'attention').activation}" for s in quantized.sites.attentions}
    return {"model": spec.to_dict(), "method": method, "preset": widths.preset, "output": str(output), "sites": sites}


def _print_plan(plan: dict[str, Any]) -> None:
    lines = [f"{name:40} {bits}" for name, bits in plan["sites"].items()]
    sys.stdout.write("\n".join([*lines, f"would write {plan['output']} by {plan['method']}, {plan['preset']}"]) + "\n")


main = entry_point(export, "repq-export")
