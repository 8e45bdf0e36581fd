"""The reference of an engine as one batch of named tensors, in the files that Polygraphy and ``trtexec`` read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.reference import Reference
from repq_deploy.exchange.polygraphy import inputs_json, outputs_json
from repq_deploy.export.names import INPUT
from repq_deploy.outputs import Outputs

__all__ = [
    "INPUTS_JSON",
    "OUTPUTS_JSON",
    "ReferenceTensors",
    "raw_file",
    "reference_tensors",
    "tensor_file_names",
    "tensor_files",
]

INPUTS_JSON, OUTPUTS_JSON = "inputs.json", "outputs.json"
#: What Polygraphy's table calls the runner that computed the outputs.
_RUNNER = "repq-deploy"


@dataclass(frozen=True)
class ReferenceTensors:
    """``images``, the one input, and ``outputs`` by name, all of one batch."""

    images: NDArray[Any]
    outputs: Mapping[str, NDArray[np.float32]]

    @property
    def batch(self) -> int:
        return len(self.images)


def reference_tensors(reference: Reference, named: Outputs, profile: Profile) -> ReferenceTensors:
    """The images of ``reference`` as one batch that ``profile`` allows: as many as fit, the last one repeated where
    that is too few. An output of one number is [N, 1], as the engine gives it."""
    count = min(max(len(reference.images), profile.min), profile.max)
    rows = np.minimum(np.arange(count), len(reference.images) - 1)
    return ReferenceTensors(reference.images[rows], named.named(reference.logits[rows]))


def tensor_files(tensors: ReferenceTensors) -> dict[str, bytes]:
    """The files of ``tensors`` by name.

    ``trtexec`` reads each tensor's bytes, in C order and the machine's byte order: ``NAME.bin``. Polygraphy reads
    ``inputs.json`` and ``outputs.json``, which is the last and tells that we wrote them.
    """
    return {
        raw_file(INPUT): tensors.images.tobytes(),
        **{raw_file(name): values.tobytes() for name, values in tensors.outputs.items()},
        INPUTS_JSON: inputs_json({INPUT: tensors.images}).encode(),
        OUTPUTS_JSON: outputs_json(tensors.outputs, runner=_RUNNER).encode(),
    }


def tensor_file_names(outputs: Iterable[str]) -> tuple[str, ...]:
    """The names of ``tensor_files`` of outputs so called."""
    return (raw_file(INPUT), *map(raw_file, outputs), INPUTS_JSON, OUTPUTS_JSON)


def raw_file(name: str) -> str:
    """The file of a tensor's bytes; its name holds nothing that ``trtexec`` or a shell takes for its own."""
    return re.sub(r"[^\w.-]", "_", name) + ".bin"
