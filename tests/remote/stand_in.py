"""A server of one model in some hundred lines: enough of the Open Inference Protocol for its clients' tests."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

_TYPES = {"FP32": np.float32, "UINT8": np.uint8}


@dataclass
class StandIn:
    """``predict`` gives every output by name; ``status`` is what requests are answered with, 200 where all is well."""

    predict: Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]
    shape: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    datatype: str = "FP32"
    name: str = "tiny"
    parameters: dict[str, str] | None = None
    largest: int = 0
    status: int = 200
    batches: list[int] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        outputs = [{"name": k, "datatype": "FP32", "shape": [-1, *v]} for k, v in self.outputs.items()]
        images = {"name": "images", "datatype": self.datatype, "shape": [-1, *self.shape]}
        return {"name": self.name, "versions": ["1"], "platform": "test", "inputs": [images], "outputs": outputs}

    def run(self, data: bytes, shape: list[int]) -> dict[str, NDArray[np.float32]]:
        self.batches.append(shape[0])
        return self.predict(np.frombuffer(data, _TYPES[self.datatype]).reshape(shape))


@contextmanager
def serving(model: StandIn) -> Iterator[StandIn]:
    """``model`` on two ports of the loopback; ``urls`` has its addresses by scheme."""
    rest = ThreadingHTTPServer(("127.0.0.1", 0), _handler(model))
    rest.daemon_threads = True
    threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    rpc = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(model), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    model.urls = {
        "http": f"http://127.0.0.1:{rest.server_address[1]}/{model.name}",
        "grpc": f"grpc://127.0.0.1:{port}/{model.name}",
    }
    try:
        yield model
    finally:
        rest.shutdown()
        rest.server_close()
        rpc.stop(None).wait()


def _handler(model: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def fail(self, status: int, text: str) -> None:
            self.answer(status, json.dumps({"error": text}).encode())

        def do_GET(self) -> None:
            place = f"/v2/models/{model.name}"
            if not self.path.startswith(place):
                self.fail(404, "no such model")
            elif self.path == f"{place}/config":
                if model.parameters is None:
                    self.fail(404, "no such route")
                    return
                parameters = {key: {"string_value": text} for key, text in model.parameters.items()}
                self.answer(200, json.dumps({"max_batch_size": model.largest, "parameters": parameters}).encode())
            elif self.path == f"{place}/ready":
                self.answer(model.status, b"")
            else:
                self.answer(200, json.dumps(model.described()).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if model.status != 200:
                self.fail(model.status, "the queue is full")
                return
            length = int(self.headers["Inference-Header-Content-Length"])
            shape = json.loads(body[:length])["inputs"][0]["shape"]
            found = model.run(body[length:], shape)
            outputs = [
                {
                    "name": key,
                    "datatype": "FP32",
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": array.nbytes},
                }
                for key, array in found.items()
            ]
            header = json.dumps({"model_name": model.name, "outputs": outputs}).encode()
            data = b"".join(array.tobytes() for array in found.values())
            self.answer(200, header + data, Inference_Header_Content_Length=str(len(header)))

    return Handler


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, model: StandIn) -> None:
        self.model = model

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.model.status == 200)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name != self.model.name:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return service_pb2.ModelMetadataResponse(**self.model.described())

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.model.parameters is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        answer = service_pb2.ModelConfigResponse()
        answer.config.max_batch_size = self.model.largest
        for key, text in (self.model.parameters or {}).items():
            answer.config.parameters[key].string_value = text
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.model.status != 200:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
        shape = list(request.inputs[0].shape)
        assert math.prod(shape)
        found = self.model.run(request.raw_input_contents[0], shape)
        answer = service_pb2.ModelInferResponse(model_name=self.model.name)
        for key, array in found.items():
            answer.outputs.add(name=key, datatype="FP32", shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer
