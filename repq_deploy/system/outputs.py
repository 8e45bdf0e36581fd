"""What a command will write, held against what is there, before any work.

No output is an input, or another output. A file that this tool did not write is not replaced unless it is told to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from repq_deploy.errors import BadInput
from repq_deploy.system.files import check_writable, kind_of

__all__ = ["check_outputs"]

#: An option or argument, and the path that it names; None where it was not given.
Named = tuple[str, Path | str | None]


#: What each kind of file that we write has near its beginning or its end: metadata, a record, an archive's directory.
_MARKS = (b"repq.", b'"repq', b"repq-", b"source_sha256")
_LOOKED_AT = 2**18


def check_outputs(outputs: Iterable[Named], inputs: Iterable[Named], *, force: bool = False) -> None:
    """Refuse outputs that cannot be written, or that are the same file as an input or as each other, through links.

    Args:
        force: replace files that this tool did not write.

    Raises:
        BadInput: it names the option, or both.
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
        if not force and not _is_ours(output):
            raise BadInput(f"{name} {output}: is there, and not of repq-deploy; name another file, or --force")
        taken.append((name, output))


def _is_ours(path: Path) -> bool:
    """Whether nothing would be lost at ``path`` that we could not make again."""
    if kind_of(path, "output") is None or path.stat().st_size == 0:
        return True
    # Weights beside a model, and an engine whose format is not ours to mark, belong to the file that names them.
    named_by = {".data": path.with_suffix(""), ".engine": path.with_suffix(".json")}.get(path.suffix)
    return _has_mark(path) or (named_by is not None and kind_of(named_by, "output") == "file" and _has_mark(named_by))


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            looked_at = stream.read(_LOOKED_AT)
            stream.seek(max(stream.seek(0, os.SEEK_END) - _LOOKED_AT, 0))
            looked_at += stream.read()
    except OSError as error:
        raise BadInput(f"output {path}: cannot be read, so whose it is cannot be told: {error.strerror}") from error
    return any(mark in looked_at for mark in _MARKS)


def _same(one: Path, other: Path) -> bool:
    try:
        return _folded(one) == _folded(other) or (one.exists() and other.exists() and one.samefile(other))
    except (OSError, RuntimeError, ValueError):  # a name that is no path: whoever reads it says so
        return False


def _folded(path: Path) -> str:
    """The whole path as the system compares it: Windows, and macOS as it comes, take no notice of case."""
    name = os.path.normcase(path.resolve())
    return name.lower() if sys.platform == "darwin" else name
