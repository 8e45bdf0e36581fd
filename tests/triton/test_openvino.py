"""What Triton's OpenVINO backend does to the file before it compiles it: the engine's numbers stay the same.

Its steps, read off its source, by the same calls of OpenVINO: types and layout of the tensors, the batch fixed to
``max_batch_size``, properties from the parameters, and a smaller batch padded with zeros.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from repq_deploy.engines.api import BuildSettings, build_engine
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.runner import open_runner
from repq_deploy.triton.repository import plan_repository, write_version
from tests.conftest import exported, images_for

openvino = pytest.importorskip("openvino")

#: Parameters that go to OpenVINO as they are; the others are for the backend.
_PROPERTIES = ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS")


@pytest.mark.slow
def test_the_engine_as_triton_compiles_it(tmp_path: Path):
    file = tmp_path / "vit.onnx"
    model = exported("vit")
    file.write_bytes(model.SerializeToString())
    settings = BuildSettings(profile=Profile(1, 4, 8))
    built = build_engine(file, "openvino", settings=settings)
    repository = plan_repository(tmp_path / "models", built.engine, backend_named("openvino"), settings.profile)
    version = write_version(repository, built.engine, built.manifest)
    config = text_format.Parse((version.parent / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())

    core = openvino.Core()
    found = core.read_model(version / config.default_model_filename)
    steps = openvino.preprocess.PrePostProcessor(found)
    steps.input("images").tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("N..."))
    found = steps.build()
    openvino.set_batch(found, config.max_batch_size)
    # The parameters cannot say it: on a CPU with bfloat16 the backend computes in that, here as on any other.
    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    properties |= {key: config.parameters[key].string_value for key in _PROPERTIES}
    compiled = core.compile_model(found, "CPU", properties)

    images = np.zeros((config.max_batch_size, 3, 32, 32), np.float32)
    images[:3] = images_for("vit", 3).numpy()
    expected = open_runner(built.engine)[0](images[:3])
    rows = compiled(images)["logits"][:3]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert json.loads((version / "manifest.json").read_text())["session"] == {"INFERENCE_PRECISION_HINT": "f32"}
