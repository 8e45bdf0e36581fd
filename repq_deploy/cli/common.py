"""What every command shares: options of the same name, results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repq_deploy.bits import MAX_BITS, smallest_activation_bits
from repq_deploy.cli.shell.progress import console, progress_bar
from repq_deploy.cli.streams import printable
from repq_deploy.errors import BadInput
from repq_deploy.system.files import shortened

if TYPE_CHECKING:
    from repq_deploy.models.checkpoints import CheckpointFile
    from repq_deploy.models.taps import Features as FeatureChoice

__all__ = [
    "CalibData",
    "Checkpoint",
    "CheckpointPrefix",
    "Classes",
    "Device",
    "DryRun",
    "Ema",
    "FeatureLayout",
    "FeatureNorm",
    "Features",
    "Force",
    "ImgSize",
    "Json",
    "Model",
    "NumClasses",
    "Pretrained",
    "Quiet",
    "Seed",
    "Verbose",
    "checkpoint_file",
    "console",
    "feature_choice",
    "hardware_note",
    "image_size",
    "progress_bar",
    "refuse_other_options",
    "say_calibration",
    "say_note",
    "say_weights",
    "set_up",
    "show",
]

Json = Annotated[bool, typer.Option("--json", help="Print the result on stdout as one JSON object, and nothing else.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="The seed for every random choice.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every step, and show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no log, only results and errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what the command would do, and stop there.")]

Device = Annotated[
    str,
    typer.Option("--device", help="The device PyTorch computes on: cpu, cuda, cuda:1 or auto (a GPU if there is one)."),
]

Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="A text file with the names of the model's outputs in order, one per line. It says which class folder "
        "belongs to which output. Default: the names that a file records; repq-export records those of the class "
        "folders in --calib-data, if the float model puts the images into them.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace existing output files even if repq-deploy did not write them.")
]

# Options of the commands that start from a timm model.
Model = Annotated[
    str,
    typer.Argument(
        help="The model: a short name such as deit_s or swin_t, any timm id of a supported family, demo (the small "
        "model in this package), or a model of Hugging Face's transformers: its folder, or org/name on the hub."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="A file with your own weights: safetensors, or one of torch.save that PyTorch can load with "
        "weights_only=True."
    ),
]
Ema = Annotated[
    bool,
    typer.Option(
        "--ema/--no-ema",
        help="If the checkpoint holds averaged (EMA) weights beside those of the last step, use the averaged ones.",
    ),
]
CheckpointPrefix = Annotated[
    str | None,
    typer.Option(help="Use only the checkpoint's weights whose names begin with this prefix, and remove the prefix."),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        help="The number of classes of the model. Default: as many as the checkpoint's head has, otherwise timm's."
    ),
]
ImgSize = Annotated[
    str | None,
    typer.Option(
        help="The size of the images in pixels: one number for both sides (384), or height and width (480x224). "
        "Default: the checkpoint's size, otherwise timm's."
    ),
]
Pretrained = Annotated[
    bool,
    typer.Option(
        "--pretrained/--no-pretrained",
        help="Without --checkpoint, use timm's pretrained weights, or random ones, which serve structural tests only.",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="Give features in place of logits: the tokens behind these blocks, such as 2,5,8,11, each as an output "
        "(features_2, ...). What stands behind the last of them is left out.",
    ),
]
FeatureLayout = Annotated[
    str,
    typer.Option(
        "--feature-layout",
        help="With --features: tokens [N, T, C], class token and its like first, or maps [N, C, h, w] of the patches.",
    ),
]
FeatureNorm = Annotated[
    bool, typer.Option("--feature-norm", help="With --features: apply the model's final norm to each of them.")
]
CalibData = Annotated[
    str | None,
    typer.Option(
        help="The calibration images: a folder, flat or with one folder per class, an .npz file, 'photos' for crops of "
        "the photographs in this package, or, for repq-export, 'synthetic' for images made from the model itself. "
        "Default: photos; for the demo model and random weights the demo's images."
    ),
]


class _OneLine(logging.Formatter):
    """A record is a line: names of files and tensors, which others chose, cannot make it two."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def set_up(*, verbose: bool, quiet: bool) -> None:
    """Set the log level from ``-v`` and ``-q``; ``-q`` silences the console too."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("repq_deploy").setLevel(level)
    console.quiet = quiet


def hardware_note(bits: str) -> list[str]:
    """What fewer than 8 activation bits mean on hardware, a line; none where all have 8.

    ``bits`` is of the form ``w4a4,head=w8a8``.
    """
    if smallest_activation_bits(bits) == MAX_BITS:
        return []
    return ["note: activations below 8 bits run on the INT8 grid: they buy accuracy studies and size, not speed"]


def show(result: dict[str, Any], *, as_json: bool, text: Callable[[], None]) -> None:
    """End a command: ``result`` as JSON on stdout under ``--json``, otherwise what ``text`` prints."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        text()


