"""Where a served model is: ``http://HOST:PORT/MODEL`` or ``grpc://HOST:PORT/MODEL``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from repq_deploy.errors import BadInput
from repq_deploy.system.files import shortened

__all__ = ["Address", "is_address", "parse_address"]

_SCHEMES = ("http", "grpc")
#: A model, the same as the protocol's own path of it, and a version of it.
_PATH = re.compile(r"/(?:v2/models/)?(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/?")


@dataclass(frozen=True)
class Address:
    """``server`` is ``host:port``; ``version`` is empty where the server is to choose."""

    scheme: Literal["http", "grpc"]
    server: str
    model: str
    version: str = ""

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.scheme}://{self.server}/{self.model}{version}"


def is_address(name: str) -> bool:
    """Whether ``name`` is to be read as the address of a served model, not as a file or a model's name."""
    return "://" in name


def parse_address(url: str) -> Address:
    """Read an address.

    Raises:
        BadInput: another scheme, no host, port or model, or more than those.
    """
    expected = "expected http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # a port that is no number, brackets that do not close
        raise BadInput(f"address {shortened(url)}: {error}; {expected}") from error
    path = _PATH.fullmatch(parts.path)
    if parts.scheme not in _SCHEMES:
        raise BadInput(f"address {shortened(url)}: scheme {parts.scheme[:20]!r}; {expected}")
    if not host or not port or path is None or parts.query or parts.fragment or parts.username is not None:
        lacking = "no host" if not host else "no port" if not port else "no model" if parts.path in ("", "/") else ""
        raise BadInput(f"address {shortened(url)}: {lacking or 'more than a host, a port and a model'}; {expected}")
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme: Literal["http", "grpc"] = "http" if parts.scheme == "http" else "grpc"
    return Address(scheme, server, unquote(path["model"]), unquote(path["version"] or ""))
