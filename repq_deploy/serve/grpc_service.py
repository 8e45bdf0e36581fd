"""The protocol over gRPC: the service whose messages and classes ``tritonclient`` brings.

It answers what clients of inference ask: health, metadata, inference, and the repository of models. Everything else of
the service is UNIMPLEMENTED, as the generated base class says.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as generated
from tritonclient.grpc.model_config_pb2 import ModelConfig

from repq_deploy import __version__
from repq_deploy.errors import BadInput
from repq_deploy.serve.answers import Wanted
from repq_deploy.serve.metrics import Metrics
from repq_deploy.serve.model_config import model_config
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.repository import Repository
from repq_deploy.serve.rest import EXTENSIONS, SERVER
from repq_deploy.serve.tensors import Tensor

__all__ = ["CODES", "grpc_server"]

CODES = {
    Reason.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.TOO_SLOW: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Reason.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.FAILED: grpc.StatusCode.INTERNAL,
    Reason.NOT_READY: grpc.StatusCode.UNAVAILABLE,
}

#: Where a message holds numbers of a datatype, when they are not raw bytes.
_CONTENTS = {"FP32": "fp32_contents", "UINT8": "uint_contents"}


async def grpc_server(
    repository: Repository, metrics: Metrics, *, host: str, port: int, most_at_a_time: int
) -> tuple[grpc.aio.Server, int]:
    """A server that listens, not started, and its port; ``port`` 0 takes any that is free.

    Raises:
        BadInput: it cannot listen there.
    """
    options = [
        ("grpc.so_reuseport", 0),  # or two servers would share a port, and each get half of the requests
        ("grpc.max_receive_message_length", repository.settings.max_body),
        ("grpc.max_metadata_size", 1 << 14),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=most_at_a_time)
    generated.add_GRPCInferenceServiceServicer_to_server(_Service(repository, metrics), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = server.add_insecure_port(address)
    except RuntimeError as error:
        raise BadInput(f"gRPC port {port} of {host}: cannot listen there, it may be taken; give another") from error
    return server, found


class _Service(generated.GRPCInferenceServiceServicer):
    """Each method takes its message and the call's context, which an error aborts with its code."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self.repository, self.metrics = repository, metrics

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's names
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return messages.ServerReadyResponse(ready=self.repository.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return messages.ServerMetadataResponse(name=SERVER, version=__version__, extensions=EXTENSIONS)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            self.repository.model(request.name, request.version)
        except Refused as refused:
            if refused.reason is not Reason.NOT_READY:
                await _abort(context, refused)
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=not self.repository.stopping)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            model = self.repository.model(request.name, request.version)
        except Refused as refused:
            await _abort(context, refused)
        kind = messages.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [kind(name=each.name, datatype=each.datatype, shape=each.shape) for each in tensors]
            for tensors in ((model.input,), model.outputs)
        )
        return messages.ModelMetadataResponse(
            name=model.name, versions=[model.version], platform=model.manifest.backend, inputs=inputs, outputs=outputs
        )

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            model = self.repository.model(request.name, request.version)
        except Refused as refused:
            await _abort(context, refused)
        config = ParseDict(model_config(model, self.repository.settings), ModelConfig())
        return messages.ModelConfigResponse(config=config)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        kind = messages.RepositoryIndexResponse.ModelIndex
        return messages.RepositoryIndexResponse(models=[kind(**each) for each in self.repository.index()])

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            await self.repository.load(request.model_name)
        except Refused as refused:
            await _abort(context, refused)
        return messages.RepositoryModelLoadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        name, outcome, seconds = request.model_name, Reason.FAILED.value, None
        self.metrics.begin()
        start = time.perf_counter()
        try:
            response = await self._infer(request)
            outcome, seconds = "ok", time.perf_counter() - start
            return response
        except Refused as refused:
            outcome = refused.reason.value
            await _abort(context, refused)
        finally:
            known = name if name in self.repository.names else ""
            self.metrics.end(known, "grpc", outcome, seconds)

    async def _infer(self, request: Any) -> Any:
        self.repository.model(request.model_name, request.model_version)
        wanted = [Wanted(each.name, _classes(each.parameters)) for each in request.outputs]
        model, found = await self.repository.infer(request.model_name, request.model_version, _tensors(request), wanted)
        kind = messages.ModelInferResponse.InferOutputTensor
        return messages.ModelInferResponse(
            model_name=model.name,
            model_version=model.version,
            id=request.id,
            outputs=[kind(name=each.name, datatype=each.datatype, shape=each.values.shape) for each in found],
            raw_output_contents=[each.to_bytes() for each in found],
        )


def _tensors(request: Any) -> list[Tensor]:
    """The inputs of an inference request, their bytes as they arrived or the numbers of its typed lists.

    Raises:
        Refused: raw bytes for another number of inputs, or none.
    """
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Refused(Reason.INVALID, f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    tensors = []
    for place, each in enumerate(request.inputs):
        contents = _CONTENTS.get(each.datatype)
        if not raw and contents is None:
            raise Refused(Reason.INVALID, f"input {each.name[:60]!r}: datatype {each.datatype[:60]!r}")
        if raw and each.HasField("contents"):
            raise Refused(Reason.INVALID, f"input {each.name[:60]!r}: has contents, and raw_input_contents")
        data = raw[place] if raw else list(getattr(each.contents, str(contents)))
        tensors.append(Tensor(each.name, each.datatype, tuple(each.shape), data))
    return tensors


def _classes(parameters: Mapping[str, Any]) -> int:
    if "classification" not in parameters:
        return 0
    count = parameters["classification"].int64_param
    if count < 1:
        raise Refused(Reason.INVALID, f"classification: {count}, expected a number of classes")
    return int(count)


async def _abort(context: Any, refused: Refused) -> NoReturn:
    await context.abort(CODES[refused.reason], str(refused))
    raise AssertionError  # it has raised
