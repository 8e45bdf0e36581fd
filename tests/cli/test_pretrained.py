"""The whole way of pretrained weights, as a user's commands take it: hub, cache, and neither."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

from tests.models.loopback_hub import serving

pytestmark = pytest.mark.slow


REPO = "timm/deit_tiny_patch16_224.fb_in1k"
IN_TIME = 20


def export(folder: Path, endpoint: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``repq-export deit_t`` in ``folder``, whose ``hub`` is the cache."""
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    script = "from repq_deploy.cli.export import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, "deit_t", "-o", str(folder / "x.onnx"), *options],
        env=clean | own | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_hub_then_cache_then_no_hub(tmp_path):
    options = ("--bits", "w8a8", "--method", "minmax", "--num-calib", "4")
    with serving({f"{REPO}/model.safetensors": save(timm.create_model("deit_tiny_patch16_224").state_dict())}) as hub:
        first = export(tmp_path, hub.url, *options)
        assert first.returncode == 0, first.stderr
        assert any(line.startswith("GET") for line in hub.requests)
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        again = export(tmp_path, hub.url, "--float", **environment)
        assert again.returncode == 0, again.stderr
        assert ("took the weights that the cache holds" in again.stderr) == (not environment)


@pytest.mark.parametrize("case", ["refuses", "is silent", "is a silent proxy", "is behind nothing"])
def test_out_of_reach_is_said_in_time(tmp_path, case):
    """With the start of Python and of torch."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if case == "refuses":
            listening.close()
        names = {"is a silent proxy": "https://hub.invalid", "is behind nothing": "http://192.0.2.1"}
        proxy = {"HTTPS_PROXY": url, "HTTP_PROXY": url} if case == "is a silent proxy" else {}
        started = time.monotonic()
        done = export(tmp_path, names.get(case, url), **proxy)
    assert time.monotonic() - started < IN_TIME
    assert done.returncode == 2
    assert [word for word in ("--checkpoint", "HF_HOME", "HF_HUB_OFFLINE") if word not in done.stderr] == []
    assert done.stderr.count("error") == 1
    assert not (tmp_path / "x.onnx").exists()
