"""Temporary files and folders that no crash keeps for ever: the next run removes those whose process is gone.

Each is named ``repq-PID-...`` (a file with a dot before) and locked while its process works on it; what is locked, or
whose process is here, stays.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from repq_deploy.errors import BadInput
from repq_deploy.system.stopping import cleared

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing swept
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_room", "sweep", "temporary_file", "temporary_folder", "writing_temporarily"]

_NAMES = re.compile(r"\.?repq-([0-9]{1,10})-[a-z0-9_]+(?:\.part)?")


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A new, empty file in ``folder``, gone after the block unless it was moved.

    Raises:
        OSError: it cannot be made.
    """
    _sweep_once(folder)
    path = folder.absolute() / f".repq-{os.getpid()}-{secrets.token_hex(8)}.part"
    # Not by mkstemp: on Windows it takes a folder that denies writing for one where the name is taken, 2^31 times.
    handle: int | None = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    if fcntl is None and handle is not None:
        os.close(handle)  # an open file is neither replaced nor removed on Windows
        handle = None
    with _kept(handle, lambda: path.unlink(missing_ok=True)):
        yield path


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in ``parent``, or where temporary files go (``TMPDIR``), gone after the block unless it was moved.

    Raises:
        BadInput: it cannot be made where temporary files go.
        OSError: it cannot be made in ``parent``.
    """
    if parent is None:
        with writing_temporarily():
            path = _new_folder(Path(tempfile.gettempdir()))
    else:
        path = _new_folder(parent)
    handle = os.open(path, os.O_RDONLY) if fcntl is not None else None
    with _kept(handle, lambda: shutil.rmtree(path, ignore_errors=True)):
        yield path


def _new_folder(parent: Path) -> Path:
    _sweep_once(parent)
    return Path(tempfile.mkdtemp(prefix=f"repq-{os.getpid()}-", dir=parent))


@contextlib.contextmanager
def _kept(handle: int | None, clear: Callable[[], None]) -> Iterator[None]:
    """Lock what ``handle`` is of, if there is one, and call ``clear`` after the block."""
    try:
        with cleared(clear):
            if handle is not None:
                _lock(handle)
            yield
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def writing_temporarily() -> Iterator[None]:
    """Name the temporary folder, not an output, where writing to it fails.

    Raises:
        BadInput: on an OSError within the block.
    """
    try:
        yield
    except OSError as error:
        folder = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - what gettempdir, which raised, looked at
        with contextlib.suppress(OSError):
            folder = tempfile.gettempdir()
        room = "with more room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "that can be written to"
        raise BadInput(
            f"temporary folder {folder}: {error.strerror or error}; nothing was written, set TMPDIR to a folder {room}"
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Refuse to have a library write ``needed`` bytes into a temporary ``folder`` that has no room for them.

    Raises:
        BadInput: the library would say something else.
    """
    with writing_temporarily():
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sweep(folder: Path) -> None:
    """Remove from ``folder`` what processes that are gone left there; what cannot be removed stays."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            match = _NAMES.fullmatch(entry.name)
            if match is None or entry.is_symlink() or _is_running(int(match[1])):
                continue
            with contextlib.suppress(OSError):
                handle = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    _lock(handle)  # fails where a process that cannot be seen from here, in a container, has it
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    elif entry.is_file(follow_symlinks=False):
                        Path(entry.path).unlink()
                finally:
                    os.close(handle)


_sweep_once = functools.cache(sweep)


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
