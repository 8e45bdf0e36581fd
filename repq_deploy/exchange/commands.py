"""The command lines that compare an engine with the reference tensors, by Polygraphy and by ``trtexec``.

Both apply the limit that our own validation applies. Polygraphy's ``snr`` is the SQNR in dB. The ``l2`` of ``trtexec``
is the mean squared error, which an SQNR bounds once the reference is known; as it takes one limit for all outputs,
several outputs are compared by ``cos``, whose limit follows from the SQNR alone.
https://github.com/NVIDIA/TensorRT/tree/main/samples/trtexec
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.engines.batching import Profile
from repq_deploy.exchange.tensors import INPUTS_JSON, OUTPUTS_JSON, ReferenceTensors, raw_file
from repq_deploy.export.names import INPUT

__all__ = ["FIRST_TO_COMPARE", "polygraphy_run", "trtexec_build", "trtexec_compare", "trtexec_run"]

#: The first TensorRT whose ``trtexec`` has ``--loadRefOutputs``, and builds strongly typed networks alone.
FIRST_TO_COMPARE = (11, 0)
#: A limit is written with six digits, and must not be less than it is.
_ROUNDED_UP = 1 + 1e-5


def polygraphy_run(
    engine: Path, folder: Path, *, runner: str, kind: str, min_sqnr_db: float, setting: str | None = None
) -> str:
    """Run ``engine``, a file of Polygraphy's model type ``kind``, by its ``runner`` ("trt", "onnxrt") on the tensors in
    ``folder``, and compare. ``setting`` is an environment variable's, as in ``NAME=1``."""
    words: list[str | Path] = ["polygraphy", "run", engine, f"--{runner}", "--model-type", kind]
    words += ["--load-inputs", folder / INPUTS_JSON, "--load-outputs", folder / OUTPUTS_JSON]
    words += ["--compare", "snr", "--snr-threshold", f"{min_sqnr_db:.2f}"]
    return _line(words, setting=setting)


def trtexec_build(
    model: Path,
    engine: Path,
    *,
    image_shape: Sequence[int],
    profile: Profile,
    timing_cache: Path,
    version: tuple[int, int],
) -> str:
    """Build ``engine`` from ``model`` with TensorRT ``version``, types as the graph says."""
    words: list[str | Path] = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}"]
    words += ["--stronglyTyped"] * (version < FIRST_TO_COMPARE)
    batches = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    words += [f"--{which}Shapes={_shape(batch, image_shape)}" for which, batch in batches.items()]
    return _line([*words, "--noTF32", f"--timingCacheFile={timing_cache}", "--skipInference"])


def trtexec_run(engine: Path, folder: Path, tensors: ReferenceTensors) -> str:
    """Time ``engine`` on the reference images; what it computes is not looked at."""
    return _line(_on_images(engine, folder, tensors))


def trtexec_compare(engine: Path, folder: Path, tensors: ReferenceTensors, *, min_sqnr_db: float) -> str:
    """``trtexec_run``, and compare the outputs; since ``FIRST_TO_COMPARE``."""
    outputs = ",".join(f"{name}:{folder / raw_file(name)}" for name in tensors.outputs)
    algorithm, limit = _limit(tensors.outputs, min_sqnr_db)
    return _line(
        [
            *_on_images(engine, folder, tensors),
            f"--loadRefOutputs={outputs}",
            f"--accuracyAlgorithm={algorithm}",
            f"--accuracyThreshold={limit * _ROUNDED_UP:.6g}",
        ]
    )


def _on_images(engine: Path, folder: Path, tensors: ReferenceTensors) -> list[str | Path]:
    return [
        "trtexec",
        f"--loadEngine={engine}",
        f"--shapes={_shape(tensors.batch, tensors.images.shape[1:])}",
        f"--loadInputs={INPUT}:{folder / raw_file(INPUT)}",
    ]


def _limit(outputs: Mapping[str, NDArray[Any]], min_sqnr_db: float) -> tuple[str, float]:
    """The algorithm of ``trtexec``, and the loss that an engine of ``min_sqnr_db`` has at the most.

    With noise of r times the signal's power the mean squared error is r times the mean square, and the angle between
    the outputs has a sine of at most sqrt(r).
    """
    noise = 10 ** (-min_sqnr_db / 10)
    if len(outputs) > 1:
        return "cos", 1 - math.sqrt(1 - noise)
    (values,) = outputs.values()
    return "l2", noise * float(np.square(values, dtype=np.float64).mean())


def _shape(batch: int, image_shape: Sequence[int]) -> str:
    return f"{INPUT}:" + "x".join(map(str, (batch, *image_shape)))


def _line(words: Sequence[str | Path], *, setting: str | None = None) -> str:
    line = shlex.join(map(str, words))
    return line if setting is None else f"{setting} {line}"
