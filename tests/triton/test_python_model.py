"""``model.py`` of the Python backend, with a stand-in for the module that exists inside of Triton only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.build import BuiltEngine
from repq_deploy.engines.runner import open_runner
from repq_deploy.triton.python_model import TritonPythonModel
from repq_deploy.triton.repository import plan_repository, write_version
from tests.engines.graphs import SIDE, write_tiny


class TritonModelException(Exception):
    pass


class Tensor(SimpleNamespace):
    def as_numpy(self) -> Any:
        return self.array


def fake_utils() -> SimpleNamespace:
    return SimpleNamespace(
        Logger=SimpleNamespace(log_info=lambda _: None),
        TritonModelException=TritonModelException,
        TritonError=str,
        Tensor=lambda name, array: Tensor(name=name, array=array),
        InferenceResponse=lambda output_tensors=(), error=None: SimpleNamespace(outputs=output_tensors, error=error),
        get_input_tensor_by_name=lambda request, name: request[name],
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    return build_engine(write_tiny(tmp_path_factory.mktemp("built")).path, "onnxruntime")


@pytest.fixture
def version(built: BuiltEngine, tmp_path: Path) -> Path:
    profile = built.manifest.profile
    repository = plan_repository(tmp_path, built.engine, backend_named("onnxruntime"), profile, triton="python")
    return write_version(repository, built.engine, built.manifest)


def opened(version: Path, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake_utils())
    config = {"input": [{"name": "images"}], "output": [{"name": "logits"}], "parameters": {}}
    model = TritonPythonModel()
    arguments = {"model_repository": str(version.parent), "model_version": version.name}
    model.initialize({"model_config": json.dumps(config), **arguments})
    return model


def test_requests_are_one_batch_and_get_their_own_rows(built, version, monkeypatch):
    model = opened(version, monkeypatch)
    images = np.random.default_rng(1).standard_normal((6, 3, SIDE, SIDE), dtype=np.float32)
    runs = []
    session = model.session
    model.session = SimpleNamespace(run=lambda *args: runs.append(len(args[1]["images"])) or session.run(*args))
    broken = images[:1].copy()
    broken[0, 1, 2, 3] = np.nan
    parts = [images[:1], broken, images[1:4], images[4:]]
    responses = model.execute([{"images": Tensor(array=part)} for part in parts])
    assert runs == [6]
    assert responses[1].error == "the images hold NaN or infinite values"
    found = np.concatenate([responses[number].outputs[0].array for number in (0, 2, 3)])
    assert [responses[number].error for number in (0, 2, 3)] == [None] * 3
    runner, _ = open_runner(built.engine)
    assert found.tobytes() == runner(images).tobytes()
    assert [one.error for one in model.execute([{"images": Tensor(array=broken)}])] == [responses[1].error]


def test_it_is_not_ready_with_another_engine(version, monkeypatch):
    engine = version / "engine.onnx"
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(TritonModelException, match=r"is not what manifest\.json describes"):
        opened(version, monkeypatch)


def test_it_is_not_ready_where_the_reference_is_not_met(version, monkeypatch):
    with np.load(version / "reference.npz") as reference:
        arrays = dict(reference)
    np.savez(version / "reference.npz", **{**arrays, "logits": arrays["logits"][::-1]})
    with pytest.raises(TritonModelException, match=r"SQNR -?\d+\.\d dB is below 25\.0 dB"):
        opened(version, monkeypatch)
