"""Where a model's weights are, and progress while they are read or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from repq_deploy.cli.common import progress_bar, say_note

if TYPE_CHECKING:
    from repq_deploy.models.checkpoints import CheckpointFile
    from repq_deploy.models.libraries.folder import ModelFolder

__all__ = ["find_weights", "getting_weights"]


def find_weights(
    model: str, checkpoint: CheckpointFile | None, pretrained: bool
) -> CheckpointFile | ModelFolder | None:
    """What ``zoo.resolve`` takes as the checkpoint of ``model``: a file, or the folder of a model, downloaded first."""
    from repq_deploy.models.libraries import sources

    with getting_weights() as report:
        return sources.find_weights(model, checkpoint, pretrained=pretrained, note=say_note, report=report)


@contextmanager
def getting_weights() -> Iterator[Callable[[int, int], None]]:
    """A bar for the block; it gives the ``report`` of ``zoo.create``, which turns the bar into one of megabytes."""
    with progress_bar() as progress:
        task = progress.add_task("getting the weights", total=None)

        def report(done: int, total: int) -> None:
            progress.update(
                task,
                description="downloading the weights, MB",
                completed=round(done / 1e6, 1),
                total=round((total or done) / 1e6, 1),
            )

        yield report
