"""Pretrained weights from a hub on the loopback: whole, cached, interrupted, refused, and out of reach."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save
from torch import Tensor

from repq_deploy.errors import BadInput
from repq_deploy.models import hub
from repq_deploy.models.zoo import create, resolve
from tests.models.loopback_hub import LoopbackHub, serving

FILE = "timm/deit_tiny_patch16_224.fb_in1k/model.safetensors"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return timm.create_model("deit_tiny_patch16_224").state_dict()


@pytest.fixture(scope="module")
def files(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {FILE: save(tensors)}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(hub, "SECONDS", 2.0)
    monkeypatch.setattr(hub, "STALLED", 0.6)
    return tmp_path


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does it before the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def at(server: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    point_to(server.url, monkeypatch)
    return server


def unfinished(cache: Path) -> list[Path]:
    return [*cache.rglob("*.incomplete")]


def test_download_then_the_cache(files, tensors, monkeypatch):
    seen, notes = [], []
    with serving(files) as server:
        at(server, monkeypatch)
        model = create(resolve("deit_t"), report=lambda *both: seen.append(both), note=notes.append)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert seen[-1] == (len(files[FILE]), len(files[FILE]))
    assert notes == []
    assert constants.HF_HUB_OFFLINE is False
    again = create(resolve("deit_t"), note=notes.append)  # the server is gone
    assert torch.equal(again.head.weight, tensors["head.weight"])
    assert len(notes) == 1
    assert "took the weights that the cache holds" in notes[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(create(resolve("deit_t"), note=notes.append).head.weight, tensors["head.weight"])
    assert len(notes) == 1


def test_the_cache_serves_where_the_hub_is_down(files, monkeypatch):
    notes = []
    with serving(files) as server:
        at(server, monkeypatch)
        create(resolve("deit_t"))
        server.mode = 500
        create(resolve("deit_t"), note=notes.append)
    assert "answered with status 500" in notes[0]


def test_slow_and_steady_arrives(files, monkeypatch):
    """In all it takes longer than a download may stand still."""
    seen = []
    with serving(files, "slow", pause=1.5) as server:
        create_at = at(server, monkeypatch)
        started = time.monotonic()
        create(resolve("deit_t"), report=lambda done, total: seen.append(done))
    assert create_at.mode == "slow"
    assert time.monotonic() - started > 1.2 > hub.STALLED
    assert len(seen) > 5
    assert seen == sorted(seen)


def test_a_download_that_broke_off_goes_on(files, tensors, monkeypatch):
    monkeypatch.setattr(hub, "STALLED", 5.0)
    with serving(files, "breaks off") as server:
        model = create(resolve("deit_t" if at(server, monkeypatch) else ""))
    assert torch.equal(model.head.weight, tensors["head.weight"])
    assert [line.split()[0] for line in server.requests].count("GET") == 2


@pytest.mark.parametrize("mode", ["stalls", "begins anew always"])
def test_a_download_that_does_not_get_on_ends(files, monkeypatch, empty_cache, mode):
    with serving(files, mode) as server:
        at(server, monkeypatch)
        started = time.monotonic()
        with pytest.raises(BadInput, match=r"has sent nothing for 0.6 s, after 11.\d of 22.9 MB.*try again.*HF_HOME"):
            create(resolve("deit_t"))
        assert time.monotonic() - started < 4
    assert unfinished(empty_cache) == []


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (404, "has no model.safetensors or pytorch_model.bin of timm/deit_tiny_patch16_224.fb_in1k"),
        (401, r"refuses them \(401\).*--checkpoint FILE.*HF_TOKEN"),
        (403, r"refuses them \(403\)"),
        (500, "answered with status 500.*try again later"),
        ("portal", "is no model hub"),
    ],
)
def test_what_a_hub_says_instead(files, monkeypatch, mode, words):
    with serving(files, mode) as server, pytest.raises(BadInput, match=f"model deit_t: .*{words}") as error:
        create(resolve("deit_t" if at(server, monkeypatch) else ""))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"<html>no weights</html>", b"", save({"other": torch.zeros(1)})])
def test_a_file_that_holds_no_such_weights(content, monkeypatch):
    with serving({FILE: content}) as server, pytest.raises(BadInput, match=r"in .*/model.safetensors cannot be loaded"):
        create(resolve("deit_t" if at(server, monkeypatch) else ""))


@pytest.fixture(params=["refuses", "is silent", "is a silent proxy", "is behind nothing", "has no address"])
def out_of_reach(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that cannot be reached: nothing listens, what does never answers, packets or the name get lost."""
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        url = f"http://{address}"
        if request.param == "refuses":
            listening.close()
        if request.param == "is a silent proxy":
            monkeypatch.setenv("https_proxy", url)
        names = {"is a silent proxy": "https://hub.invalid", "is behind nothing": "http://192.0.2.1"}
        names["has no address"] = "http://hub.invalid"
        point_to(names.get(request.param, url), monkeypatch)
        yield


@pytest.mark.usefixtures("out_of_reach")
def test_out_of_reach_is_said_at_once():
    started = time.monotonic()
    with pytest.raises(
        BadInput, match=r"(did not answer within 0.5 s|cannot be reached).*; use --checkpoint FILE or --no-pre.*HF_HOME"
    ):
        create(resolve("deit_t"))
    assert time.monotonic() - started < 3
    assert constants.HF_HUB_OFFLINE is False


def test_offline_without_a_cache(monkeypatch, empty_cache):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=f"HF_HUB_OFFLINE is set, and they are not in the cache {empty_cache}"):
        create(resolve("deit_t"))
