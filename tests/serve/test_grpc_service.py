"""The same over gRPC: answers to the bit, and errors in its codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.runner import open_engine
from repq_deploy.errors import BadInput
from repq_deploy.serve.settings import ServeSettings
from tests.serve.running import SECONDS, SHAPE, Live, images, running

grpc = pytest.importorskip("grpc", reason="the extra `serve` is not installed")
client_of = pytest.importorskip("tritonclient.grpc", reason="the extra `serve` is not installed")

from tritonclient.grpc import service_pb2 as messages  # noqa: E402
from tritonclient.grpc import service_pb2_grpc as generated  # noqa: E402


@pytest.fixture
def client(live: Live) -> Iterator[Any]:
    with client_of.InferenceServerClient(f"127.0.0.1:{live.serving.grpc_port}") as found:
        yield found


@pytest.fixture
def stub(live: Live) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{live.serving.grpc_port}") as channel:
        yield generated.GRPCInferenceServiceStub(channel)


def request(batch: np.ndarray, **fields: Any) -> Any:
    tensor = {"name": "images", "datatype": "FP32", "shape": batch.shape}
    inputs = [messages.ModelInferRequest.InferInputTensor(**tensor)]
    return messages.ModelInferRequest(
        **{"model_name": "tiny", "inputs": inputs, "raw_input_contents": [batch.tobytes()], **fields}
    )


def test_health_and_metadata(client: Any):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
    assert client.get_server_metadata().name == "repq-serve"
    found = client.get_model_metadata("tiny", as_json=True)
    assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": ["-1", *map(str, SHAPE)]}]
    assert [one["name"] for one in found["outputs"]] == ["logits"]
    config = client.get_model_config("tiny").config
    assert config.max_batch_size == 8 and config.parameters["repq.bits"].string_value == "w8a8"
    assert client.get_model_repository_index().models[0].state == "READY"
    client.load_model("tiny")  # the file is the same: nothing is done


def test_answers_are_the_engines_to_the_bit(client: Any, stub: Any, engine: Path):
    batch = images(3)
    expected = open_engine(engine)[0](batch)
    sent = client_of.InferInput("images", batch.shape, "FP32")
    sent.set_data_from_numpy(batch)
    found = client.infer("tiny", [sent], request_id="seven")
    np.testing.assert_array_equal(found.as_numpy("logits"), expected)
    assert found.get_response().id == "seven"
    listed = request(batch, raw_input_contents=[])
    listed.inputs[0].contents.fp32_contents.extend(batch.ravel().tolist())
    raw = stub.ModelInfer(listed, timeout=SECONDS).raw_output_contents[0]
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32).reshape(3, 10), expected)
    classes = client.infer("tiny", [sent], outputs=[client_of.InferRequestedOutput("logits", class_count=2)])
    assert classes.as_numpy("logits")[:, 0].tolist() == [f"{row.max():f}:{row.argmax()}".encode() for row in expected]


def with_contents(**fields: Any) -> Any:
    found = request(images(), **fields)
    found.inputs[0].contents.fp32_contents.extend([0.0] * 192)
    return found


def tensor(**fields: Any) -> list[Any]:
    described = {"name": "images", "datatype": "FP32", "shape": [1, *SHAPE], **fields}
    return [messages.ModelInferRequest.InferInputTensor(**described)]


def wanting(name: str, classes: int | None = None) -> Any:
    output = messages.ModelInferRequest.InferRequestedOutputTensor(name=name)
    if classes is not None:
        output.parameters["classification"].int64_param = classes
    return request(images(), outputs=[output])


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no such model": (lambda: request(images(), model_name="other"), "NOT_FOUND"),
    "no such version": (lambda: request(images(), model_version="1"), "NOT_FOUND"),
    "no model": (lambda: request(images(), model_name=""), "NOT_FOUND"),
    "another name": (lambda: request(images(), inputs=tensor(name="pixels")), "INVALID_ARGUMENT"),
    "another datatype": (lambda: request(images(), inputs=tensor(datatype="INT8")), "INVALID_ARGUMENT"),
    "another datatype in lists": (
        lambda: request(images(), inputs=tensor(datatype="FP16"), raw_input_contents=[]),
        "INVALID_ARGUMENT",
    ),
    "other sides": (lambda: request(images(), inputs=tensor(shape=[1, 3, 8, 9])), "INVALID_ARGUMENT"),
    "no shape": (lambda: request(images(), inputs=tensor(shape=[])), "INVALID_ARGUMENT"),
    "negative sizes": (lambda: request(images(), inputs=tensor(shape=[1, -3, -8, 8])), "INVALID_ARGUMENT"),
    "no image": (lambda: request(images()[:0]), "INVALID_ARGUMENT"),
    "too many images": (lambda: request(images(9)), "INVALID_ARGUMENT"),
    "no inputs": (lambda: request(images(), inputs=[], raw_input_contents=[]), "INVALID_ARGUMENT"),
    "two inputs": (lambda: request(images(), inputs=tensor() * 2), "INVALID_ARGUMENT"),
    "bytes of two inputs": (lambda: request(images(), raw_input_contents=[b"", b""]), "INVALID_ARGUMENT"),
    "too few bytes": (lambda: request(images(), raw_input_contents=[images().tobytes()[:-1]]), "INVALID_ARGUMENT"),
    "too many bytes": (lambda: request(images(), raw_input_contents=[images(2).tobytes()]), "INVALID_ARGUMENT"),
    "neither bytes nor numbers": (lambda: request(images(), raw_input_contents=[]), "INVALID_ARGUMENT"),
    "bytes and numbers": (with_contents, "INVALID_ARGUMENT"),
    "NaN": (lambda: request(np.full_like(images(), np.nan)), "INVALID_ARGUMENT"),
    "infinity": (lambda: request(np.full_like(images(), np.inf)), "INVALID_ARGUMENT"),
    "another output": (lambda: wanting("boxes"), "INVALID_ARGUMENT"),
    "too many classes": (lambda: wanting("logits", 11), "INVALID_ARGUMENT"),
    "a negative number of classes": (lambda: wanting("logits", -1), "INVALID_ARGUMENT"),
    "too large a message": (lambda: request(images(), raw_input_contents=[b"\0" * 200_000]), "RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize(("bad", "code"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_answered(live: Live, stub: Any, bad: Callable[[], Any], code: str):
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(bad(), timeout=SECONDS)
    assert refused.value.code().name == code and len(refused.value.details()) > 5
    assert stub.ModelInfer(request(images()), timeout=SECONDS).model_name == "tiny"
    assert live.metric("repq_requests_under_way") == live.metric("repq_images_waiting") == 0


def test_what_is_no_message_of_the_service(live: Live, stub: Any):
    with grpc.insecure_channel(f"127.0.0.1:{live.serving.grpc_port}") as channel:
        garbage = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            garbage(b"\xff" * 100, timeout=SECONDS)
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/inference.GRPCInferenceService/Other")(b"", timeout=SECONDS)
        assert refused.value.code().name == "UNIMPLEMENTED"
    for method, message in (
        ("CudaSharedMemoryStatus", messages.CudaSharedMemoryStatusRequest()),
        ("RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name="tiny")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            getattr(stub, method)(message, timeout=SECONDS)
        assert refused.value.code().name == "UNIMPLEMENTED"
    for method, message in (
        ("ModelMetadata", messages.ModelMetadataRequest(name="other")),
        ("ModelReady", messages.ModelReadyRequest(name="other")),
        ("ModelConfig", messages.ModelConfigRequest(name="other")),
        ("RepositoryModelLoad", messages.RepositoryModelLoadRequest(model_name="other")),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            getattr(stub, method)(message, timeout=SECONDS)
        assert refused.value.code().name == "NOT_FOUND"
    assert stub.ServerLive(messages.ServerLiveRequest()).live


def test_a_port_that_is_taken(live: Live, engine: Path):
    for name, port in (("port", live.serving.port), ("grpc_port", live.serving.grpc_port)):
        with (
            pytest.raises(BadInput, match=f"ort {port} of 127.0.0.1: cannot listen there"),
            running(ServeSettings(engines={"tiny": engine}), **{name: port}),
        ):
            pass
