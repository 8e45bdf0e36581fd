"""A backend is one file: with no other change it is built for, validated, opened, inspected and named in messages."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.cli import build_engine as build_command
from repq_deploy.cli import inspect
from repq_deploy.cli.targets import is_model_name
from repq_deploy.engines import backends
from repq_deploy.engines.backends import Backend, backend_named
from repq_deploy.engines.build import build_planned, make_reference, plan_build, validate_engine
from repq_deploy.engines.foreign import open_plain
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import SourceModel
from repq_deploy.errors import BadInput
from repq_deploy.inputs import ImageInput
from tests.engines.graphs import CLASSES, SIDE, oracle, write_tiny

TOY = Path(__file__).parents[1] / "engines" / "toy.py"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """The backend of ``toy.py``, added by the presence of that file alone."""
    folder = tmp_path / "backends"
    folder.mkdir()
    shutil.copy(TOY, folder / TOY.name)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(folder)])
    yield backend_named("toy")
    del sys.modules["repq_deploy.engines.backends.toy"], backends.toy  # type: ignore[attr-defined]


@pytest.fixture
def source(tmp_path: Path) -> SourceModel:
    return write_tiny(tmp_path, bits="w8a6", levels=31)


def test_it_is_built_for_and_validated(toy: Backend, source: SourceModel) -> None:
    plan = plan_build(source, toy, stem=source.path.with_suffix(""))
    built = build_planned(plan, make_reference(source, data=None, seed=0))
    assert built.engine.name == "tiny.toy.engine"
    assert built.manifest.validation.verdict == "PASSED", built.manifest.validation.reason
    assert (built.manifest.backend, built.manifest.oldest_runtime) == ("toy", "1.0")
    assert [one.name for one in built.manifest.passes] == ["UnpackInt4", "Log2PlainOps"]
    assert built.manifest.kernel_codes is not None
    assert built.manifest.kernel_codes.unexplained == 0
    assert validate_engine(built.engine) == built.manifest
    images = np.random.default_rng(0).normal(size=(9, 3, SIDE, SIDE)).astype(np.float32)
    np.testing.assert_allclose(open_engine(built.engine)[0](images), oracle(source.model, images), atol=1e-3)


def test_the_commands_take_it(toy: Backend, source: SourceModel, call: Callable[..., Any]) -> None:
    done = call(build_command.main, source.path, "--backend", toy.name, "--json")
    (entry,) = json.loads(done.out)["engines"]
    assert (entry["backend"], entry["verdict"]) == ("toy", "PASSED")
    shown = json.loads(call(inspect.main, entry["engine"], "--json").out)
    assert shown["product_kernels"] == {"numpy": 1}
    lowering = json.loads(call(inspect.main, source.path, "--passes", "toy", "--json").out)["lowering"]
    assert (lowering["precision"], [one["name"] for one in lowering["passes"]]) == (
        "fp32",
        ["UnpackInt4", "Log2PlainOps"],
    )
    refused = call(build_command.main, source.path, "--backend", "toy", "--compute", "fp8")
    assert "backend toy multiplies quantized operands in int8 only" in refused.err
    assert "tensorrt, tensorrt-rtx, toy" in call(build_command.main, source.path, "--backend", "tpu").err


def test_its_files_of_other_tools_are_opened(toy: Backend, source: SourceModel) -> None:
    path = shutil.copy(source.path, source.path.with_suffix(".toy"))
    model = open_plain(Path(path))
    assert (model.kind, model.runtime, model.input, model.outputs) == (
        "toy file",
        "toy",
        ImageInput((SIDE, SIDE)),
        CLASSES,
    )
    assert not is_model_name("m.toy")
    with pytest.raises(BadInput, match=r"\.onnx or \.xml or \.toy"):
        open_plain(Path(__file__))
