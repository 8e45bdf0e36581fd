"""What ``repq-export`` does once its options are understood: calibrate, export, prove, write."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repq_deploy.bits import BitWidths
from repq_deploy.cli.common import console, progress_bar, say_calibration, say_note, say_weights
from repq_deploy.cli.efforts import Attention
from repq_deploy.cli.export_float import check_count
from repq_deploy.errors import ValidationFailed
from repq_deploy.system.files import atomic_output

if TYPE_CHECKING:
    from repq_deploy.models.checkpoints import CheckpointFile

__all__ = ["run_export"]

#: Images that the proof runs on.
PROOF_IMAGES = 4


def run_export(
    spec: Any,
    widths: BitWidths,
    method: Any,
    attention: Attention,
    weights: CheckpointFile | None,
    calib_data: str | None,
    num_calib: int | None,
    output: Path,
    save_quantized: Path | None,
    seed: int,
    work_dir: Path | None,
    device: Any,
    names: tuple[str, ...],
    opset: int,
) -> dict[str, Any]:
    """Write the files of one export; what the command answers."""
    import torch

    from repq_deploy.calib_data import load_sample, open_images
    from repq_deploy.calibrate import quantize
    from repq_deploy.calibration.resume import WorkFolder
    from repq_deploy.export.canonical import canonical_onnx, write_canonical
    from repq_deploy.export.opsets import at_opset, oldest_onnxruntime
    from repq_deploy.export.prove_export import compare_export
    from repq_deploy.models import zoo
    from repq_deploy.models.preprocessing import preprocess_of
    from repq_deploy.quant import model as quantized_file
    from repq_deploy.system.allocator import keep_freed_memory

    say_weights(spec.name, spec.weights)
    started = time.monotonic()
    work = WorkFolder(work_dir)
    keep_freed_memory()
    with console.status("getting the weights"):
        network = zoo.create(spec, weights, seed, note=say_note)
    check_count(names, network)
    float_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    preprocess = preprocess_of(network)
    source = open_images(say_calibration(calib_data, spec.weights))
    count = min(method.images, len(source)) if num_calib is None else num_calib
    sample = load_sample(source, preprocess, count=count, seed=seed)
    images = torch.from_numpy(sample.pixels)
    with progress_bar() as progress:
        task = progress.add_task(f"{spec.name} {method.name}")
        quantized = quantize(
            network,
            spec,
            images,
            bits=widths,
            method=method,
            attention=None if attention is Attention.method else attention.value,
            seed=seed,
            preprocess=preprocess.to_json(),
            calibration_sha256=sample.source.sha256,
            work=work,
            device=device,
            report=lambda doing, done, total: progress.update(
                task, description=f"{spec.name} {method.name}: {doing}", completed=done, total=total
            ),
        )
    quantized.provenance = dataclasses.replace(quantized.provenance, classes=names)
    calibrated = time.monotonic()
    with console.status("exporting to ONNX"):
        model = at_opset(canonical_onnx(quantized, tuple(images.shape[1:])), opset)  # type: ignore[arg-type]
    exported = time.monotonic()
    with console.status("comparing codes with ONNX Runtime"):
        agreement = compare_export(quantized, model, images[:PROOF_IMAGES])
    worst = agreement.worst
    if failing := agreement.failing:
        raise ValidationFailed(
            f"{failing[0].site}: {failing[0].unexplained} of its {failing[0].codes} codes in ONNX Runtime differ from "
            f"PyTorch's by more than ties in rounding, expected none ({len(failing)} sites differ); nothing was "
            "written, please report this model"
        )
    with contextlib.ExitStack() as outputs:  # both files, or none
        if save_quantized is not None:
            quantized_file.write(quantized, outputs.enter_context(atomic_output(save_quantized)))
        write_canonical(model, output)
    work.finish()
    return {
        "output": str(output),
        "model": spec.name,
        "bits": str(widths),
        "preset": widths.preset,
        "method": method.name,
        "attention": quantized.softmax,
        "device": str(device),
        "calibration_images": len(images),
        "preprocess": preprocess.to_json(),
        "bytes": output.stat().st_size,
        "oldest_onnxruntime": oldest_onnxruntime(model),
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
