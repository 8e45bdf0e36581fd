"""What every command shares: options of the same name, errors as one line, results on stdout, the rest on stderr."""

from __future__ import annotations

import functools
import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from repq_deploy import __version__
from repq_deploy.errors import BadInput, RepqError

if TYPE_CHECKING:
    from repq_deploy.checkpoints import CheckpointFile

__all__ = [
    "CalibData",
    "Checkpoint",
    "CheckpointPrefix",
    "Device",
    "DryRun",
    "Ema",
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
    "entry_point",
    "hardware_note",
    "progress_bar",
    "refuse_other_options",
    "say_calibration",
    "say_note",
    "say_weights",
    "set_up",
    "show",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every step, and tracebacks of user errors.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no log: only results and errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and stop.")]

Device = Annotated[
    str, typer.Option("--device", help="Where PyTorch computes: cpu, cuda, cuda:1, or auto, a GPU where one is here.")
]

# Of the commands that start from a timm model.
Model = Annotated[str, typer.Argument(help="deit_s, swin_t, ..., any timm id of these families, or demo.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Your weights: a safetensors file, or one of torch.save with tensors only.")
]
Ema = Annotated[
    bool, typer.Option("--ema/--no-ema", help="Of a checkpoint with averaged weights beside the last ones, take them.")
]
CheckpointPrefix = Annotated[
    str | None, typer.Option(help="Take the weights whose names begin with this, and take it off.")
]
NumClasses = Annotated[int | None, typer.Option(help="Classes of the checkpoint.")]
ImgSize = Annotated[int | None, typer.Option(help="Image height and width in pixels.")]
Pretrained = Annotated[
    bool, typer.Option("--pretrained/--no-pretrained", help="timm's weights, or random ones for structural work.")
]
CalibData = Annotated[
    str | None, typer.Option(help="Calibration images: a folder, flat or one folder a class, or an .npz.")
]

#: Between two lines of progress where there is no terminal for a bar.
SECONDS_A_LINE = 30.0

#: People read stderr; stdout is for data.
console = Console(stderr=True, highlight=False)


def set_up(*, verbose: bool, quiet: bool) -> None:
    """Set the log level from ``-v`` and ``-q``; ``-q`` silences the console too."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("repq_deploy").setLevel(level)
    console.quiet = quiet


class _Progress(Progress):
    """A bar on a terminal; elsewhere, as in a log of hours, a line now and then."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=console, disable=console.quiet or not console.is_terminal)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        if not console.is_terminal and time.monotonic() - self._said >= SECONDS_A_LINE:
            self._said = time.monotonic()
            task = next(task for task in self.tasks if task.id == task_id)
            console.print(f"{task.description} {task.completed:g}/{task.total:g}", soft_wrap=True)


def progress_bar() -> Progress:
    """A progress bar on stderr: silent under ``-q``, lines where stderr is not a terminal."""
    return _Progress()


def hardware_note(bits: str) -> str:
    """What fewer than 8 activation bits mean on hardware, as a line of its own; empty where none has fewer.

    ``bits`` is of the form ``w4a4,head=w8a8``.
    """
    if all(site.endswith("a8") for site in filter(None, bits.split(","))):
        return ""
    return "note: activations below 8 bits run on the INT8 grid: they buy accuracy studies and size, not speed\n"


def show(result: dict[str, Any], *, as_json: bool, text: Callable[[], None]) -> None:
    """End a command: ``result`` as JSON on stdout under ``--json``, otherwise what ``text`` prints."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        text()


def entry_point(function: Callable[..., None], name: str) -> Callable[[], None]:
    """Make the console script ``name`` of a typer function.

    Exit codes: 0 success, 1 validation or build failed, 2 usage or bad input, 3 backend or device missing,
    130 interrupted.
    """

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> None:
        _refuse_empty(options)
        try:
            function(*arguments, **options)
        except KeyboardInterrupt:
            sys.stderr.write(f"{name}: interrupted; what was finished is kept, nothing is half written\n")
            raise typer.Exit(130) from None

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)

    def main() -> None:
        # What stops a container: end as any error does, so that unfinished files and child processes go.
        stopped: list[int] = []

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            sys.exit(128 + number)

        signal.signal(signal.SIGTERM, stop)
        if sys.argv[1:] == ["--version"]:
            sys.stdout.write(f"{name} {__version__}\n")
            return
        try:
            app(prog_name=name)
        except RepqError as error:
            if logging.getLogger("repq_deploy").isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            sys.stderr.write(f"{name}: error: {error}\n")
            sys.exit(error.exit_code)
        except BaseException:
            if stopped:  # what was interrupted may have made another error of it, as torch's exporter does
                sys.exit(128 + stopped[0])
            raise

    main.__doc__ = function.__doc__
    return main


def _refuse_empty(options: Mapping[str, Any]) -> None:
    """A value of nothing, as a variable that a script did not set gives it, is no way to ask for the default."""
    for name, value in options.items():
        if value == "":
            raise BadInput(f"--{name.replace('_', '-')}: is empty; give a value, or leave it out for the default")


def refuse_other_options(context: typer.Context, beside: str, allowed: Collection[str]) -> None:
    """Refuse every option given on the command line that has no effect beside the option ``beside``."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE" and option.name not in allowed:
            raise BadInput(f"{option.opts[-1]}: has no effect beside {beside}; leave one of them out")


def checkpoint_file(checkpoint: Path | None, ema: bool, prefix: str | None) -> CheckpointFile | None:
    """What ``--checkpoint``, ``--no-ema`` and ``--checkpoint-prefix`` say together; None without a checkpoint."""
    from repq_deploy.checkpoints import CheckpointFile

    if checkpoint is None:
        if prefix or not ema:
            raise BadInput("--no-ema and --checkpoint-prefix are about a checkpoint; give --checkpoint FILE")
        return None
    return CheckpointFile(checkpoint, ema, prefix or "")


def say_note(text: str) -> None:
    """Say what was done with an input that the user did not ask for."""
    console.print(f"note: {text}", soft_wrap=True, markup=False)


def say_calibration(calib_data: str | None, weights: str) -> str:
    """The calibration images to use; says it loudly where none were given and the model was trained on others."""
    if calib_data is None and weights not in ("demo", "random"):
        console.print(
            "[bold yellow]calibrating on the embedded Fashion-MNIST images[/]: accuracy will suffer; "
            "give --calib-data a folder of images like those the model will see"
        )
    return calib_data or "demo:calib"


def say_weights(name: str, weights: str) -> None:
    """Say it loudly where a model's weights are random."""
    if weights == "random":
        console.print(f"[bold red]RANDOM WEIGHTS[/]: {name} is untrained; use the result for structural work only")
