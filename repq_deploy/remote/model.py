"""A model behind the Open Inference Protocol, through NVIDIA's public client (``tritonclient``).

https://github.com/kserve/open-inference-protocol: the same over REST, with tensors as binary bodies, and over gRPC. So
whatever serves it can be asked: ``repq-serve``, Triton, KServe, OpenVINO Model Server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repq_deploy.errors import BackendMissing, BadInput, RepqError, one_line
from repq_deploy.remote.address import Address, parse_address

__all__ = ["Refused", "RemoteModel", "TensorInfo", "open_remote"]

#: The statuses of a server that is full or stopping: a client that asks later may be answered.
_BUSY = ("429", "503", "UNAVAILABLE", "RESOURCE_EXHAUSTED")


class Refused(BadInput):
    """A server answered with an error, or not at all.

    Attributes:
        status: HTTP's ("503") or gRPC's ("UNAVAILABLE"); empty where no server answered.
    """

    def __init__(self, message: str, status: str = "") -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_busy(self) -> bool:
        """Whether the server said that it takes no more requests now."""
        return self.status in _BUSY


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the server describes it: ``shape`` with the batch, -1 where a size is free; ``datatype``
    as the protocol calls it, "FP32" or "UINT8"."""

    name: str
    shape: tuple[int, ...]
    datatype: str


@dataclass(frozen=True)
class RemoteModel:
    """One connection to a served model, for one thread at a time.

    Attributes:
        inputs, outputs: as the server describes them.
        largest_batch: how many images a request may hold; None where the server does not say.
        parameters: what the server says of the model beside its tensors, such as ``repq.preprocess``.
        timeout: seconds that an answer may take.
    """

    address: Address
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    largest_batch: int | None
    parameters: Mapping[str, str]
    timeout: float
    _protocol: Any = field(repr=False)
    _client: Any = field(repr=False)

    def ready(self) -> bool:
        """Whether the server says that the model is ready; False also where no server answers."""
        try:
            with _said(self.address):
                return bool(self._client.is_model_ready(self.address.model, self.address.version))
        except Refused:
            return False

    def infer(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output by name, for ``images`` [N, ...] in the first input's type, sent as one request.

        Raises:
            Refused: the server refuses them, or does not answer in time.
        """
        name = self.inputs[0].name
        sent = self._protocol.InferInput(name, list(images.shape), _datatype(images))
        sent.set_data_from_numpy(np.ascontiguousarray(images))
        wanted = [self._protocol.InferRequestedOutput(one.name) for one in self.outputs]
        options = {"client_timeout": self.timeout} if self.address.scheme == "grpc" else {}
        with _said(self.address):
            answer = self._client.infer(
                self.address.model, [sent], model_version=self.address.version, outputs=wanted, **options
            )
            found = {one.name: answer.as_numpy(one.name) for one in self.outputs}
        if missing := [name for name, array in found.items() if array is None]:
            raise Refused(f"{self.address}: the answer lacks the output {missing[0]}")
        return found

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_remote(url: str, *, timeout: float = 60.0) -> RemoteModel:
    """The model at ``url``, ``http://HOST:PORT/MODEL`` or ``grpc://HOST:PORT/MODEL``, once it has described itself.

    Args:
        timeout: seconds that the connection, and each answer, may take.

    Raises:
        BadInput: not such an address; or (``Refused``) nothing answers there, or no server with such a model.
        BackendMissing: the client is not installed.
    """
    address = parse_address(url)
    protocol = _protocol(address)
    options = {"connection_timeout": timeout, "network_timeout": timeout} if address.scheme == "http" else {}
    client = protocol.InferenceServerClient(address.server, **options)
    try:
        described = _described(client, address, "get_model_metadata", timeout)
        config = _configured(client, address, timeout)
        inputs, outputs = (_tensors(described.get(key), address) for key in ("inputs", "outputs"))
        return RemoteModel(
            address,
            inputs,
            outputs,
            int(config.get("max_batch_size") or 0) or None,
            _parameters(described) | _parameters(config),
            timeout,
            protocol,
            client,
        )
    except BaseException:
        client.close()
        raise


def _protocol(address: Address) -> Any:
    try:
        return import_module(f"tritonclient.{address.scheme}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: its own, where one of its dependencies is not there
        raise BackendMissing(
            f"{address}: the client cannot be imported ({one_line(error, 200)}); run: pip install 'repq-deploy[client]'"
        ) from error


def _described(client: Any, address: Address, method: str, timeout: float) -> dict[str, Any]:
    """What a method of ``client`` that describes the model gives, as JSON."""
    options = {"as_json": True, "client_timeout": timeout} if address.scheme == "grpc" else {}
    with _said(address):
        found = getattr(client, method)(address.model, address.version, **options)
    if not isinstance(found, dict):
        raise Refused(f"{address}: what it says of the model is no object of the protocol")
    return found


def _configured(client: Any, address: Address, timeout: float) -> dict[str, Any]:
    """The model's configuration, which is an extension of the protocol that not every server has."""
    try:
        found = _described(client, address, "get_model_config", timeout)
    except RepqError:
        return {}
    config = found.get("config", found)
    return config if isinstance(config, dict) else {}


def _tensors(found: Any, address: Address) -> tuple[TensorInfo, ...]:
    try:
        tensors = tuple(
            TensorInfo(str(one["name"]), tuple(int(size) for size in one["shape"]), str(one["datatype"]))
            for one in found
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"{address}: its metadata do not describe its tensors as the protocol does") from error
    if not tensors:
        raise Refused(f"{address}: its metadata name no tensors")
    return tensors


def _parameters(found: Mapping[str, Any]) -> dict[str, str]:
    """The texts among the parameters: as they are, or Triton's ``{"string_value": text}``."""
    values = found.get("parameters") or found.get("properties") or {}
    if not isinstance(values, Mapping):
        return {}
    texts = {key: one.get("string_value") if isinstance(one, Mapping) else one for key, one in values.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _datatype(images: NDArray[Any]) -> str:
    found = {"float32": "FP32", "uint8": "UINT8", "float16": "FP16"}.get(images.dtype.name)
    if found is None:
        raise BadInput(f"images of {images.dtype}: a server takes float32, float16 or uint8")
    return found


@contextlib.contextmanager
def _said(address: Address) -> Iterator[None]:
    """Whatever the client raises, as one line that names the server.

    Beside its own exception it lets those of sockets, of gevent and of its parser of HTTP through, whose only common
    base is ``Exception``.
    """
    try:
        yield
    except RepqError:
        raise
    except Exception as error:
        status = str(getattr(error, "status", lambda: "")() or "").rpartition(".")[2]
        text = error.message() if hasattr(error, "message") else f"{type(error).__name__}: {error}"
        said = one_line(Exception(text), 400)
        where = f"{address}: status {status}" if status else f"{address}: no usable answer"
        raise Refused(f"{where}: {said}", status) from error
