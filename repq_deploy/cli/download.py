"""Progress while a model's weights are read or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from repq_deploy.cli.common import progress_bar

__all__ = ["getting_weights"]


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
