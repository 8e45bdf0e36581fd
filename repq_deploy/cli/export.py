"""``repq-export``: a timm model and a folder of images become a canonical ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

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
    FeatureLayout,
    FeatureNorm,
    Features,
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
    feature_choice,
    image_size,
    refuse_other_options,
    set_up,
    show,
)
from repq_deploy.cli.download import find_weights
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.export_float import write_float
from repq_deploy.cli.export_run import plan_of, print_float, print_plan, print_result, run_export
from repq_deploy.cli.listing.models import list_models
from repq_deploy.errors import BadInput
from repq_deploy.inputs import layout_of
from repq_deploy.recipes import Recipe, load_recipe
from repq_deploy.system.outputs import check_outputs

__all__ = ["main"]

#: The options that have an effect beside --float.
_OF_FLOAT = (
    *("model", "output", "float_model", "checkpoint", "ema", "checkpoint_prefix"),
    *(
        "num_classes",
        "classes",
        "img_size",
        "pretrained",
        "features",
        "feature_layout",
        "feature_norm",
        "seed",
        "as_json",
        "image_input",
        "input_layout",
        "opset",
        "force",
        "dry_run",
        "verbose",
        "quiet",
    ),
)


def export(
    context: typer.Context,
    model: Annotated[str | None, *get_args(Model)[1:]] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The path of the ONNX file to write.", show_default="required")
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            help="The bits of weights (w) and activations (a), from 2 to 8: w6a6 for all, or with exceptions such as "
            "w4a4,head=w8a8.",
            show_default="w8a8",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="The quantization method: best, best-high (which takes more images and, if any bits are below 5, also "
            "trains the model, hours on a CPU), erq, repquant, dopq, mixq, repq, or a baseline, percentile or minmax.",
            show_default="best",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"The preset, {' or '.join(PRESETS)}. deploy keeps patch embedding and head at 8 bits and makes all "
            "weights symmetric; paper quantizes what the papers quantize.",
            show_default="deploy",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with bits, preset, method or steps, such as repq-search writes. Options of the command "
            "line win over it."
        ),
    ] = None,
    softmax: Annotated[
        str | None,
        typer.Option(
            help="The quantizer of attention probabilities: uniform, log2, log2_max (of each row's largest), "
            "log_sqrt2, adalog, tan, by_bits (uniform from 6 bits on, log2 below), by_site (the same, but log2_max "
            "behind RoPE), or float, which leaves both products of attention in float.",
            show_default="the method's own",
        ),
    ] = None,
    float_model: Annotated[
        bool,
        typer.Option(
            "--float",
            help="Write the float model, for comparison, and calibrate nothing. "
            "If it is over 2 GiB, its weights go into a second file, OUTPUT.data.",
        ),
    ] = False,
    checkpoint: Checkpoint = None,
    ema: Ema = True,
    checkpoint_prefix: CheckpointPrefix = None,
    num_classes: NumClasses = None,
    classes: Classes = None,
    img_size: ImgSize = None,
    pretrained: Pretrained = True,
    features: Features = None,
    feature_layout: FeatureLayout = "tokens",
    feature_norm: FeatureNorm = False,
    calib_data: CalibData = None,
    num_calib: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of calibration images to use.",
            show_default="32; 128 for best, 1024 for best-high, 256 for dopq",
        ),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            help="A folder that keeps the calibration's state, so that the same command resumes it if it was killed."
        ),
    ] = None,
    save_quantized: Annotated[
        Path | None,
        typer.Option(help="Also save the quantized PyTorch model to this safetensors file, for repq-eval."),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    image_input: Annotated[
        str,
        typer.Option(
            "--input",
            help="What images the model takes: float32, which are resized, cropped and normalized, or uint8, which are "
            "resized and cropped RGB images that the model normalizes itself.",
        ),
    ] = "float32",
    input_layout: Annotated[
        str | None,
        typer.Option(
            help="With --input uint8: the order of the axes, nhwc as image libraries have it, or nchw.",
            show_default="nhwc",
        ),
    ] = None,
    opset: Annotated[
        int,
        typer.Option(
            help="The opset of the ONNX file: 21, or 20 for ONNX Runtime 1.17, where all weights have more than 4 bits."
        ),
    ] = 21,
    force: Force = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    listing: Annotated[
        bool,
        typer.Option(
            "--list-models",
            help="Only list which of timm's architectures are supported, and what is exact for each. With MODEL, a "
            "pattern such as 'vit_small*', those whose names it matches.",
        ),
    ] = False,
) -> None:
    """Calibrate a Vision Transformer and export it, quantized to the given bits, as ONNX with Q/DQ nodes."""
    set_up(verbose=verbose, quiet=quiet)
    if listing:
        refuse_other_options(context, "--list-models", ("model", "listing", "as_json", "verbose", "quiet"))
        list_models(model or "*", as_json=as_json)
        return
    if model is None or output is None:
        missing = "argument 'MODEL'" if model is None else "option '-o'"
        raise BadInput(f"Missing {missing}; see {context.info_name} --help")
    if float_model:
        refuse_other_options(context, "--float", _OF_FLOAT)
    check_outputs(
        [("--output", output), ("--save-quantized", save_quantized)],
        [("--checkpoint", checkpoint), ("--recipe", recipe), ("--calib-data", calib_data), ("--classes", classes)],
        force=force,
    )
    if input_layout is not None and image_input != "uint8":
        raise BadInput(f"--input-layout {input_layout}: belongs to --input uint8; float32 images are nchw")
    layout = layout_of(image_input, input_layout)
    said = Recipe() if recipe is None else load_recipe(recipe)
    widths = BitWidths.parse(bits or said.bits or "w8a8", preset=preset or said.preset or "deploy")
    # Torch takes seconds to import; a typing error should not.
    from repq_deploy.calib_data import open_images
    from repq_deploy.calib_data.classes import read_classes
    from repq_deploy.devices import find_device
    from repq_deploy.export.opsets import check_opset
    from repq_deploy.methods.choice import choose_method
    from repq_deploy.models import zoo
    from repq_deploy.quant.softmax import check_softmax

    try:
        chosen = choose_method(said, method)
    except BadInput as error:
        raise (error if recipe is None else BadInput(f"recipe {recipe}: {error}")) from error
    if softmax is not None:
        check_softmax(softmax)
    where = find_device(device)
    weights = find_weights(model, checkpoint_file(checkpoint, ema, checkpoint_prefix), pretrained)
    size = image_size(img_size)
    spec = zoo.resolve(model, checkpoint=weights, num_classes=num_classes, img_size=size, pretrained=pretrained)
    if (choice := feature_choice(features, feature_layout, feature_norm)) is not None:
        spec = zoo.with_features(spec, choice)
    names = () if classes is None else read_classes(classes)
    check_opset(opset, 32 if float_model else widths.narrowest_weight)
    if float_model:
        written = write_float(
            spec, weights, output, seed, names, opset, input=image_input, layout=layout, dry_run=dry_run
        )
        show(written, as_json=as_json, text=lambda: print_float(written))
        return
    if dry_run:
        if calib_data not in (None, "synthetic"):
            open_images(calib_data)
        plan = plan_of(spec, widths, chosen, output) | {"input": f"{image_input} {layout}"}
        show(plan, as_json=as_json, text=lambda: print_plan(plan))
        return
    result = run_export(
        spec,
        weights,
        output,
        widths=widths,
        method=chosen,
        softmax=softmax,
        calib_data=calib_data,
        num_calib=num_calib,
        classes=names,
        input=image_input,
        layout=layout,
        opset=opset,
        save_quantized=save_quantized,
        work_dir=work_dir,
        seed=seed,
        device=where,
    )
    show(result, as_json=as_json, text=lambda: print_result(result))


main = entry_point(export, "repq-export")
