"""Requests that are made once and sent often, at as little cost to the machine as asyncio allows.

Load is often made on the machine that serves. tritonclient's own calls copy a body several times and build each request
anew; here bodies are bytes that tritonclient has made, and HTTP is the few lines of it that an answer needs: measured
on bodies of 150 kB, half the CPU of aiohttp, and 0.5 ms less of latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from repq_deploy.remote.address import Address
from repq_deploy.remote.load.loops import ANSWERED, NO_CONNECTION, REFUSED
from repq_deploy.remote.model import RemoteModel

__all__ = ["NO_ANSWER", "TIMED_OUT", "Connections", "open_connections"]

#: The connection ended before the answer did.
NO_ANSWER = "no answer"
TIMED_OUT = "timed out"

#: Connections at a time: a process may have 1,024 files open.
_MOST = 900

#: What gRPC's own library says of a connection that ended, with the same status as a server that refuses.
_LOST = ("Socket closed", "Connection reset", "Broken pipe", "GOAWAY", "recvmsg", "sendmsg", "ping timeout")

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,12})", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_JSON_LENGTH = re.compile(rb"\r\ninference-header-content-length: *([0-9]{1,12})", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


#: Both ends of a connection.
_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Connections(Protocol):
    """Sends requests by number; a number beyond the last one begins at the first again.

    ``different`` counts the answers whose tensors are not, to the bit, those of the first answer to the same request.
    """

    different: int

    async def send(self, number: int, deadline: float) -> str:
        """Send a request, to be answered before ``deadline`` by the event loop's clock; what became of it."""
        ...

    async def close(self) -> None: ...


def open_connections(model: RemoteModel, batches: Sequence[NDArray[Any]]) -> Connections:
    """Connections that send ``batches`` [N, ...], each as one request. Called within a running event loop."""
    if model.address.scheme == "grpc":
        return _Grpc(model.address, [_grpc_request(model, images) for images in batches])
    return _Http(model.address, [_http_request(model, images) for images in batches])


class _Answers:
    """The first answer to each of ``count`` requests, and how many later ones differ."""

    def __init__(self, count: int) -> None:
        self._first: list[bytes | None] = [None] * count
        self.different = 0

    def compare(self, number: int, tensors: bytes) -> None:
        place = number % len(self._first)
        if self._first[place] is None:
            self._first[place] = tensors
        elif self._first[place] != tensors:
            self.different += 1


class _Http(_Answers):
    """Connections that are kept and used again, the last one first."""

    def __init__(self, address: Address, requests: Sequence[bytes]) -> None:
        super().__init__(len(requests))
        place = urlsplit(f"//{address.server}")
        self._host, self._port = place.hostname, place.port
        self._requests = requests
        self._idle: list[_Stream] = []
        self._room = asyncio.Semaphore(_MOST)

    async def send(self, number: int, deadline: float) -> str:
        stream = None
        try:
            async with asyncio.timeout_at(deadline), self._room:
                try:
                    stream = await self._open()
                except OSError:
                    return NO_CONNECTION
                try:
                    outcome, kept = await self._exchange(stream, number)
                except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                    return NO_ANSWER
                if kept:
                    self._idle.append(stream)
                    stream = None
                return outcome
        except TimeoutError:
            return TIMED_OUT
        finally:
            if stream is not None:
                stream[1].transport.abort()

    async def _open(self) -> _Stream:
        """The last connection that was used and that the server has not closed since, or a new one."""
        while self._idle:
            stream = self._idle.pop()
            if not stream[0].at_eof():
                return stream
            stream[1].close()
        return await asyncio.open_connection(self._host, self._port)

    async def _exchange(self, stream: _Stream, number: int) -> tuple[str, bool]:
        """What became of a request, and whether the connection can be used again."""
        reader, writer = stream
        writer.write(self._requests[number % len(self._requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        status, kept = head[9:12].decode("ascii", "replace"), _CLOSES.search(head) is None
        body = await _body(reader, head)
        kept = kept and not reader.at_eof()
        if status in ("429", "503"):
            return REFUSED, kept
        if status != "200":
            return f"status {status}", kept
        json_length = _JSON_LENGTH.search(head)
        self.compare(number, body[int(json_length[1]) if json_length else 0 :])
        return ANSWERED, kept

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body that follows ``head``: of the length that it says, in chunks, or all that comes."""
    if (length := _LENGTH.search(head)) is not None:
        return await reader.readexactly(int(length[1]))
    if _CHUNKED.search(head) is None:
        return await reader.read()
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")  # nobody sends trailers
    return body


class _Grpc(_Answers):
    """One channel, whose requests share a connection."""

    def __init__(self, address: Address, requests: Sequence[bytes]) -> None:
        import grpc  # noqa: PLC0415 - an extra
        from tritonclient.grpc.service_pb2 import ModelInferResponse  # noqa: PLC0415

        super().__init__(len(requests))
        self._grpc = grpc
        self._requests = requests
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(address.server, options=unlimited)
        self._call = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", response_deserializer=ModelInferResponse.FromString
        )

    async def send(self, number: int, deadline: float) -> str:
        left = deadline - asyncio.get_running_loop().time()
        try:
            answer = await self._call(self._requests[number % len(self._requests)], timeout=max(left, 0.001))
        except self._grpc.aio.AioRpcError as error:
            return self._outcome(error)
        self.compare(number, b"".join(answer.raw_output_contents))
        return ANSWERED

    def _outcome(self, error: Any) -> str:
        code = error.code().name
        if code == "DEADLINE_EXCEEDED":
            return TIMED_OUT
        details = error.details() or ""
        if code == "UNAVAILABLE" and details.startswith("failed to connect"):
            return NO_CONNECTION
        if code == "UNAVAILABLE" and any(word in details for word in _LOST):
            return NO_ANSWER
        return REFUSED if code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED") else f"status {code}"

    async def close(self) -> None:
        await self._channel.close()


def _http_request(model: RemoteModel, images: NDArray[Any]) -> bytes:
    from tritonclient import http  # noqa: PLC0415 - an extra

    outputs = [http.InferRequestedOutput(one.name, binary_data=True) for one in model.outputs]
    body, json_length = http.InferenceServerClient.generate_request_body([_tensor(http, model, images)], outputs)
    version = f"/versions/{quote(model.address.version, safe='')}" if model.address.version else ""
    head = (
        f"POST /v2/models/{quote(model.address.model, safe='')}{version}/infer HTTP/1.1\r\n"
        f"Host: {model.address.server}\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {json_length}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + bytes(body)


def _grpc_request(model: RemoteModel, images: NDArray[Any]) -> bytes:
    from tritonclient.grpc.service_pb2 import ModelInferRequest  # noqa: PLC0415 - an extra

    wanted = [ModelInferRequest.InferRequestedOutputTensor(name=one.name) for one in model.outputs]
    tensor = ModelInferRequest.InferInputTensor(
        name=model.inputs[0].name, datatype=model.inputs[0].datatype, shape=images.shape
    )
    request = ModelInferRequest(
        model_name=model.address.model,
        model_version=model.address.version,
        inputs=[tensor],
        outputs=wanted,
        raw_input_contents=[np.ascontiguousarray(images).tobytes()],
    )
    return bytes(request.SerializeToString())


def _tensor(protocol: Any, model: RemoteModel, images: NDArray[Any]) -> Any:
    tensor = protocol.InferInput(model.inputs[0].name, list(images.shape), model.inputs[0].datatype)
    tensor.set_data_from_numpy(np.ascontiguousarray(images))
    return tensor
