"""What ``repq-export`` does once its options are understood: load, calibrate, export, with a word on each.

Also what it says at its end, and what it would do under ``--dry-run``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repq_deploy.bits import BitWidths
from repq_deploy.cli.common import console, hardware_note, progress_bar, say_calibration, say_note, say_weights
from repq_deploy.cli.download import getting_weights
from repq_deploy.cli.export_float import check_count
from repq_deploy.cli.streams import say

if TYPE_CHECKING:
    import torch

    from repq_deploy.calib_data.images import LoadedImages
    from repq_deploy.methods import Method
    from repq_deploy.models.checkpoints import CheckpointFile
    from repq_deploy.models.libraries.folder import ModelFolder
    from repq_deploy.models.loading import FloatModel
    from repq_deploy.models.zoo import ModelSpec

__all__ = ["plan_of", "print_float", "print_plan", "print_result", "run_export"]


def run_export(
    spec: ModelSpec,
    weights: CheckpointFile | ModelFolder | None,
    output: Path,
    *,
    widths: BitWidths,
    method: Method,
    softmax: str | None,
    calib_data: str | None,
    num_calib: int | None,
    classes: tuple[str, ...],
    input: str,
    layout: str,
    opset: int,
    save_quantized: Path | None,
    work_dir: Path | None,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Write the files of one export; the answer of the command."""
    from repq_deploy.api import export_onnx, quantize
    from repq_deploy.calibration.resume import WorkFolder
    from repq_deploy.models.loading import build
    from repq_deploy.system.memory import keep_freed_memory

    say_weights(spec.name, spec.weights)
    started = time.monotonic()
    keep_freed_memory()
    with getting_weights() as report:
        model = build(spec, weights, seed=seed, note=say_note, report=report)
    check_count(classes, model.network)
    float_bytes = 4 * sum(parameter.numel() for parameter in model.network.parameters())
    origin = say_calibration(calib_data, spec.name, spec.weights)
    images = _images(origin, model, _count(origin, method, widths, num_calib), seed, device)
    work = WorkFolder(work_dir)
    with progress_bar() as progress:
        task = progress.add_task(f"{spec.name} {method.name}")
        quantized = quantize(
            model,
            images,
            bits=widths,
            method=method,
            softmax=softmax,
            classes=classes,
            seed=seed,
            device=device,
            inplace=True,
            work=work,
            report=lambda doing, done, total: progress.update(
                task, description=f"{spec.name} {method.name}: {doing}", completed=done, total=total
            ),
        )
    for line in quantized.provenance.refused:
        say_note(line)
    if quantized.online:
        say_note(f"rotated while the model runs: {quantized.online}")
    if not classes and not model.classes:
        _say_names(quantized.provenance.classes, images.source.class_names, model.network)
    calibrated = time.monotonic()
    written = export_onnx(
        quantized,
        output,
        images,
        input=input,
        input_layout=layout,
        opset=opset,
        save_quantized=save_quantized,
        doing=console.status,
    )
    work.finish()
    agreement = written.agreement
    return {
        "output": str(output),
        "model": spec.name,
        "bits": str(widths),
        "preset": widths.preset,
        "input": f"{input} {layout}",
        "method": method.name,
        "softmax": quantized.softmax,
        "device": str(device),
        "classes": list(quantized.provenance.classes),
        "refused": list(quantized.provenance.refused),
        "rotated_online": quantized.online,
        "calibration": origin,
        "calibration_images": quantized.provenance.calibration_images,
        "preprocess": quantized.preprocess_json,
        "bytes": output.stat().st_size,
        "oldest_onnxruntime": written.oldest_onnxruntime,
        "of_float": output.stat().st_size / float_bytes,
        "sites": len(agreement.sites),
        "codes_equal_worst": agreement.worst.equal,
        "codes_equal_mean": agreement.mean_equal,
        "worst_site": agreement.worst.site,
        "logits_relative_error": agreement.relative_error,
        "free_running_relative_error": agreement.free_relative_error,
        "free_running_decisions_equal": agreement.decisions_equal,
        "seconds": {"calibrate": calibrated - started, "export": time.monotonic() - calibrated},
    }


def _say_names(found: tuple[str, ...], folders: tuple[str, ...], network: Any) -> None:
    """Whether class folders became the names of the outputs."""
    if found:
        say_note(f"names of classes: the {len(found)} folders, in the order that the model's own answers have")
    elif folders and len(folders) == network.num_classes:
        say_note("names of classes: not recorded, as the model's answers fit no order of the folders; use --classes")


def _count(origin: str, method: Method, widths: BitWidths, num_calib: int | None) -> int:
    """How many calibration images to take; the method's own number if there are as many."""
    from repq_deploy.calib_data import photos
    from repq_deploy.calib_data.sources import open_images

    if num_calib is not None:
        return num_calib
    few_bits = min(widths.narrowest_weight, widths.smallest_activation_bits) < 6
    if origin == "photos" and few_bits:
        return max(method.images, photos.FEW_BITS)
    return min(method.images, len(open_images(origin))) if origin != "synthetic" else method.images


def _images(origin: str, model: FloatModel, count: int, seed: int, device: torch.device) -> LoadedImages:
    from repq_deploy.api import load_images

    if origin != "synthetic":
        return load_images(origin, model, count=count, seed=seed)
    with progress_bar() as progress:
        task = progress.add_task("making images")
        return load_images(
            origin,
            model,
            count=count,
            seed=seed,
            device=device,
            report=lambda done, total: progress.update(task, completed=done, total=total),
        )


def print_float(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    say(f"{verb} {result['output']}: {result['model']} in float")


def print_result(result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    say(
        f"wrote {result['output']}: {result['model']} {result['bits']} by {result['method']}, "
        f"{result['bytes'] / 1e6:.1f} MB ({result['of_float']:.3f} of float)",
        f"codes equal in PyTorch and ONNX Runtime: {100 * result['codes_equal_mean']:.4f} % over {result['sites']} "
        f"sites, at worst {100 * result['codes_equal_worst']:.4f} % ({result['worst_site']})",
        f"calibrated in {seconds['calibrate']:.1f} s ({result['device']}), exported and proved in "
        f"{seconds['export']:.1f} s",
        *hardware_note(result["bits"]),
        f"next: repq-build-engine {result['output']}",
    )


def plan_of(spec: Any, widths: BitWidths, method: Method, output: Path) -> dict[str, Any]:
    """The bits of every site, and what the architecture refuses of the method, without weights or images."""
    from repq_deploy.models.legality import refusals
    from repq_deploy.models.zoo import build_architecture
    from repq_deploy.quant.model import wrap

    quantized = wrap(build_architecture(spec), spec, widths, softmax="uniform")
    sites = {site.name: str(widths.of(site.name, site.role)) for site, _, _ in quantized.linears()}
    sites |= {s.name: f"a{widths.of(s.name, 'attention').activation}" for s in quantized.sites.attentions}
    return {
        "model": spec.to_dict(),
        "method": method.name,
        "preset": widths.preset,
        "output": str(output),
        "sites": sites,
        "refused": list(refusals(quantized.sites, method.rewrites())),
    }


def print_plan(plan: dict[str, Any]) -> None:
    lines = [f"{name:40} {bits}" for name, bits in plan["sites"].items()]
    lines += [f"note: {line}" for line in plan["refused"]]
    say(*lines, f"would write {plan['output']} by {plan['method']}, {plan['preset']}, for images in {plan['input']}")
