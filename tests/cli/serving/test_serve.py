"""``repq-serve``: what it says before it serves, and its errors; ``tests/serve`` is about what it does then."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from importlib import util
from pathlib import Path

import pytest
import yaml

from repq_deploy.cli.serving import serve
from repq_deploy.cli.serving.serve import main
from repq_deploy.engines.api import build_engine
from tests.engines.graphs import write_tiny


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(write_tiny(tmp_path_factory.mktemp("engine")).path, "onnxruntime").engine


def test_dry_run(call, engine):
    done = call(main, engine, f"b={engine}", "--dry-run")
    lines = [
        "tiny: w8a8 on onnxruntime, images float32 [N, 3, 8, 8]",
        "b: w8a8 on onnxruntime, images float32 [N, 3, 8, 8]",
    ]
    assert (done.code, done.out.splitlines()) == (0, [f"would serve {line}" for line in lines])
    found = json.loads(call(main, engine, "--dry-run", "--json").out)
    assert found["tiny"]["engine"] == str(engine) and found["tiny"]["bits"] == "w8a8"


def test_a_document_for_kserve(call, engine, tmp_path):
    file = tmp_path / "deploy.yaml"
    done = call(main, engine, "--workers", "2", "--kserve", file)
    assert done.code == 0 and f"kubectl apply -f {file}" in done.out
    arguments = yaml.safe_load(file.read_text())["spec"]["predictor"]["containers"][0]["args"]
    assert arguments[0] == "tiny=/mnt/models/tiny.onnxruntime.engine" and arguments[-2:] == ["--workers", "2"]
    assert call(main, engine, "--kserve", engine).code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("missing.engine",), 2, "engine missing.engine: no such file"),
        (("{engine}", "{engine}"), 2, "two engines have this name"),
        (("{engine}", "--batch", "33"), 2, "--batch 33: model tiny takes at most 32 images"),
        (("{engine}", "--port", "70000"), 2, "--port"),
        (("{engine}", "--workers", "0"), 2, "--workers"),
        (("{engine}", "--host", "127.0.0.300"), 2, "cannot listen there"),
        ((), 2, "Missing argument 'engines'"),
    ],
)
def test_errors_are_one_line(call, engine, arguments, code, message):
    pytest.importorskip("uvicorn")
    done = call(main, *(each.format(engine=engine) for each in arguments))
    assert done.code == code and message in done.err and len(done.err.splitlines()) <= 2


def test_a_port_that_is_taken(call, engine):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(main, engine, "--port", port)
    assert done.code == 2 and f"port {port} of 127.0.0.1: cannot listen there" in done.err


def test_an_engine_that_was_altered(call, engine, tmp_path):
    for path in engine.parent.glob("tiny.*"):
        shutil.copy(path, tmp_path)
    altered = tmp_path / engine.name
    altered.write_bytes(engine.read_bytes() + b"\0")
    done = call(main, altered)
    assert done.code == 2 and "truncated, altered or of another build" in done.err


def test_without_the_extra(call, engine, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "uvicorn" else object())
    done = call(main, engine)
    assert done.code == 3 and done.err.endswith(
        "needs uvicorn, which is not installed; run: pip install 'repq-deploy[serve]'\n"
    )


@pytest.mark.parametrize(
    ("host", "says"),
    [("0.0.0.0", True), ("127.0.0.2", False), ("::1", False), ("localhost", False)],  # noqa: S104
)
def test_it_says_when_others_can_reach_it(call, engine, monkeypatch, host, says):
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(asyncio, "run", lambda coroutine: coroutine.close())
    done = call(main, engine, "--host", host)
    assert (f"listens on {host}: whoever reaches this machine can ask" in " ".join(done.err.split())) == says
    assert serve.main.name == "repq-serve"
