"""The body of a REST request: read within limits of size and time, and decoded.

JSON, or JSON and behind it the bytes of tensors: the protocol's extension for binary tensors, whose header field
``Inference-Header-Content-Length`` says where the JSON ends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from repq_deploy.serve.answers import Wanted
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.tensors import Tensor, TensorMetadata

__all__ = ["JSON_LENGTH", "Bodies", "InferRequest", "read_infer_request"]

JSON_LENGTH = "inference-header-content-length"

#: Values are quoted in messages up to here.
_QUOTED = 60
#: The most axes of a tensor, and inputs or outputs of a request, that are looked at.
_MOST_AXES, _MOST_TENSORS = 8, 256
#: Of a number of bytes in a header field.
_DIGITS = 18


@dataclass(frozen=True)
class InferRequest:
    """What is asked: ``wanted`` is empty for all outputs, which are then ``binary`` or not."""

    id: str
    inputs: tuple[Tensor, ...]
    wanted: tuple[Wanted, ...]
    binary: bool


class Bodies:
    """Reads the bodies of requests, each of at most ``most`` bytes that arrive within ``patience_s``, and all that are
    held at a time of at most four times as many."""

    def __init__(self, most: int, patience_s: float) -> None:
        self.most, self.patience_s = most, patience_s
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of ``request``, held within the block.

        Raises:
            Refused: it is too large, compressed or too slow, or there are too many.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(Reason.UNSUPPORTED, "a compressed body: send it as it is")
        length = request.headers.get("content-length", "0")
        if len(length) > _DIGITS or not length.isdecimal() or int(length) > self.most:
            raise self._too_large()
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.patience_s):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    self._held += len(chunk)
                    if sum(map(len, chunks)) > self.most:
                        raise self._too_large()
                    if self._held > 4 * self.most:
                        raise Refused(Reason.BUSY, f"{self._held} bytes of requests are held; try again later")
            yield b"".join(chunks)
        except TimeoutError:
            raise Refused(Reason.TOO_SLOW, f"the body did not arrive within {self.patience_s:g} s") from None
        except ClientDisconnect:
            raise Refused(Reason.INVALID, "the body was not sent to its end") from None
        finally:
            self._held -= sum(map(len, chunks))

    def _too_large(self) -> Refused:
        return Refused(Reason.TOO_LARGE, f"the body has more than {self.most} bytes")


def read_infer_request(body: bytes, json_length: str | None, expected: TensorMetadata) -> InferRequest:
    """Decode the body of an inference request.

    Args:
        json_length: the header field, if there is one. "0" is Triton's raw request: the bytes of the one input.
        expected: that input.

    Raises:
        Refused: it is not one of the protocol.
    """
    view = memoryview(body)
    end = len(body)
    if json_length is not None:
        if not json_length.isascii() or not json_length.isdecimal() or len(json_length) > _DIGITS:
            _refuse(f"{JSON_LENGTH}: {json_length[:_QUOTED]!r} is no number of bytes")
        end = int(json_length)
        if end > len(body):
            _refuse(f"{JSON_LENGTH}: {end} bytes of JSON, in a body of {len(body)}")
        if end == 0:
            return _raw(view, expected)
    fields = _object(_parse(body[:end]), "the body")
    inputs = _list(fields.get("inputs"), "inputs")
    tensors, place = [], end
    for each in inputs:
        tensor, size = _tensor(_object(each, "an input"), view[place:])
        tensors.append(tensor)
        place += size
    if place != len(body):
        _refuse(f"{len(body) - place} bytes follow the JSON that belong to no input")
    parameters = _parameters(fields)
    binary = parameters.get("binary_data_output", False) is True
    outputs = _list(fields.get("outputs", []), "outputs")
    wanted = tuple(_wanted(_object(each, "an output"), binary) for each in outputs)
    identity = fields.get("id", "")
    if not isinstance(identity, str):
        _refuse(f"id: {_quoted(identity)}, expected a text")
    return InferRequest(identity, tuple(tensors), wanted, binary)


def _raw(data: memoryview, expected: TensorMetadata) -> InferRequest:
    item = 4 if expected.datatype == "FP32" else 1
    for axis in expected.shape[1:]:
        item *= axis
    shape = (max(1, len(data) // item), *expected.shape[1:])
    return InferRequest("", (Tensor(expected.name, expected.datatype, shape, data),), (), False)


def _tensor(fields: dict[str, Any], behind: memoryview) -> tuple[Tensor, int]:
    """An input, and how many bytes of those ``behind`` the JSON are its."""
    name, datatype = (_text(fields, key, "an input") for key in ("name", "datatype"))
    shape: Any = fields.get("shape")
    if not _is_shape(shape):
        _refuse(f"input {name[:_QUOTED]!r}: shape {_quoted(shape)}, expected a list of sizes")
    size = _parameters(fields).get("binary_data_size")
    data: Any
    if size is None:
        data, size = fields.get("data"), 0
        if not isinstance(data, list):
            _refuse(f"input {name[:_QUOTED]!r}: has neither data nor a binary_data_size")
    elif "data" in fields:
        _refuse(f"input {name[:_QUOTED]!r}: has data and a binary_data_size; expected one of them")
    elif type(size) is not int or not 0 <= size <= len(behind):
        _refuse(f"input {name[:_QUOTED]!r}: binary_data_size {_quoted(size)}, with {len(behind)} bytes in the body")
    else:
        data = behind[:size]
    return Tensor(name, datatype, tuple(shape), data), size


def _wanted(fields: dict[str, Any], binary: bool) -> Wanted:
    parameters = _parameters(fields)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        _refuse(f"classification: {_quoted(classes)}, expected a number of classes")
    return Wanted(_text(fields, "name", "an output"), classes, parameters.get("binary_data", binary) is True)


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError:
        _refuse("the body: JSON nested too deeply")
    except ValueError as error:  # of JSON and of Unicode
        _refuse(f"the body is not JSON: {str(error)[:100]}")


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _parameters(fields: dict[str, Any]) -> dict[str, Any]:
    return _object(fields.get("parameters", {}), "parameters")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{what}: {_quoted(value)}, expected an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_TENSORS:
        _refuse(f"{what}: {_quoted(value)}, expected a list")
    return value


def _text(fields: dict[str, Any], key: str, what: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        _refuse(f"{what}: {key} {_quoted(value)}, expected a text")
    return value


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= _MOST_AXES and all(type(one) is int for one in value)


def _quoted(value: Any) -> str:
    """The beginning of ``value``; a large one is not written out to be cut."""
    text = f"{type(value).__name__} of {len(value)}" if isinstance(value, dict | list) else repr(value)
    return text[:_QUOTED]


def _refuse(message: str) -> NoReturn:
    raise Refused(Reason.INVALID, message)
