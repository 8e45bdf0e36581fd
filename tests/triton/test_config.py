"""``config.pbtxt`` as Triton's own schema reads it: complete, for each of Triton's backends."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.batching import Profile
from repq_deploy.errors import BadInput
from repq_deploy.triton.backends import triton_backend
from repq_deploy.triton.config import config_text
from tests.triton.engines import CLASSES, MANIFEST, NAMES, SIDE

OURS = [("onnxruntime", None), ("onnxruntime", "python"), ("openvino", None), ("tensorrt", None)]


def config(backend: str = "onnxruntime", triton: str | None = None, *, labels: bool = True, **fields: Any) -> Any:
    manifest = dataclasses.replace(MANIFEST, backend=backend, **fields)
    text = config_text("vit", manifest, triton_backend(backend_named(backend), triton), labels=labels)
    return text_format.Parse(text, pb.ModelConfig())


@pytest.mark.parametrize(("backend", "triton"), OURS)
def test_nothing_is_left_to_derive(backend: str, triton: str | None):
    found = config(backend, triton)
    assert (found.name, found.backend) == ("vit", triton or backend)
    assert [(one.name, one.data_type, list(one.dims)) for one in found.input] == [
        ("images", pb.TYPE_FP32, [3, SIDE, SIDE])
    ]
    assert [(one.name, one.data_type, list(one.dims), one.label_filename) for one in found.output] == [
        ("logits", pb.TYPE_FP32, [CLASSES], "labels.txt")
    ]
    (group,) = found.instance_group
    on_gpu = pb.ModelInstanceGroup.KIND_GPU if backend == "tensorrt" else pb.ModelInstanceGroup.KIND_CPU
    assert (group.count, group.kind) == (1, on_gpu)
    assert found.version_policy.latest.num_versions == 1
    assert found.dynamic_batching.max_queue_delay_microseconds == (500 if backend == "tensorrt" else 2000)
    assert found.dynamic_batching.default_queue_policy.max_queue_size == 16 * found.max_batch_size
    assert [one.batch_size for one in found.model_warmup] == [1, 4]
    for one in found.model_warmup:
        value = one.inputs["images"]
        assert (value.data_type, list(value.dims), value.input_data_file) == (
            pb.TYPE_FP32,
            [3, SIDE, SIDE],
            "reference_0",
        )
    assert found.parameters["repq.classes"].string_value == NAMES
    assert found.parameters["repq.preprocess"].string_value == '{"size": 8}'


@pytest.mark.parametrize(
    ("backend", "largest", "preferred", "file"),
    [("onnxruntime", 16, [4, 16], ""), ("tensorrt", 16, [4, 16], ""), ("openvino", 4, [4], "model.onnx")],
)
def test_batches_are_those_of_the_profile(backend: str, largest: int, preferred: list[int], file: str):
    """Triton's OpenVINO backend pads each batch to the largest, so that is the size the engine is tuned for."""
    found = config(backend)
    assert (found.max_batch_size, list(found.dynamic_batching.preferred_batch_size)) == (largest, preferred)
    assert found.default_model_filename == file


def test_a_profile_of_one_size():
    found = config(profile=Profile(1, 1, 1))
    assert (found.max_batch_size, list(found.dynamic_batching.preferred_batch_size)) == (1, [1])
    assert [one.batch_size for one in found.model_warmup] == [1]


def test_what_each_backend_is_told():
    texts = {backend: {key: one.string_value for key, one in config(backend).parameters.items()} for backend, _ in OURS}
    assert texts["onnxruntime"]["intra_op_thread_count"] == "0"
    assert not config("onnxruntime").HasField("optimization")  # the engine is exact under the session's defaults
    assert texts["openvino"]["ENABLE_BATCH_PADDING"] == "YES"
    assert texts["openvino"]["NUM_STREAMS"] == "1"
    assert "HINT_BF16" not in texts["openvino"]
    assert {key for key in texts["tensorrt"] if not key.startswith("repq.")} == set()


@pytest.mark.parametrize(("layout", "shape"), [("nhwc", (SIDE, SIDE, 3)), ("nchw", (3, SIDE, SIDE))])
def test_bytes_in(layout: str, shape: tuple[int, ...]):
    told = f'{{"dtype": "uint8", "layout": "{layout}"}}'
    found = config(image_shape=shape, metadata={**MANIFEST.metadata, "repq.input": told})
    assert (found.input[0].data_type, tuple(found.input[0].dims)) == (pb.TYPE_UINT8, shape)
    assert found.model_warmup[0].inputs["images"].data_type == pb.TYPE_UINT8
    assert found.parameters["repq.input"].string_value == told


def test_features_have_their_shapes_and_no_labels():
    told = {"repq.outputs": '{"tokens": [5, 6], "pooled": [6]}', "repq.task": "features"}
    metadata = {key: text for key, text in MANIFEST.metadata.items() if key != "repq.classes"} | told
    found = config(labels=False, outputs=36, metadata=metadata)
    assert [(one.name, list(one.dims), one.label_filename) for one in found.output] == [
        ("tokens", [5, 6], ""),
        ("pooled", [6], ""),
    ]


@pytest.mark.parametrize(
    ("backend", "triton", "said"),
    [
        ("tensorrt-rtx", None, "no backend of Triton those of TensorRT-RTX; use --backend tensorrt"),
        ("openvino", "python", "--triton-backend python: engines of openvino are loaded by openvino only"),
        ("onnxruntime", "tensorflow", "engines of onnxruntime are loaded by onnxruntime or python only"),
    ],
)
def test_what_triton_cannot_serve(backend: str, triton: str | None, said: str):
    with pytest.raises(BadInput, match=said):
        triton_backend(backend_named(backend), triton)
