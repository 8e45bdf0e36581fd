"""Writing files so that a killed process or a full disk leaves the old file or none, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError

from repq_deploy.errors import BadInput
from repq_deploy.records import parse_json
from repq_deploy.system.leftovers import temporary_file
from repq_deploy.system.memory import check_memory

__all__ = [
    "atomic_output",
    "check_writable",
    "existing_file",
    "kind_of",
    "read_arrays",
    "read_kept",
    "sha256_of",
    "shortened",
    "write_atomically",
]


#: What is larger than the first and unpacks to more than this many times its size is no array of images.
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100


def existing_file(path: Path, what: str) -> Path:
    """``path``, if it is a file; otherwise the error that names it. ``what`` is for the reader: "checkpoint"."""
    found = kind_of(path, what)
    if found is None:
        raise BadInput(f"{what} {path}: no such file; check the path")
    if found != "file":
        raise BadInput(f"{what} {path}: expected a file, found a folder or device")
    return path


def kind_of(path: Path, what: str) -> Literal["file", "folder", "other"] | None:
    """What is at ``path``, through links; None where nothing is. ``what`` is for the reader: "checkpoint".

    Raises:
        BadInput: it cannot be known: a name too long, or a folder on the way that may not be entered.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BadInput(f"{what} {shortened(path)}: {getattr(error, 'strerror', None) or error}") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def shortened(path: Path | str) -> str:
    """A name for a message, of at most 200 characters."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-80:]}"


def read_arrays(path: Path, what: str, *, advice: str = "check the file") -> dict[str, np.ndarray]:
    """Every array of an .npz file by name; of an .npy file the one, named "". Nothing in it is run.

    Raises:
        BadInput: no such file, or not such a file. ``what`` is for the reader: "reference".
    """
    existing_file(path, what)
    try:
        packed, unpacked = _sizes(path)
        # Pictures shrink to a third at best, arrays of few values to a twentieth.
        if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * packed:
            raise BadInput(
                f"{what} {path}: {packed / 1e6:.0f} MB unpack to {unpacked / 1e6:.0f} MB, which no images do"
            )
        check_memory(2 * unpacked, f"{what} {path}", "use fewer images, or a folder, which is read image by image")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except BadInput:
        raise
    except Exception as error:  # a damaged file meets zip, zlib and a parser of Python literals, each with its own
        raise BadInput(f"{what} {path}: not a readable .npz or .npy file of numbers ({error}); {advice}") from error


def _sizes(path: Path) -> tuple[int, int]:
    """The bytes of a file of arrays, and of what is in it."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return size, size
    with zipfile.ZipFile(path) as archive:
        return size, sum(entry.file_size for entry in archive.infolist())


def check_writable(path: Path) -> None:
    """Refuse early, before hours of work, an output that could not be written at the end."""
    parent = path.parent
    found = kind_of(path, "output")
    if found == "folder":
        raise BadInput(f"output {path}: is a folder; name a file")
    if found == "other":
        raise BadInput(f"output {path}: is a device or pipe, which cannot be replaced in one step; name a file")
    if kind_of(parent, "folder of the output") != "folder":
        raise BadInput(f"output {path}: folder {parent} does not exist; create it first")
    try:
        with temporary_file(parent):
            pass
    except OSError as error:
        raise BadInput(f"output {path}: cannot write into {parent}: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes ``path``'s place, on any failure it is removed."""
    try:
        with temporary_file(path.parent) as temporary:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    except OSError as error:
        raise BadInput(f"output {shortened(path)}: {error.strerror or error}; nothing was written") from error
    except SafetensorError as error:  # what its writer makes of a full disk
        raise BadInput(f"output {path}: {error}; nothing was written") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one step."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def read_kept(path: Path) -> Any:
    """The JSON that an earlier run kept; None where there is none, or none that can be read, to compute it again."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
