"""Where a model and its weights lie: in a file, in a folder of another library's model, or on the hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from repq_deploy.errors import BadInput
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.hub import HubError, Report, cache_alone, ensure_cached
from repq_deploy.models.libraries.folder import CONFIG, PROCESSOR, WEIGHTS, ModelFolder, files_of_index

__all__ = ["find_weights"]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?")


def find_weights(
    model: str,
    checkpoint: CheckpointFile | None = None,
    *,
    pretrained: bool = True,
    note: Callable[[str], None] = lambda text: None,
    report: Report = lambda done, total: None,
) -> CheckpointFile | ModelFolder | None:
    """What ``zoo.resolve`` and ``zoo.create`` take as the checkpoint of ``model``.

    A folder with a ``config.json`` is a model of Hugging Face's transformers, and so is ``org/name``, or
    ``hf:org/name``, on the hub, which is downloaded into the hub's cache unless that holds the newest version.

    Args:
        checkpoint: a file that the user named.
        pretrained: whether weights are needed, or a model's configuration alone.
        note: told where the hub is out of reach and its cache was taken.
        report: called during a download with the bytes that are there and those in all, 0 where these are not known.

    Raises:
        BadInput: a folder that is none of a model, a file beside it, or a model that cannot be downloaded.
    """
    hub_id = model.removeprefix("hf:")
    of_hub = model.startswith("hf:") or _HUB_ID.fullmatch(model) is not None
    folder = None if model.startswith("hf:") or not Path(model).is_dir() else Path(model)
    if folder is None and not of_hub:
        return checkpoint
    if checkpoint is not None:
        raise BadInput(f"model {model}: has its own weights; leave out --checkpoint {checkpoint.path}")
    if folder is not None:
        if not (folder / CONFIG).is_file():
            raise BadInput(f"model {model}: no {CONFIG} in that folder; expected one of Hugging Face's transformers")
        return ModelFolder(folder, folder.resolve().name)
    if _HUB_ID.fullmatch(hub_id) is None:
        raise BadInput(f"model {model[:80]}: expected hf:org/name")
    return ModelFolder(_downloaded(hub_id, pretrained, note, report), hub_id)


def _downloaded(hub_id: str, pretrained: bool, note: Callable[[str], None], report: Report) -> Path:
    """The folder of the hub's cache with the files of a model."""
    with contextlib.ExitStack() as stack:

        def noted(text: str) -> None:
            note(text)
            stack.enter_context(cache_alone())  # the hub was waited for once

        def fetch(*names: str) -> Path:
            return ensure_cached(hub_id, names, report=report, note=noted)

        try:
            config = fetch(CONFIG)
            with contextlib.suppress(HubError):  # many have none
                fetch(PROCESSOR)
            found = [fetch(*WEIGHTS)] if pretrained else []
            if found and found[0].suffix == ".json":
                found += [fetch(name) for name in files_of_index(found[0])]
        except HubError as error:
            advice = f"; {error.advice}" if error.advice else ""
            raise BadInput(f"model {hub_id}: cannot be downloaded ({error}){advice}") from error
    if any(file.parent != config.parent for file in found):
        raise BadInput(f"model {hub_id}: the cache holds its files of different versions; download it again")
    return config.parent
