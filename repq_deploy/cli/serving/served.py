"""Served models as targets of ``repq-eval``, like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.calib_data import Preprocess
from repq_deploy.engines.batching import Runner
from repq_deploy.engines.manifest import Manifest
from repq_deploy.errors import BadInput
from repq_deploy.evaluation import Target
from repq_deploy.export.names import INPUT_FORM, PREPROCESS, recorded_classes, recorded_input, recorded_task
from repq_deploy.inputs import ImageInput
from repq_deploy.outputs import Outputs, joined
from repq_deploy.remote.model import RemoteModel, TensorInfo, open_remote

__all__ = ["ServedTarget", "open_served"]

_DTYPES = {"FP32": "float32", "UINT8": "uint8"}
#: Images of one request, where the server names no largest batch.
_BATCH = 32


@dataclass(frozen=True)
class ServedTarget(Target):
    """A target whose ``predict`` asks a server; ``largest_batch`` images at a time."""

    largest_batch: int = _BATCH


def open_served(url: str, preprocess: Preprocess | None = None, manifest: Manifest | None = None) -> ServedTarget:
    """The served model at ``url``.

    What it takes and gives is the server's to say; its preprocessing, classes and task are the server's parameters, as
    ``repq-serve`` and our repositories for Triton have them, or else those of ``manifest``.

    Args:
        preprocess: what the caller names instead.

    Raises:
        BadInput: no server, no such model, tensors that are no images, or no preprocessing is known.
        BackendMissing: the client is not installed.
    """
    remote = open_remote(url)
    told = {**(manifest.metadata if manifest else {}), **remote.parameters}
    try:
        task, classes = recorded_task(told), recorded_classes(told)
        recorded = Preprocess.from_json(told[PREPROCESS]) if told.get(PREPROCESS) else None
    except (ValueError, BadInput) as error:
        raise BadInput(f"{url}: {error}") from error
    preprocess = preprocess or recorded
    if preprocess is None:
        raise BadInput(f"{url}: the server does not say its preprocessing; name a file that does: --preprocess-from")
    images = _images(url, remote.inputs, told, preprocess)
    outputs = _outputs(url, remote.outputs, manifest.named if manifest else None)
    largest = remote.largest_batch or _BATCH
    return ServedTarget(
        url,
        f"served model ({remote.address.scheme})",
        _runner(remote, outputs, largest),
        preprocess,
        outputs.numbers,
        classes,
        task,
        images,
        largest,
    )


def _runner(remote: RemoteModel, outputs: Outputs, largest: int) -> Runner:
    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        parts = [remote.infer(images[start : start + largest]) for start in range(0, len(images), largest)]
        rows = [joined([part[name].astype(np.float32, copy=False) for name in outputs.names]) for part in parts]
        return np.concatenate(rows)

    return run


def _images(url: str, inputs: tuple[TensorInfo, ...], told: Mapping[str, str], preprocess: Preprocess) -> ImageInput:
    """What the one input takes; sizes that the server leaves open are those of the preprocessing."""
    found = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs)
    expected = f"{url}: has the inputs {found}; expected one, images [batch, 3, H, W] in FP32, or in UINT8"
    if len(inputs) != 1 or inputs[0].datatype not in _DTYPES or len(inputs[0].shape) != 4:
        raise BadInput(expected)
    dtype, shape = _DTYPES[inputs[0].datatype], inputs[0].shape[1:]
    layout = "nhwc" if dtype == "uint8" and shape[-1] == 3 and shape[0] != 3 else "nchw"
    known = ImageInput(preprocess.size, dtype, layout).shape
    sizes = tuple(own if size < 0 else size for size, own in zip(shape, known, strict=True))
    try:
        return recorded_input(told, sizes) if INPUT_FORM in told else ImageInput.of_shape(sizes, dtype, layout)
    except (ValueError, BadInput) as error:
        raise BadInput(expected) from error


def _outputs(url: str, outputs: tuple[TensorInfo, ...], known: Outputs | None) -> Outputs:
    """The outputs, in the order of the engine where it is known."""
    found = {one.name: one.shape[1:] for one in outputs}
    if known is not None and known.shapes.keys() <= found.keys():
        return known
    if known is not None or any(size < 1 for shape in found.values() for size in shape):
        expected = "fixed sizes behind the batch" if known is None else ", ".join(known.names)
        raise BadInput(f"{url}: has the outputs {', '.join(f'{k} {list(v)}' for k, v in found.items())}; {expected}")
    return Outputs(found)
