"""What a command will write, held against what it reads, before any work: no output is an input, or another output."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from repq_deploy.errors import BadInput
from repq_deploy.files import check_writable

__all__ = ["check_outputs"]

#: An option or argument, and the path that it names; None where it was not given.
Named = tuple[str, Path | str | None]


def check_outputs(outputs: Iterable[Named], inputs: Iterable[Named]) -> None:
    """Refuse outputs that cannot be written, or that are the same file as an input or as each other, through links.

    Raises:
        BadInput: it names both options.
    """
    taken = [(name, Path(path)) for name, path in inputs if path]
    for name, path in outputs:
        if not path:
            continue
        output = Path(path)
        for other, there in taken:
            if _same(output, there):
                raise BadInput(f"{name} {output}: is also {other} {there}, which would be lost; name another file")
        check_writable(output)
        taken.append((name, output))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
    except (OSError, RuntimeError, ValueError):  # a name that is no path: whoever reads it says so
        return False
