"""Names of models, and the threads that each worker gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from repq_deploy.engines.manifest import read_manifest
from repq_deploy.errors import BadInput
from repq_deploy.serve import settings
from repq_deploy.serve.settings import ServeSettings, engines_by_name, session_options


def test_engines_by_name():
    assert engines_by_name(
        ["a/deit_s.onnxruntime.engine", "second=b/deit_s.openvino.engine", "v1.5.tensorrt.engine"]
    ) == {
        "deit_s": Path("a/deit_s.onnxruntime.engine"),
        "second": Path("b/deit_s.openvino.engine"),
        "v1.5": Path("v1.5.tensorrt.engine"),
    }


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        (["a/x.onnxruntime.engine", "b/x.openvino.engine"], "two engines have this name"),
        (["a/b=x.engine"], "a name has letters"),
        (["=x.engine"], "a name has letters"),
        (["ü.onnxruntime.engine"], "a name has letters"),
    ],
)
def test_names_that_cannot_be(engines, message):
    with pytest.raises(BadInput, match=message):
        engines_by_name(engines)


def test_workers_share_the_cpus(engine, monkeypatch):
    monkeypatch.setattr(settings, "usable_cpus", lambda: tuple(range(8)))
    manifest = read_manifest(engine)
    asked = [(1, 0), (2, 0), (3, 0), (16, 0), (2, 3)]
    found = [session_options(manifest, ServeSettings(engines={}, workers=w, threads=t)) for w, t in asked]
    assert found == [{}, {"threads": "4"}, {"threads": "2"}, {"threads": "1"}, {"threads": "3"}]
