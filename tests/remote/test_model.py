"""The client against a small server of the protocol, over REST and gRPC."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from repq_deploy.errors import BackendMissing, BadInput
from repq_deploy.remote.model import Refused, TensorInfo, open_remote
from tests.remote.stand_in import StandIn, serving

SCHEMES = ("http", "grpc")


def sums(images: np.ndarray) -> dict[str, np.ndarray]:
    """Two outputs, the second of which has more axes than logits have."""
    rows = images.reshape(len(images), -1).astype(np.float32)
    return {"logits": rows[:, :5] * 3, "tokens": rows[:, :6].reshape(-1, 2, 3)}


@pytest.fixture
def model() -> Iterator[StandIn]:
    with serving(StandIn(sums, (3, 2, 2), {"logits": (5,), "tokens": (2, 3)})) as served:
        yield served


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tensors_arrive_as_they_were_sent(model: StandIn, scheme: str):
    images = np.random.default_rng(0).standard_normal((3, 3, 2, 2), dtype=np.float32)
    with open_remote(model.urls[scheme]) as remote:
        assert remote.inputs == (TensorInfo("images", (-1, 3, 2, 2), "FP32"),)
        assert remote.outputs == (TensorInfo("logits", (-1, 5), "FP32"), TensorInfo("tokens", (-1, 2, 3), "FP32"))
        assert remote.ready()
        found = remote.infer(images[:, :, ::-1])  # not contiguous
    expected = sums(images[:, :, ::-1])
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)
    assert model.batches == [3]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bytes_are_sent_as_bytes(scheme: str):
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    bytes_in = StandIn(sums, (2, 2, 3), {"logits": (5,), "tokens": (2, 3)}, datatype="UINT8")
    with serving(bytes_in) as served, open_remote(served.urls[scheme]) as remote:
        assert remote.inputs[0].datatype == "UINT8"
        assert (remote.infer(images)["logits"] == sums(images)["logits"]).all()
        with pytest.raises(BadInput, match="images of int64"):
            remote.infer(images.astype(np.int64))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_server_says_beside_its_tensors(model: StandIn, scheme: str):
    with open_remote(model.urls[scheme]) as remote:  # it has no configuration to show
        assert (remote.largest_batch, dict(remote.parameters)) == (None, {})
    model.parameters, model.largest = {"repq.preprocess": "{}"}, 8
    with open_remote(model.urls[scheme]) as remote:
        assert (remote.largest_batch, dict(remote.parameters)) == (8, {"repq.preprocess": "{}"})


@pytest.mark.parametrize(("scheme", "status"), [("http", "503"), ("grpc", "UNAVAILABLE")])
def test_a_server_that_is_full(model: StandIn, scheme: str, status: str):
    with open_remote(model.urls[scheme]) as remote:
        model.status = 503
        assert not remote.ready()
        with pytest.raises(Refused, match=f"{remote.address}: status {status}: the queue is full") as refused:
            remote.infer(np.zeros((1, 3, 2, 2), np.float32))
    assert refused.value.is_busy


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_that_is_not_there(model: StandIn, scheme: str):
    with pytest.raises(Refused, match=r"/other: status .*: no such model") as refused:
        open_remote(model.urls[scheme].replace("tiny", "other"))
    assert not refused.value.is_busy


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_server_there(scheme: str):
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}/tiny"
        with pytest.raises(Refused, match=r"127.0.0.1:\d+/tiny: [^\n]*$"):
            open_remote(url, timeout=2)


def test_without_the_client(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tritonclient.http", None)
    with pytest.raises(BackendMissing, match=r"pip install 'repq-deploy\[client\]'"):
        open_remote("http://127.0.0.1:1/tiny")
