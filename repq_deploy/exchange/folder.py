"""A folder of files that belong together; the mark, which is written last, says that all are there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from repq_deploy.errors import BadInput
from repq_deploy.system.files import kind_of
from repq_deploy.system.outputs import check_outputs

__all__ = ["prepare_folder"]


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
