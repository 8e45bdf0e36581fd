"""``repq-bench``: what it prints, and its errors."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest

from repq_deploy.cli.bench import main
from repq_deploy.engines.api import build_engine
from repq_deploy.engines.bench import measure
from tests.engines.graphs import write_tiny


def bench(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["repq-bench", *map(str, arguments)])
    main()


OPTIONS = ("--batch", "1", "--rounds", "1", "--seconds", "0", "--threads", "1")


def test_table_and_json(tmp_path, monkeypatch, capsys):
    path = write_tiny(tmp_path).path
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, path, f"again={path}", *OPTIONS)
    lines = capsys.readouterr().out.splitlines()
    assert "ratios to tiny.onnx" in lines[0]
    assert [line.split()[1] for line in lines[2:]] == ["tiny.onnx", "again"]
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, path, "--json", *OPTIONS)
    found = json.loads(capsys.readouterr().out)
    assert found["results"][0]["speedup"] == 1


def test_a_system_that_pins_nothing_and_tells_no_memory(tmp_path, monkeypatch, capsys):
    path = write_tiny(tmp_path).path
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr("repq_deploy.system.cpus.sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    requests = []

    def answer(request: dict[str, object], label: str) -> list[dict[str, object]]:
        requests.append(request)
        return [{"sides": [2, 2]}, {"batch": 1, "milliseconds": [1.0] * 5, "memory_mb": None}]

    monkeypatch.setattr(measure, "_run", answer)
    options = ("--batch", "1", "--rounds", "2", "--seconds", "0")
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, path, *options)
    head, _, line = capsys.readouterr().out.splitlines()
    assert ", 2 CPUs of 2, not pinned; medians" in head
    assert line.split()[-3:-1] == ["-", "-"]
    assert [request["cpus"] for request in requests] == [(0, 1)] * 2
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, path, "--json", *options)
    (found,) = json.loads(capsys.readouterr().out)["results"]
    assert (found["memory_mb"], found["memory_ratio"]) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.onnx",), "no such file"),
        (("model.onnx", "--batch", "one"), "expected sizes as in 1,8"),
        (("model.onnx", "--plot", "plot.txt"), "ending in .png"),
        (("model.onnx", "--threads", "9999"), "CPUs"),
    ],
)
def test_usage_errors(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        bench(monkeypatch, *arguments)
    assert message in capsys.readouterr().err


def test_plot(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = write_tiny(tmp_path).path
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, path, "--plot", tmp_path / "plot.svg", *OPTIONS)
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_against_float(tmp_path, monkeypatch, capsys):
    source = write_tiny(tmp_path)
    engine = build_engine(source.path, "onnxruntime").engine
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, engine, "--against-float", source.path, *OPTIONS)
    lines = capsys.readouterr().out.splitlines()
    assert "ratios to float (onnxruntime)" in lines[0]
    assert lines[2].split()[1:3] == ["float", "(onnxruntime)"]
    assert lines[4].startswith("tiny.onnxruntime.engine: ")
    assert "the float model on this machine" in lines[4]
    with pytest.raises(SystemExit, match="0"):
        bench(monkeypatch, engine, "--against-float", source.path, "--json", *OPTIONS)
    found = json.loads(capsys.readouterr().out)
    (verdict,) = found["against_float"]
    slow, fast = (one["median_ms"] for one in found["results"])
    assert verdict["times"] == [{"batch": 1, "engine_ms": fast, "float_ms": slow, "ratio": slow / fast}]
    assert (verdict["label"], verdict["float_label"]) == ("tiny.onnxruntime.engine", "float (onnxruntime)")
    with pytest.raises(SystemExit, match="2"):
        bench(monkeypatch, source.path, "--against-float", source.path, "--dry-run")
    assert "none of the models is an engine" in capsys.readouterr().err
