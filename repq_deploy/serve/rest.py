"""The protocol over REST: one ASGI application, which any server of such runs.

The Open Inference Protocol, version 2, with the extensions for binary tensors, classification and the repository of
models, as Triton has them and its clients ask for them; and ``/metrics``. An error is ``{"error": "..."}``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from repq_deploy import __version__
from repq_deploy.serve.answers import Answer
from repq_deploy.serve.metrics import CONTENT_TYPE, Metrics
from repq_deploy.serve.model import ServedModel
from repq_deploy.serve.model_config import model_config
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.repository import Repository
from repq_deploy.serve.rest_body import JSON_LENGTH, Bodies, InferRequest, read_infer_request
from repq_deploy.serve.tensors import TensorMetadata

__all__ = ["EXTENSIONS", "SERVER", "STATUS", "Refusal", "rest_app"]

SERVER = "repq-serve"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository")

STATUS = {
    Reason.INVALID: 400,
    Reason.NOT_FOUND: 404,
    Reason.TOO_SLOW: 408,
    Reason.TOO_LARGE: 413,
    Reason.UNSUPPORTED: 415,
    Reason.BUSY: 429,
    Reason.FAILED: 500,
    Reason.NOT_READY: 503,
}

#: What is found out before a body is read, or while it is.
_BEFORE_THE_BODY = (Reason.NOT_FOUND, Reason.NOT_READY, Reason.UNSUPPORTED, Reason.TOO_LARGE, Reason.TOO_SLOW)
#: JSON of at most so many bytes is decoded where it arrives; more would keep others waiting.
_QUICK_BYTES = 50_000
#: After a refusal, what its client still sends is read for so long, for it reads no answer before it has sent all.
_LINGER_S = 0.5


def rest_app(repository: Repository, metrics: Metrics, *, patience_s: float = 20.0) -> Starlette:
    """The application. ``patience_s``: within which the body of a request must have arrived."""
    return _Rest(repository, metrics, patience_s).app()


class _Rest:
    def __init__(self, repository: Repository, metrics: Metrics, patience_s: float) -> None:
        self.repository, self.metrics = repository, metrics
        self.bodies = Bodies(repository.settings.max_body, patience_s)
        # One thread: large texts become far larger lists, and one at a time is what memory is made for.
        self.decoder = ThreadPoolExecutor(1, "json")

    def app(self) -> Starlette:
        routes = [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models", self.models),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/metrics", self.prometheus),
        ]
        for version in ("", "/versions/{version}"):
            routes += [
                Route(f"/v2/models/{{model}}{version}", self.metadata),
                Route(f"/v2/models/{{model}}{version}/ready", self.model_ready),
                Route(f"/v2/models/{{model}}{version}/config", self.config),
                Route(f"/v2/models/{{model}}{version}/infer", self.infer, methods=["POST"]),
            ]
        handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _http_error, Exception: _defect}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def server(self, request: Request) -> Response:
        return _json({"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)})

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self.repository.ready
        return _json({"ready": ready}, 200 if ready else STATUS[Reason.NOT_READY])

    async def models(self, request: Request) -> Response:
        return _json({"models": list(self.repository.names)})

    async def metadata(self, request: Request) -> Response:
        model = self._model(request)
        described = {
            "name": model.name,
            "versions": [model.version],
            "platform": model.manifest.backend,
            "inputs": [_described(model.input)],
            "outputs": [_described(each) for each in model.outputs],
        }
        return _json(described)

    async def config(self, request: Request) -> Response:
        return _json(model_config(self._model(request), self.repository.settings))

    async def model_ready(self, request: Request) -> Response:
        model = self._model(request)
        ready = not self.repository.stopping
        return _json({"name": model.name, "ready": ready}, 200 if ready else STATUS[Reason.NOT_READY])

    async def index(self, request: Request) -> Response:
        return _json(self.repository.index())

    async def load(self, request: Request) -> Response:
        await self.repository.load(request.path_params["model"])
        return _json({})

    async def prometheus(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def infer(self, request: Request) -> Response:
        name, outcome, seconds = request.path_params["model"], Reason.FAILED.value, None
        self.metrics.begin()
        try:
            model = self._model(request)
            async with self.bodies.read(request) as body:
                start = time.perf_counter()
                response = await self._answer(model, request, body)
            outcome, seconds = "ok", time.perf_counter() - start
            return response
        except Refused as refused:
            outcome = refused.reason.value
            raise
        finally:
            known = name if name in self.repository.names else ""
            self.metrics.end(known, "rest", outcome, seconds)

    async def _answer(self, model: ServedModel, request: Request, body: bytes) -> Response:
        json_length = request.headers.get(JSON_LENGTH)
        arguments = body, json_length, model.input
        if len(body) <= _QUICK_BYTES or (json_length is not None and len(json_length) < len(str(_QUICK_BYTES))):
            asked = read_infer_request(*arguments)
        else:
            loop = asyncio.get_running_loop()
            asked = await loop.run_in_executor(self.decoder, read_infer_request, *arguments)
        version = request.path_params.get("version", "")
        model, found = await self.repository.infer(model.name, version, asked.inputs, asked.wanted, binary=asked.binary)
        return _answered(model, asked, found)

    def _model(self, request: Request) -> ServedModel:
        return self.repository.model(request.path_params["model"], request.path_params.get("version", ""))


class Refusal(Response):
    """An answer to a request that may not have been read to its end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refused(request: Request, refused: Refused) -> Response:
    headers = {"retry-after": "1"} if refused.reason in (Reason.BUSY, Reason.NOT_READY) else {}
    unread = refused.reason in _BEFORE_THE_BODY
    if unread:
        headers["connection"] = "close"
    kind = Refusal if unread else Response
    body = _encoded({"error": str(refused)})
    return kind(body, STATUS[refused.reason], headers, "application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Of the application itself: there is no such path, or not with this method."""
    said = {404: f"there is no {request.url.path[:100]}", 405: f"{request.method[:20]} is not what it takes"}
    headers = {**(error.headers or {}), "connection": "close"}
    body = _encoded({"error": said.get(error.status_code, error.detail)})
    return Refusal(body, error.status_code, headers, "application/json")


async def _defect(request: Request, error: Exception) -> Response:
    """Of ours, or of a library under us: its traceback is in the log."""
    return _json({"error": f"a defect: {type(error).__name__}"}, STATUS[Reason.FAILED])


def _answered(model: ServedModel, asked: InferRequest, found: Sequence[Answer]) -> Response:
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = [b""]
    for each in found:
        described: dict[str, Any] = {"name": each.name, "datatype": each.datatype, "shape": list(each.values.shape)}
        if each.binary:
            parts.append(each.to_bytes())
            described["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            described["data"] = each.to_list()
        outputs.append(described)
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if asked.id:
        head["id"] = asked.id
    parts[0] = _encoded(head)
    if len(parts) == 1:
        return Response(parts[0], media_type="application/json")
    headers = {JSON_LENGTH: str(len(parts[0]))}
    return Response(b"".join(parts), headers=headers, media_type="application/octet-stream")


def _described(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _json(value: Any, status: int = 200) -> Response:
    return Response(_encoded(value), status, media_type="application/json")


def _encoded(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise Refused(Reason.FAILED, "the outputs hold NaN or infinite values, which JSON cannot") from error
