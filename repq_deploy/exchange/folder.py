"""A folder of files that belong together; the mark, which is written last, says that all are there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from repq_deploy.errors import BadInput
from repq_deploy.system.files import atomic_output, kind_of
from repq_deploy.system.outputs import check_outputs

__all__ = ["prepare_folder", "write_together"]


def prepare_folder(folder: Path, names: Iterable[str], *, mark: str, what: str, force: bool) -> None:
    """Check, before any work, that ``names`` can be written into ``folder``; nothing is made yet.

    Files of these names are replaced only beside a ``mark`` of ours, or by ``force``.

    Raises:
        BadInput: it names the folder, or a file in it that is not ours.
    """
    found = kind_of(folder, what)
    if found is None:
        parent = folder.absolute().parent
        if kind_of(parent, what) != "folder":
            raise BadInput(f"{what} {folder}: folder {parent} does not exist; create it first")
        return
    if found != "folder":
        raise BadInput(f"{what} {folder}: is not a folder; name another")
    ours = force or (folder / mark).is_file()
    for name in names:
        if not ours and (folder / name).exists():
            raise BadInput(f"{what} {folder / name}: is there, and not of repq-deploy; name another folder, or --force")
    check_outputs([(what, folder / mark)], [], force=force)


def write_together(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write ``files`` into ``folder``, which is made: all of them or, where one cannot be written, none.

    Raises:
        BadInput: the system refuses; it names the file.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"output {folder}: {error.strerror or error}; nothing was written") from error
    with contextlib.ExitStack() as outputs:
        # Left in reverse order: the last of them, the mark, takes its place last.
        for name, data in reversed(list(files.items())):
            outputs.enter_context(atomic_output(folder / name)).write_bytes(data)
    return tuple(folder / name for name in files)
