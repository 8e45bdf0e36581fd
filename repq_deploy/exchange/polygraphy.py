"""Reference tensors as Polygraphy's JSON: what ``polygraphy run --load-inputs --load-outputs`` reads.

https://github.com/NVIDIA/TensorRT/tree/main/tools/Polygraphy

An array is an ``.npy`` file in base64; what each object is, its ``polygraphy_class`` says. It is written here, so that
only the machine that compares needs Polygraphy.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["inputs_json", "outputs_json"]

_CLASS = "polygraphy_class"


def inputs_json(tensors: Mapping[str, NDArray[Any]]) -> str:
    """One iteration of inputs by name, as ``--save-inputs`` writes it."""
    return json.dumps([{name: _array(values) for name, values in tensors.items()}], indent=1) + "\n"


def outputs_json(tensors: Mapping[str, NDArray[Any]], *, runner: str) -> str:
    """One iteration of outputs by name, computed by ``runner``, as ``--save-outputs`` writes it."""
    values = {name: {"values": _array(value), _CLASS: "LazyArray"} for name, value in tensors.items()}
    iteration = {"outputs": values, "runtime": None, "runner_name": runner, _CLASS: "IterationResult"}
    return json.dumps({"lst": [[runner, [iteration]]], _CLASS: "RunResults"}, indent=1) + "\n"


def _array(values: NDArray[Any]) -> dict[str, str]:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return {"array": base64.b64encode(buffer.getvalue()).decode(), _CLASS: "ndarray"}
