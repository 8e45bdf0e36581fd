"""``repq-eval``: measures the accuracy of a model, an ONNX file or an engine, alone or against another one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.cli.common import (
    CheckpointPrefix,
    Classes,
    Device,
    DryRun,
    Ema,
    ImgSize,
    Json,
    Quiet,
    Seed,
    Verbose,
    checkpoint_file,
    image_size,
    progress_bar,
    set_up,
    show,
)
from repq_deploy.cli.entry import entry_point
from repq_deploy.cli.streams import say
from repq_deploy.errors import BadInput

if TYPE_CHECKING:
    from repq_deploy.calib_data import ImageSource
    from repq_deploy.evaluation import Evaluation, Target
    from repq_deploy.tasks import Task

__all__ = ["main", "ordered"]

#: Classes that are named in the text.
_WORST = 3


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            help="What to evaluate: an .engine, .onnx or .xml file, a .safetensors file that repq-export "
            "--save-quantized wrote, a model's name, or a served model: http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="The images: a folder with one folder per class, an .npz file, or demo. With --against, labels are "
            "optional; a served model with --against ENGINE or --reference needs none."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="A second target, which runs on the same images; the predictions are compared. A served model also "
            "has to reproduce an engine's reference."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="For a served model: the engine whose reference it has to reproduce, with the manifest and the "
            "reference beside it; it does not run. Default: --against, where that is an engine."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A file with your own weights, for a target that is a model's name.")
    ] = None,
    ema: Ema = True,
    checkpoint_prefix: CheckpointPrefix = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            help="The number of classes, for a target that is a model's name. Default: as many as the checkpoint's "
            "head has, otherwise timm's."
        ),
    ] = None,
    classes: Classes = None,
    img_size: ImgSize = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="For a target that is a model's name: use timm's pretrained weights, or random ones.",
        ),
    ] = True,
    preprocess_from: Annotated[
        str | None,
        typer.Option(
            help="A file that repq-deploy wrote (.engine, .onnx or .safetensors). Its preprocessing is used for a "
            "target that records none."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="The number of images that are evaluated at a time.")] = 32,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Evaluate only this many of the images, chosen at random.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the top-1 and top-5 accuracy of a target, with the preprocessing that the target records."""
    set_up(verbose=verbose, quiet=quiet)
    from repq_deploy.cli.serving.proof import failed, prove, record_for
    from repq_deploy.cli.targets import ModelOptions, is_model_name, open_target, recorded_preprocess, runs_in_torch
    from repq_deploy.evaluation import check_data

    names = [target] if against is None else [target, against]
    weights, size = checkpoint_file(checkpoint, ema, checkpoint_prefix), image_size(img_size)
    options = ModelOptions(weights, num_classes, size, pretrained)
    if options != ModelOptions() and not any(is_model_name(name) for name in names):
        raise BadInput(
            f"--checkpoint, --num-classes, --img-size and --no-pretrained are for a model's name; {target} is a file, "
            "which records them; leave them out"
        )
    where = None
    if any(runs_in_torch(name) for name in names):
        from repq_deploy.devices import find_device

        where = find_device(device)
    elif device != "auto":
        raise BadInput(f"--device {device}: is for targets that run in PyTorch; {target} runs where it was built for")
    record = record_for(target, reference, against)
    if data is None and record is None:
        raise BadInput(
            "--data: is missing; name the images to evaluate on, or, for a served model, an engine to hold it against "
            "with --against or --reference"
        )
    source = None if data is None else _images(data, limit, seed)
    preprocess = None if preprocess_from is None else recorded_preprocess(preprocess_from)
    manifest = None if record is None else record.manifest
    opened = [
        open_target(name, options, seed=seed, preprocess=preprocess, device=where, served=manifest) for name in names
    ]
    plan: dict[str, Any] = {"targets": [_description(each) for each in opened]}
    settings: dict[str, Any] = {}
    if source is not None:
        source, order = ordered(source, opened, classes)
        check_data(opened, source)
        settings = {"data": source.origin, "class_order": order, "limit": limit, "batch_size": batch_size, "seed": seed}
        plan |= settings | {"images": len(source)}
    if dry_run:
        show(plan, as_json=as_json, text=lambda: _print_plan(plan))
        return
    proof = None if record is None else prove(opened, record)
    measured = _description(opened[0]) if source is None else _measured(opened, source, batch_size)
    result = measured | settings | ({} if proof is None else {"proof": proof})
    show(result, as_json=as_json, text=lambda: _print_result(result, opened[0].task))
    if failed(proof):
        raise typer.Exit(1)


