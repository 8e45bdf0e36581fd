"""The process that measures one model: ``python -m repq_deploy.engines.bench.worker REQUEST`` with a JSON request.

It prints one JSON object a line: the sides of an image; then for each batch size, in rising order, the milliseconds of
every run and the megabytes that the model has added to the process so far at their peak, null where the system tells
none; or an error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repq_deploy.engines.batching import THREADS
from repq_deploy.engines.foreign import open_plain
from repq_deploy.engines.manifest import read_manifest
from repq_deploy.engines.runner import open_like, open_runner
from repq_deploy.errors import BadInput, RepqError
from repq_deploy.inputs import ImageInput
from repq_deploy.system.children import end_with_parent
from repq_deploy.system.cpus import pin
from repq_deploy.system.memory import process_memory

__all__ = ["main", "timed"]

Run = Callable[[NDArray[Any]], Any]


def main(argv: list[str]) -> int:
    """Measure as ``argv[0]`` says; exit status 1 after an error line."""
    request = json.loads(argv[0])
    pin(request["cpus"])
    try:
        before = process_memory()
        run, form, only_batch = _open(Path(request["path"]), len(request["cpus"]), request["opened_like"])
        _say(sides=form.sides)
        for batch in request["batches"]:
            if only_batch not in (None, batch):
                raise BadInput(f"model {request['path']}: takes batches of {only_batch} only; use --batch {only_batch}")
            images = form.random(batch)
            milliseconds = timed(run, images, warmup=request["warmup"], seconds=request["seconds"])
            _say(batch=batch, milliseconds=milliseconds, memory_mb=_added_mb(before))
    except RepqError as error:
        _say(error=str(error), exit_code=error.exit_code)
        return 1
    return 0


def timed(run: Run, images: NDArray[Any], *, warmup: int, seconds: float) -> list[float]:
    """Milliseconds of single runs, after ``warmup`` ones that are not counted: for ``seconds``, but at least five."""
    for _ in range(warmup):
        run(images)
    found: list[float] = []
    started = time.perf_counter()
    while len(found) < 5 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run(images)
        found.append(1e3 * (time.perf_counter() - before))
    return found


def _open(path: Path, threads: int, opened_like: str | None) -> tuple[Run, ImageInput, int | None]:
    """What runs the model, what images it takes, and the one batch size it takes, if it is only one."""
    if opened_like is not None:
        like = read_manifest(Path(opened_like))
        return open_like(like, path, session={THREADS: str(threads)}), like.input, None
    if path.suffix == ".engine":
        runner, manifest = open_runner(path, session={THREADS: str(threads)})
        return runner, manifest.input, None
    model = open_plain(path, threads=threads)
    return model.run, model.input, model.batch


def _added_mb(before: tuple[int, int] | None) -> float | None:
    """How far this process has been above what was resident ``before``."""
    after = process_memory()
    return None if before is None or after is None else (after[1] - before[0]) / 1e6


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
