"""Addresses of served models, and what is none."""

from __future__ import annotations

import pytest

from repq_deploy.errors import BadInput
from repq_deploy.remote.address import Address, is_address, parse_address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/deit_s", Address("http", "localhost:8000", "deit_s")),
        ("grpc://10.0.0.1:8001/deit_s/", Address("grpc", "10.0.0.1:8001", "deit_s")),
        ("http://h:1/v2/models/a%20b", Address("http", "h:1", "a b")),
        ("http://h:1/v2/models/deit_s/versions/3", Address("http", "h:1", "deit_s", "3")),
        ("grpc://[::1]:8001/deit_s", Address("grpc", "[::1]:8001", "deit_s")),
    ],
)
def test_what_an_address_says(url: str, expected: Address):
    assert is_address(url)
    assert parse_address(url) == expected


def test_it_is_written_as_it_was_read():
    assert str(parse_address("http://h:1/v2/models/m/versions/3")) == "http://h:1/m/versions/3"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://h:1/m", "scheme 'ftp'"),
        ("http://h/m", "no port"),
        ("http://h:99999/m", "[Pp]ort"),
        ("http://h:1/", "no model"),
        ("http://:1/m", "no host"),
        ("http://h:1/a/b/c", "more than a host"),
        ("http://h:1/m?x=1", "more than a host"),
        ("http://user@h:1/m", "more than a host"),
        ("http://[::1/m", "expected http://HOST:PORT/MODEL"),
    ],
)
def test_what_is_no_address(url: str, said: str):
    with pytest.raises(BadInput, match=said):
        parse_address(url)


def test_files_and_models_are_none():
    assert not is_address("vit.onnxruntime.engine")
    assert not is_address("deit_s")
