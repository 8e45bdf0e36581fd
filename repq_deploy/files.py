"""Writing files so that a killed process or a full disk leaves the old file or none, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from repq_deploy.errors import BadInput

__all__ = [
    "atomic_output",
    "check_writable",
    "existing_file",
    "read_arrays",
    "read_kept",
    "sha256_of",
    "write_atomically",
]


def existing_file(path: Path, what: str) -> Path:
    """``path``, if it is a file; otherwise the error that names it. ``what`` is for the reader: "checkpoint"."""
    if not path.exists():
        raise BadInput(f"{what} {path}: no such file; check the path")
    if not path.is_file():
        raise BadInput(f"{what} {path}: expected a file, found a folder or device")
    return path


def read_arrays(path: Path, what: str, *, advice: str = "check the file") -> dict[str, np.ndarray]:
    """Every array of an .npz file by name; of an .npy file the one, named "". Nothing in it is run.

    Raises:
        BadInput: no such file, or not such a file. ``what`` is for the reader: "reference".
    """
    existing_file(path, what)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # a damaged file meets zip, zlib and a parser of Python literals, each with its own
        raise BadInput(f"{what} {path}: not a readable .npz or .npy file of numbers ({error}); {advice}") from error


def check_writable(path: Path) -> None:
    """Refuse early, before hours of work, an output that could not be written at the end."""
    parent = path.parent
    if path.is_dir():
        raise BadInput(f"output {path}: is a folder; name a file")
    if path.exists() and not path.is_file():
        raise BadInput(f"output {path}: is a device or pipe, which cannot be replaced in one step; name a file")
    if not parent.is_dir():
        raise BadInput(f"output {path}: folder {parent} does not exist; create it first")
    try:
        _temporary_beside(path).unlink()
    except OSError as error:
        raise BadInput(f"output {path}: cannot write into {parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes ``path``'s place, on any failure it is removed."""
    temporary = None
    try:
        temporary = _temporary_beside(path)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"output {path}: {error.strerror or error}; nothing was written") from error
    except SafetensorError as error:  # what its writer makes of a full disk
        raise BadInput(f"output {path}: {error}; nothing was written") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one step."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def read_kept(path: Path) -> Any:
    """The JSON that an earlier run kept; None where there is none, or none that can be read, to compute it again."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _temporary_beside(path: Path) -> Path:
    """A new, empty file in the folder of ``path``."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
