"""Any model of one image input, ours or not, in the runtime that opens files of its kind as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repq_deploy.engines.backends import ForeignFormat, all_backends
from repq_deploy.engines.batching import BatchedRunner, Profile, Runner
from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput
from repq_deploy.system.files import existing_file

__all__ = ["PlainModel", "foreign_formats", "open_plain"]


@dataclass(frozen=True)
class PlainModel:
    """``run`` computes the first output of images [N, ...] as ``input`` says, where N is ``batch`` if that is a number.

    ``kind`` is what such a file is called, and ``runtime`` the backend that runs it. ``outputs`` is the size of the
    output's last axis, None where the file does not fix it.
    """

    run: Callable[[NDArray[Any]], Any]
    kind: str
    runtime: str
    batch: int | None
    input: ImageInput
    outputs: int | None

    def runner(self) -> Runner:
        """The same for any number of images."""
        profile = Profile() if self.batch is None else Profile(self.batch, self.batch, self.batch)
        return BatchedRunner(self.run, profile, self.input)


def foreign_formats() -> dict[str, tuple[str, ForeignFormat]]:
    """What ``open_plain`` reads: by suffix, the backend that opens such files and how. One that is preferred wins."""
    found: dict[str, tuple[str, ForeignFormat]] = {}
    for backend in all_backends():
        if backend.foreign is not None:
            found.setdefault(backend.foreign.suffix, (backend.name, backend.foreign))
    return found


def open_plain(path: Path, *, threads: int | None = None) -> PlainModel:
    """Open ``path`` with its runtime's own optimizations; ``threads`` None leaves their number to the runtime.

    Raises:
        BadInput: no such file, another suffix, or inputs other than one of RGB images, of a fixed size.
        BackendMissing: its runtime is not installed.
        BuildFailed: its runtime refuses it.
    """
    existing_file(path, "model")
    formats = foreign_formats()
    if path.suffix not in formats:
        raise BadInput(f"model {path}: expected a file ending in {' or '.join(formats)}")
    runtime, form = formats[path.suffix]
    run, dtype, shape, output = form.open(path, threads=threads)
    batch, *image = shape
    sizes = [size for size in image if isinstance(size, int)]
    layout = "nhwc" if dtype == "uint8" and sizes[-1:] == [3] else "nchw"
    try:
        images = ImageInput.of_shape(sizes, dtype, layout)
    except ValueError as error:
        expected = "[batch, 3, H, W] in float32 or uint8, or uint8 [batch, H, W, 3], of a fixed size"
        raise BadInput(f"model {path}: input {dtype} {list(shape)}; expected RGB images {expected}") from error
    return PlainModel(
        run,
        form.kind,
        runtime,
        batch if isinstance(batch, int) else None,
        images,
        output[-1] if output and isinstance(output[-1], int) else None,
    )
