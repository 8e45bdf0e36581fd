"""What passes write does not depend on NumPy's default integer, which has 32 bits in NumPy 1 on Windows."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import numpy as np
import onnx
import pytest

from repq_deploy.export import passes
from tests.conftest import exported, lower_for


class Numpy:
    """NumPy with another default: what is not given a type has 32 bits where it would have 64."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name not in ("arange", "array", "asarray", "full"):
            return function

        def made(first: Any, *others: Any, **named: Any) -> np.ndarray:
            array = function(first, *others, **named)
            given = any(isinstance(one, type | np.dtype) for one in others) or "dtype" in named
            narrow = array.dtype == np.int64 and not given and not isinstance(first, np.ndarray)
            return array.astype(np.int32) if narrow else array

        return made


@pytest.mark.parametrize("bits", ["w4a4", "w8a8"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_files_are_the_same(monkeypatch, backend: str, bits: str) -> None:
    model = exported("swin", bits)

    def lowered() -> onnx.ModelProto:
        return lower_for(model, backend)[0]

    expected = lowered().SerializeToString(deterministic=True)
    for found in pkgutil.walk_packages(passes.__path__, f"{passes.__name__}."):
        module = importlib.import_module(found.name)
        if hasattr(module, "np"):
            monkeypatch.setattr(module, "np", Numpy())
    assert lowered().SerializeToString(deterministic=True) == expected