def _images(data: str, limit: int | None, seed: int) -> ImageSource:
    from repq_deploy.calib_data import open_images
    from repq_deploy.calib_data.images import choose

    source = open_images(data, demo_split="test")
    if limit is None or limit >= len(source):
        return source
    return source.select(sorted(choose(source, limit, seed)))


def _measured(opened: list[Target], source: ImageSource, batch_size: int) -> dict[str, Any]:
    from repq_deploy.evaluation import evaluate as run

    with progress_bar() as progress:
        task = progress.add_task(f"evaluating {' and '.join(each.name for each in opened)}", total=len(source))
        evaluation = run(
            opened[0],
            source,
            against=opened[1] if len(opened) > 1 else None,
            batch_size=batch_size,
            on_images=lambda done: progress.update(task, completed=done),
        )
    return _result(opened, evaluation)


def ordered(source: ImageSource, opened: list[Target], file: Path | None) -> tuple[ImageSource, str]:
    """Renumber the labels of ``source`` in the order of the targets' outputs; also say in words which order that is."""
    from repq_deploy.calib_data.classes import in_order_of, read_classes, warn_of_numbers

    recorded = [(each.name, each.class_names) for each in opened if each.class_names]
    if len({names for _, names in recorded}) > 1:
        raise BadInput(f"{recorded[0][0]} and {recorded[1][0]}: their outputs are of other classes")
    if file is not None:
        names = read_classes(file)
        if wrong := [each for each in opened if each.outputs != len(names)]:
            raise BadInput(f"--classes {file}: {len(names)} names, {wrong[0].name} has {wrong[0].outputs} classes")
        return in_order_of(source, names, f"--classes {file}"), f"of --classes {file}"
    if not source.class_names:
        return source, "none" if source.labels is None else "of the array's labels"
    if recorded:
        name, names = recorded[0]
        return in_order_of(source, names, name), f"recorded in {name}"
    warn_of_numbers(source)
    return source, "of the folders' names, as text"


def _description(target: Target) -> dict[str, Any]:
    return {"target": target.name, "kind": target.kind, "preprocess": asdict(target.preprocess)}


def _result(opened: list[Target], evaluation: Evaluation) -> dict[str, Any]:
    result = _description(opened[0]) | asdict(evaluation.target)
    if evaluation.against is None:
        return result
    return result | {
        "against": _description(opened[1]) | asdict(evaluation.against),
        "agreement": evaluation.agreement,
        "top1_difference": evaluation.top1_difference,
        "top1_difference_standard_error": evaluation.top1_difference_standard_error,
        "largest_difference": evaluation.largest_difference,
        "equal": evaluation.equal,
    }


def _print_plan(plan: dict[str, Any]) -> None:
    for each in plan["targets"]:
        say(f"{each['target']}: {each['kind']}, preprocessing {each['preprocess']}")
    what = "an engine's reference" if "data" not in plan else f"{plan['images']} images of {plan['data']}"
    say(f"would evaluate on {what}")


def _print_result(result: dict[str, Any], task: Task) -> None:
    from repq_deploy.cli.serving.proof import proof_lines

    if "proof" in result:
        say(*([] if "images" in result else [f"{result['target']}: {result['kind']}"]), *proof_lines(result["proof"]))
    if "images" not in result:
        return
    say(_line(result), *([f"order of classes: {result['class_order']}"] if task.decides else []))
    if worst := [one for one in result["classes"] if one["top1"] < 100][:_WORST]:
        each = ", ".join(f"{one['name']} {one['top1']:.1f} % of {one['images']}" for one in worst)
        say(f"least accurate classes: {each}")
    if "against" not in result:
        return
    say(_line(result["against"]))
    text = task.agreeing.format(result["agreement"])
    if result["top1_difference"] is not None:
        error = result["top1_difference_standard_error"]
        text += f"; top-1 difference {result['top1_difference']:+.2f} points (standard error {error:.2f}, paired)"
    if result["equal"]:
        text += "; all outputs equal to the bit"
    elif "proof" in result and result["largest_difference"] is not None:
        text += f"; outputs differ by up to {result['largest_difference']:.3g}"
    say(text)


def _line(figures: dict[str, Any]) -> str:
    text = f"{figures['target']}: {figures['kind']}"
    if figures["top1"] is not None:
        text += f", top-1 {figures['top1']:.2f} % (standard error {figures['top1_standard_error']:.2f})"
    if figures["top5"] is not None:
        text += f", top-5 {figures['top5']:.2f} %"
    return f"{text}, {figures['images']} images, {figures['images_per_second']:.1f} images/s"


main = entry_point(evaluate, "repq-eval")
