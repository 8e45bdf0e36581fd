"""What every command is run by: one line for an error, one way to stop, and an exit code that says how it ended.

0 success, 1 validation or build failed (or a defect of ours), 2 usage or bad input, 3 backend or device missing, 128
and the signal's number when stopped.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from repq_deploy import __version__
from repq_deploy.cli.common import console
from repq_deploy.cli.shell.completion import ASKED, answer, complete
from repq_deploy.cli.streams import StdoutFailed, guarded_streams, printable
from repq_deploy.errors import BadInput, RepqError, one_line
from repq_deploy.system.files import shortened
from repq_deploy.system.leftovers import sweep
from repq_deploy.system.stopping import ends_with_signals

__all__ = ["Command", "entry_point", "run"]

#: What typer raises for a wrong command line. Newer versions of it have their own copy of click.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_INTERRUPTED = "what was finished is kept, nothing is half written"

_VERSION_HELP = "Show the version of repq-deploy, and exit."

#: What only the extra ``export`` brings, for calibration, export and search.
_OF_EXPORT = ("torch", "timm", "torchvision", "onnxscript", "scipy")


class _Carried(Exception):
    """An error on its way through typer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@dataclass(frozen=True)
class Command:
    """A console script: called without arguments, it runs ``function`` with what the command line says, and exits.

    Attributes:
        name: what its messages begin with.
        function: takes the options; its docstring is what ``--help`` says first.
    """

    name: str
    function: Callable[..., None]

    def __call__(self, name: str | None = None) -> None:
        """Run the words of ``sys.argv`` as the command, which calls itself ``name``."""
        name = name or self.name
        if ASKED in os.environ:  # by a shell, for the next word
            answer(complete(self.parser().params, sys.argv[1:]))
            return

        def stopped(number: int) -> None:
            console.show_cursor()
            verb = "interrupted" if number == 2 else f"stopped by signal {number}"
            sys.stderr.write(f"{name}: {verb}; {_INTERRUPTED}\n")
            sys.stderr.flush()

        with ends_with_signals(stopped):
            code = _run(self.parser, name)
        sys.exit(code)

    def parser(self) -> Any:
        """The command as typer's object: its parameters are in ``params``, its words in ``help``."""
        function = self.function

        @functools.wraps(function)
        def command(*arguments: Any, **options: Any) -> None:
            options.pop("version")
            _check_values(options)
            try:
                function(*arguments, **options)
            except (OSError, KeyboardInterrupt) as error:  # typer would make exit codes of its own of them
                raise _Carried(error) from error

        def show_version(context: typer.Context, asked: bool) -> None:
            if asked:
                sys.stdout.write(f"{context.info_name} {__version__}\n")
                raise typer.Exit

        option = typer.Option("--version", is_eager=True, callback=show_version, help=_VERSION_HELP)
        signature = inspect.signature(function, eval_str=True)
        version = inspect.Parameter(
            "version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
        )
        command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), version])  # type: ignore[attr-defined]
        command.__annotations__ = {**function.__annotations__, "version": version.annotation}
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command()(command)
        return typer.main.get_command(app)


def entry_point(function: Callable[..., None], name: str) -> Command:
    """Make the console script ``name`` of a typer function."""
    return Command(name, function)


def run(function: Callable[[], int], name: str) -> int:
    """Run ``function`` so that whatever goes wrong is one line on stderr; the exit code."""
    try:
        with guarded_streams():
            try:
                return function()
            except _Carried as carried:
                raise carried.error from None
    except Exception as error:
        code, said = _explained(error, name)
        if logging.getLogger("repq_deploy").isEnabledFor(logging.DEBUG) and not isinstance(error, _UsageError):
            traceback.print_exc()
        with suppress(OSError):
            sys.stderr.write(f"{name}: error: {_cut(printable(said))}\n")
        return code
    except KeyboardInterrupt:  # raised by a library; a terminal's Ctrl-C is a signal
        sys.stderr.write(f"{name}: interrupted; {_INTERRUPTED}\n")
        return 130


def _run(parser: Callable[[], Any], name: str) -> int:
    def work() -> int:
        with suppress(OSError):  # no folder for temporary files: whoever needs one says so
            sweep(Path(tempfile.gettempdir()))
        return parser()(prog_name=name, standalone_mode=False) or 0

    return run(work, name)


def _explained(error: Exception, name: str) -> tuple[int, str]:
    """The exit code for an error, and the line that says what was wrong."""
    if isinstance(error, RepqError | StdoutFailed):
        return getattr(error, "exit_code", 2), str(error)
    if isinstance(error, _UsageError):
        return 2, f"{' '.join(error.format_message().split()).rstrip('.')}; see {name} --help"
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{shortened(str(error.filename))}: " if error.filename is not None else ""
        return 2, f"{where}{error.strerror}"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _OF_EXPORT:
        return 3, f"needs {error.name}, which is not installed; run: pip install 'repq-deploy[export]'"
    # torch and ONNX Runtime have no class of their own for it.
    if isinstance(error, MemoryError) or re.search("can't allocate memory|bad allocation", str(error)):
        return 2, "out of memory; use fewer images, a smaller batch or a smaller model"
    last = traceback.extract_tb(error.__traceback__)[-1]
    place, said = f"{Path(last.filename).name}:{last.lineno}", one_line(error, 200)
    return 1, (
        f"a defect of ours, or of a library under us: {type(error).__name__} in {place} ({said}); please report it, "
        "with what -v prints"
    )


def _cut(line: str) -> str:
    """A line of at most a thousand characters: what it quotes may be of any length."""
    return line if len(line) <= 1000 else f"{line[:600]} ... {line[-380:]}"


def _check_values(options: Mapping[str, Any]) -> None:
    """Refuse values of nothing, as a variable that a script did not set gives them: they are no way to ask for a
    default. Refuse control characters: they would reach terminals and logs with every message."""
    for option, value in options.items():
        text = str(value) if isinstance(value, str | Path) else "-"
        named = f"--{option.replace('_', '-')}"
        if not text:
            raise BadInput(f"{named}: is empty; give a value, or leave it out for the default")
        if any(not c.isprintable() and c.isascii() for c in text):
            raise BadInput(f"{named} {shortened(text)}: has control characters in it; name it without")