def refuse_other_options(context: typer.Context, beside: str, allowed: Collection[str]) -> None:
    """Refuse every option given on the command line that has no effect beside the option ``beside``."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE" and option.name not in allowed:
            raise BadInput(f"{option.opts[-1]}: has no effect beside {beside}; leave one of them out")


def checkpoint_file(checkpoint: Path | None, ema: bool, prefix: str | None) -> CheckpointFile | None:
    """What ``--checkpoint``, ``--no-ema`` and ``--checkpoint-prefix`` say together; None without a checkpoint."""
    if checkpoint is None:
        if prefix or not ema:
            raise BadInput("--no-ema and --checkpoint-prefix are about a checkpoint; give --checkpoint FILE")
        return None
    from repq_deploy.models.checkpoints import CheckpointFile

    return CheckpointFile(checkpoint, ema, prefix or "")


def image_size(text: str | None) -> int | tuple[int, int] | None:
    """Read ``--img-size``: one number for both sides, or height x width.

    Raises:
        BadInput: another form.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,8})(?:x([0-9]{1,8}))?", text.strip().lower())
    if match is None:
        raise BadInput(f"--img-size {shortened(text)!r}: expected pixels such as 384, or height and width as 480x224")
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def feature_choice(text: str | None, layout: str, norm: bool) -> FeatureChoice | None:
    """What ``--features`` and the two options about it say together; None without features.

    Raises:
        BadInput: no indexes of blocks in rising order, another layout, or an option about features without any.
    """
    if text is None:
        if layout != "tokens" or norm:
            raise BadInput("--feature-layout and --feature-norm are about features; give --features 2,5,8,11")
        return None
    from repq_deploy.models.taps import LAYOUTS, Features

    if layout not in LAYOUTS:
        raise BadInput(f"--feature-layout {shortened(layout)!r}: expected {' or '.join(LAYOUTS)}")
    if re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text.strip()) is None:
        raise BadInput(f"--features {shortened(text)!r}: expected indexes of blocks such as 2,5,8,11")
    try:
        return Features(tuple(map(int, text.split(","))), layout, norm)  # type: ignore[arg-type]
    except ValueError as error:
        raise BadInput(f"--features: {error}") from error


def say_note(text: str) -> None:
    """Say what was done with an input that the user did not ask for."""
    console.print(f"note: {printable(text)}", soft_wrap=True, markup=False)


def say_calibration(calib_data: str | None, name: str, weights: str) -> str:
    """The calibration images to use; says so where none were given and the model was trained on others."""
    if calib_data is not None:
        return calib_data
    if name == "demo" or weights == "random":
        return "demo:calib"
    console.print(
        "calibrating on crops of the photographs in this package: enough for 6 bits and more; below, give --calib-data "
        "a folder of images like those the model will see",
        soft_wrap=True,
    )
    return "photos"


def say_weights(name: str, weights: str) -> None:
    """Say it loudly where a model's weights are random."""
    if weights == "random":
        console.print(f"[bold red]RANDOM WEIGHTS[/]: {name} is untrained; use the result for structural work only")
