"""The errors a user can cause, each with the exit code that the commands return for it.

The commands print such an error as one line, and its traceback under -v; anything else is said to be a defect. The
message names what was found, what was expected, and what to do next.
"""

from __future__ import annotations

__all__ = ["BackendMissing", "BadInput", "BuildFailed", "RepqError", "ValidationFailed", "first_line", "one_line"]


class RepqError(Exception):
    """Base of every error that is the input's or the machine's, not the program's."""

    exit_code = 2


class BadInput(RepqError):
    """A file, an option or a model that cannot be used."""

    exit_code = 2


class ValidationFailed(RepqError):
    """What was built does not compute what it should."""

    exit_code = 1


class BuildFailed(RepqError):
    """The backend's builder refused the graph or crashed."""

    exit_code = 1


class BackendMissing(RepqError):
    """A backend's package, or the device it needs, is not on this machine."""

    exit_code = 3


def one_line(error: BaseException, most: int | None = None) -> str:
    """All that a library's error says, as one line, of at most ``most`` characters."""
    return " ".join(str(error).split())[:most]


def first_line(error: BaseException, most: int) -> str:
    """The first line of what a library's error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]
