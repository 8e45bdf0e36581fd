"""``repq-export --list-models``: the architectures that are supported, and which rewrites are exact for each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from repq_deploy.cli.common import progress_bar, show
from repq_deploy.cli.streams import say
from repq_deploy.errors import BadInput

if TYPE_CHECKING:
    from repq_deploy.models.libraries.listing import Listed

__all__ = ["list_models"]


def list_models(pattern: str, *, as_json: bool) -> None:
    """Print what is supported of the architectures whose names ``pattern`` matches; as JSON the others too.

    Raises:
        BadInput: it matches none.
    """
    from repq_deploy.models.libraries.listing import FOLDS, look_at, matching

    names = matching(pattern)
    if not names:
        raise BadInput(f"--list-models {pattern[:80]}: matches none of timm's architectures of the supported families")
    with progress_bar() as progress:
        task = progress.add_task("looking at architectures", total=len(names))
        found = []
        for one in look_at(names):
            found.append(one)
            progress.update(task, completed=len(found))
    show({"folds": FOLDS, "models": [asdict(one) for one in found]}, as_json=as_json, text=lambda: _print(found))


def _print(found: list[Listed]) -> None:
    from repq_deploy.models.libraries.hf import MODEL_TYPES
    from repq_deploy.models.libraries.listing import FOLDS

    supported = [one for one in found if not one.reason]
    rows = [("model", "family", *FOLDS), *((one.name, one.family, *one.folds.values()) for one in supported)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    say(
        *("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        *(f"not supported: {one.name}: {one.reason}" for one in found if one.reason),
        f"{len(supported)} of {len(found)} architectures are supported; what is exact in all, some or none of a model:",
        *(f"  {name}: {meaning}" for name, meaning in FOLDS.items()),
        f"also folders and hub ids of Hugging Face's transformers: {', '.join(MODEL_TYPES)}",
    )
