"""Writing files so that a killed process or a full disk leaves the old file or none, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repq_deploy.errors import BadInput

__all__ = ["atomic_output", "check_writable", "existing_file", "sha256_of", "write_atomically"]


def existing_file(path: Path, what: str) -> Path:
    """``path``, if it is a file; otherwise the error that names it. ``what`` is for the reader: "checkpoint"."""
    if not path.exists():
        raise BadInput(f"{what} {path}: no such file; check the path")
    if not path.is_file():
        raise BadInput(f"{what} {path}: expected a file, found a folder or device")
    return path


def check_writable(path: Path) -> None:
    """Refuse early, before hours of work, an output that could not be written at the end."""
    parent = path.parent
    if path.is_dir():
        raise BadInput(f"output {path}: is a folder; name a file")
    if not parent.is_dir():
        raise BadInput(f"output {path}: folder {parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise BadInput(f"output {path}: cannot write into {parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes ``path``'s place, on any failure it is removed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"output {path}: {error.strerror or error}; nothing was written") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one step."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
