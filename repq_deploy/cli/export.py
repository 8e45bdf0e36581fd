"""``repq-export``: a timm model and a folder of images become a canonical ONNX file."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.bits import PRESETS, BitWidths
from repq_deploy.cli.common import (
    CalibData,
    Checkpoint,
    CheckpointPrefix,
    Classes,
    Device,
    DryRun,
    Ema,
    Force,
    ImgSize,
    Json,
    Model,
    NumClasses,
    Pretrained,
    Quiet,
    Seed,
    Verbose,
    checkpoint_file,
    console,
    progress_bar,
    refuse_other_options,
    say_calibration,
    say_note,
    say_weights,
    set_up,
    show,
)
from repq_deploy.cli.efforts import Attention, Effort
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.export_float import check_count, write_float
from repq_deploy.cli.export_report import plan_of, print_float, print_plan, print_result
from repq_deploy.errors import BadInput, ValidationFailed
from repq_deploy.files import atomic_output
from repq_deploy.outputs import check_outputs
from repq_deploy.recipes import Recipe, load_recipe

if TYPE_CHECKING:
    from repq_deploy.checkpoints import CheckpointFile

__all__ = ["main"]

#: The options that say something about the float model.
_OF_FLOAT = (
    *("model", "output", "float_model", "checkpoint", "ema", "checkpoint_prefix"),
    *("num_classes", "classes", "img_size", "pretrained", "seed", "as_json", "force", "dry_run", "verbose", "quiet"),
)

#: Images that the proof runs on.
PROOF_IMAGES = 4


def export(
    context: typer.Context,
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    bits: Annotated[
        str | None, typer.Option(help="Bits, as in w6a6 or w4a4,head=w8a8; 2 to 8.", show_default="w8a8")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="best, erq, repquant, dopq, mixq, repq, or the baselines percentile and minmax.", show_default="best"
        ),
    ] = None,
    effort: Annotated[
        Effort, typer.Option(help="Of method best: fast calibrates only (minutes), high trains too (hours on a CPU).")
    ] = Effort.fast,
    preset: Annotated[
        str | None, typer.Option(help=f"What is quantized: {' or '.join(PRESETS)}.", show_default="deploy")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file with bits, preset, method or steps, as repq-search writes it.")
    ] = None,
    attention: Annotated[
        Attention,
        typer.Option(help="Quantizer of attention probabilities; float leaves attention's products in float."),
    ] = Attention.method,
    float_model: Annotated[
        bool,
        typer.Option(
            "--float",
            help="Write the float model instead, to compare with; nothing is calibrated. "
            "Over 2 GiB its weights go into a second file, OUTPUT.data.",
        ),
    ] = False,
    checkpoint: Checkpoint = None,
    ema: Ema = True,
    checkpoint_prefix: CheckpointPrefix = None,
    num_classes: NumClasses = None,
    classes: Classes = None,
    img_size: ImgSize = None,
    pretrained: Pretrained = True,
    calib_data: CalibData = None,
    num_calib: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many of them to use.",
            show_default="32; 128 for best, 1024 with effort high; 256 for dopq",
        ),
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep the calibration's state here; the same command goes on where it stopped.")
    ] = None,
    save_quantized: Annotated[
        Path | None, typer.Option(help="Also save the PyTorch model, as safetensors, for repq-eval.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    force: Force = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Calibrate a Vision Transformer and export it as ONNX with Q/DQ at the given bits."""
    set_up(verbose=verbose, quiet=quiet)
    if float_model:
        refuse_other_options(context, "--float", _OF_FLOAT)
    check_outputs(
        [("--output", output), ("--save-quantized", save_quantized)],
        [("--checkpoint", checkpoint), ("--recipe", recipe), ("--calib-data", calib_data), ("--classes", classes)],
        force=force,
    )
    said = Recipe() if recipe is None else load_recipe(recipe)
    widths = BitWidths.parse(bits or said.bits or "w8a8", preset=preset or said.preset or "deploy")
    # Torch takes seconds to import; a typing error should not.
    from repq_deploy import models
    from repq_deploy.calib_data import open_images
    from repq_deploy.calib_data.classes import read_classes
    from repq_deploy.cli.method_choice import choose_method
    from repq_deploy.devices import find_device

    try:
        chosen = choose_method(said, method, high=effort is Effort.high)
    except BadInput as error:
        raise (error if recipe is None else BadInput(f"recipe {recipe}: {error}")) from error
    where = find_device(device)
    weights = checkpoint_file(checkpoint, ema, checkpoint_prefix)
    spec = models.resolve(model, checkpoint=weights, num_classes=num_classes, img_size=img_size, pretrained=pretrained)
    names = () if classes is None else read_classes(classes)
    if float_model:
        written = write_float(spec, weights, output, seed, names, dry_run=dry_run)
        show(written, as_json=as_json, text=lambda: print_float(written))
        return
    if dry_run:
        if calib_data is not None:
            open_images(calib_data)
        plan = plan_of(spec, widths, chosen.name, output)
        show(plan, as_json=as_json, text=lambda: print_plan(plan))
        return
    result = _run(
        spec,
        widths,
        chosen,
        attention,
        weights,
        calib_data,
        num_calib,
        output,
        save_quantized,
        seed,
        work_dir,
        where,
        names,
    )
    show(result, as_json=as_json, text=lambda: print_result(result))


def _run(
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
) -> dict[str, Any]:
    import torch

    from repq_deploy import models
    from repq_deploy import quantized as quantized_file
    from repq_deploy.allocator import keep_freed_memory
    from repq_deploy.calib_data import Preprocess, load_sample, open_images
    from repq_deploy.calibrate import quantize
    from repq_deploy.export import canonical_onnx, compare_export, write_canonical
    from repq_deploy.work import WorkFolder

    say_weights(spec.name, spec.weights)
    started = time.monotonic()
    work = WorkFolder(work_dir)
    keep_freed_memory()
    with console.status("getting the weights"):
        network = models.create(spec, weights, seed, note=say_note)
    check_count(names, network)
    float_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    preprocess = Preprocess.from_model(network)
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
            attention=None if attention is Attention.method else attention.value,  # type: ignore[arg-type]
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
        model = canonical_onnx(quantized, tuple(images.shape[1:]))  # type: ignore[arg-type]
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
            quantized_file.save(quantized, outputs.enter_context(atomic_output(save_quantized)))
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


main = entry_point(export, "repq-export")
