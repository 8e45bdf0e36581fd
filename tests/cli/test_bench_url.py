"""``repq-bench URL``: what it prints, draws and refuses, against the stand-in for a server."""

from __future__ import annotations

import json
import sys

import pytest

from repq_deploy.cli.bench import main
from repq_deploy.engines.api import build_engine
from repq_deploy.engines.runner import open_engine
from tests.engines.graphs import CLASSES, SIDE, write_tiny
from tests.remote.stand_in import StandIn, serving

QUICK = ("--rounds", "1", "--seconds", "0.2", "--threads", "1")


def bench(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["repq-bench", *map(str, arguments)])
    main()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return build_engine(write_tiny(tmp_path_factory.mktemp("engine")).path, "onnxruntime").engine


@pytest.fixture(scope="module")
def url(engine):
    runner, _ = open_engine(engine)
    served = StandIn(lambda images: {"logits": runner(images)}, (3, SIDE, SIDE), {"logits": (CLASSES,)})
    with serving(served):
        yield served.urls["http"]


def test_table_and_plot_beside_the_engine(engine, url, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    options = ("--concurrency", "1,2", "--rate", "50", "--arrivals", "fixed", "--against", engine)
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, url, *options, "--plot", tmp_path / "load.svg", *QUICK)
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert "1 rounds of 0.2 s, ms from when a request was due" in first
    assert head.split()[:2] == ["batch", "load"]
    assert [row[:20].rstrip() for row in rows] == [
        "    1  1 at a time",
        "    1  2 at a time",
        "    1  50/s fixed",
        "    1  engine",
        "    8  engine",
    ]
    assert "<svg" in (tmp_path / "load.svg").read_text()


def test_json(url, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, url, "--rate", "40", "--batch", "3", "--json", *QUICK)
    found = json.loads(capsys.readouterr().out)
    (one,) = found["loads"]
    assert (one["loop"], one["batch"], one["sent"], one["answered"]) == ("40/s poisson", 3, 8, 8)
    assert (one["of_engine"], found["engine"]) == (None, [])
    assert one["images_per_s"] == pytest.approx(3 * 40, rel=0.5)


def test_dry_run_says_the_loads(url, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, url, "--dry-run")
    assert capsys.readouterr().out == f"would send 1 at a time, 4 at a time, 16 at a time to {url}\n"


SERVED = "http://127.0.0.1:1/m"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SERVED, "--concurrency", "few"), "--concurrency 'few': expected numbers as in 1,4,16"),
        ((SERVED, "--concurrency", "1.5"), "--concurrency '1.5'"),
        ((SERVED, "--concurrency", "0"), "concurrency 0: expected 1 to 1024"),
        ((SERVED, "--rate", "nan"), "rate nan"),
        ((SERVED, "--rate", "5", "--arrivals", "never"), "expected poisson or fixed"),
        ((SERVED, "--against-float", "m.onnx"), "--against-float: has no effect beside a served model"),
        ((SERVED, "m.onnx"), "a served one is measured alone"),
        ((SERVED, "--against", "none.engine"), "no such file"),
        (("http://127.0.0.1/m",), "no port"),
        (("m.onnx", "--rate", "5"), "--rate: has no effect beside a file"),
        ((SERVED, *QUICK), "Connection refused"),
    ],
)
def test_usage_errors(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        bench(monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
