"""The check of speed: with a stand-in clock, and on a tiny engine in its real runtimes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.api import BuildSettings, build_engine
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.bench import against_float
from repq_deploy.engines.bench.against_float import Speed, check_speed, compare_runs, speed_words
from repq_deploy.engines.bench.reasons import Reason
from repq_deploy.engines.bench.times import FloatTimes
from repq_deploy.engines.build import BuiltEngine
from repq_deploy.engines.manifest import manifest_path
from repq_deploy.engines.prove_engine import not_run
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.errors import BuildFailed
from tests.engines.graphs import write_tiny

IMAGE = np.zeros((1, 3, 8, 8), np.float32)


class Clock:
    """Time passes only where a run or an opening says so."""

    def __init__(self) -> None:
        self.now, self.opened = 0.0, [""]

    def __call__(self) -> float:
        return self.now

    def model(self, name: str, seconds: Iterator[float], opening: float = 0.0) -> Callable[[], Callable[..., None]]:
        def run(images: np.ndarray) -> None:
            self.now += next(seconds)

        def opened() -> Callable[..., None]:
            self.now += opening
            self.opened.append(name)
            return run

        return opened


def always(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def test_the_fastest_runs_count_and_turns_alternate():
    clock = Clock()
    engine = clock.model("engine", iter([0.001, 0.03, 0.03, 0.018, *always_of(0.03, 99)]))
    found = compare_runs(engine, clock.model("float", always(0.0522)), IMAGE, clock)
    assert (found.batch, found.float_ms) == (1, pytest.approx(52.2))
    assert found.engine_ms == pytest.approx(18)  # the 1 ms of the first run is no run that counts
    assert (found.ratio, found.faster) == (pytest.approx(2.9), True)
    assert clock.opened[1:] == ["float", "engine"] * 4


def always_of(seconds: float, count: int) -> list[float]:
    return [seconds] * count


def test_it_ends_in_time():
    """Models that take long to open get one turn, and as many more as begin within two seconds."""
    clock = Clock()
    compare_runs(clock.model("e", always(0.5), 0.7), clock.model("f", always(0.9), 0.7), IMAGE, clock)
    assert clock.opened[1:] == ["f", "e"]
    clock = Clock()
    compare_runs(clock.model("e", always(0.1), 0.1), clock.model("f", always(0.1), 0.1), IMAGE, clock)
    assert clock.opened[1:] == ["f", "e"] * 2


def test_a_run_that_takes_longer_than_a_second_is_not_repeated():
    clock = Clock()
    with pytest.raises(against_float._TooSlow, match=r"one run of the float model takes 3\.1 s"):
        compare_runs(clock.model("e", always(0.1)), clock.model("f", always(3.1)), IMAGE, clock)
    assert clock.now == pytest.approx(3.1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return write_tiny(tmp_path_factory.mktemp("speed"))


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def built(request: pytest.FixtureRequest, source: SourceModel) -> BuiltEngine:
    if not backend_named(request.param).is_installed():
        pytest.skip(f"{request.param} is not installed")
    return build_engine(source.path, request.param)


class Steps:
    """A clock that gives each reading a given second more than the last."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_an_engine_in_its_runtime_against_the_twin(built, source, monkeypatch):
    """Both really run; the clock says that they take the same, and so batch 8 is tried, and reasons are given."""
    folders = []
    real = against_float.float_file
    monkeypatch.setattr(against_float, "float_file", lambda *all: (folders.append(all[-1]), real(*all)))
    before = manifest_path(built.engine).read_bytes()
    found = check_speed(built.engine, built.manifest, source, clock=Steps(0.01))
    assert found.skipped is None
    assert [(one.batch, round(one.ratio, 6)) for one in found.times] == [(1, 1.0), (8, 1.0)]
    assert (found.faster, len(found.reasons) > 0) == (False, True)
    assert not folders[0].parent.exists()
    assert manifest_path(built.engine).read_bytes() == before  # the manifest holds no times


def test_what_cannot_be_measured_is_said_and_nothing_raised(built, source, monkeypatch):
    found = check_speed(built.engine, built.manifest, source, clock=Steps(5.0))
    assert found.skipped == "one run of the float model takes 5.0 s; repq-bench measures it"
    assert found.faster is None
    assert speed_words(found) == [f"speed against the float model: not measured: {found.skipped}"]
    tolerance = built.manifest.validation.tolerance
    elsewhere = dataclasses.replace(built.manifest, validation=not_run("no GPU here", tolerance))
    assert check_speed(built.engine, elsewhere, source).skipped == "the engine is BUILT, NOT RUN"

    def refuse(*args: object) -> None:
        raise BuildFailed("model float: refused")

    monkeypatch.setattr(against_float, "float_file", refuse)
    assert check_speed(built.engine, built.manifest, source).skipped == "model float: refused"


def test_python_asks_for_it_and_the_command_need_not(source, monkeypatch):
    monkeypatch.setattr("repq_deploy.engines.api.check_speed", lambda engine, manifest, source: str(engine.exists()))
    assert build_engine(source.path, "onnxruntime").speed is None
    assert build_engine(source.path, "onnxruntime", settings=BuildSettings(check_speed=True)).speed == "True"


def test_a_gpu_gets_an_engine_of_the_twin(source, tmp_path, monkeypatch):
    """Lowered by the backend's passes, built by its builder; a stand-in notes what it was given."""
    backend = backend_named("tensorrt")
    given = []

    def build(self: object, model: object, output: Path, **options: object) -> None:
        given.append((model, options["targets"]))

    monkeypatch.setattr(type(backend), "build", build)
    manifest = build_engine(source.path, "onnxruntime").manifest
    manifest = dataclasses.replace(manifest, precision="fp16", target="sm89", cpu=None)
    against_float.float_file(source, manifest, backend, tmp_path / "float.engine")
    ((model, targets),) = given
    assert targets == ("sm89",)
    assert "Cast" in {node.op_type for node in model.graph.node}
    assert not [node for node in model.graph.node if "Quantize" in node.op_type]


def test_the_twin_of_a_file_is_read_again(built, source, tmp_path):
    against_float.float_file(source, built.manifest, backend_named(built.manifest.backend), tmp_path / "float.onnx")
    assert read_source(tmp_path / "float.onnx").bits == ""


@pytest.mark.parametrize(("load", "said"), [(2.4, None), (5.9, 5.9)])
def test_a_busy_machine_is_noted(monkeypatch, load, said):
    monkeypatch.setattr(against_float, "usable_cpus", lambda: (0, 1))
    monkeypatch.setattr(against_float.os, "getloadavg", lambda: (load, 9.0, 9.0), raising=False)
    assert against_float._crowd() == said
    monkeypatch.delattr(against_float.os, "getloadavg")
    assert against_float._crowd() is None


def test_words():
    fast = Speed(2, (FloatTimes(1, 18.14, 52.6),))
    assert speed_words(fast) == [
        "2.9 times as fast as the float model on this machine (18.1 ms against 52.6 ms, batch 1, 2 threads)"
    ]
    slow = Speed(1, (FloatTimes(1, 2.0, 2.09), FloatTimes(8, 8.0, 16.0)), (Reason("it is small", "take batches"),))
    assert speed_words(slow) == [
        "WARNING: not faster than the float model on this machine: 1.04 times as fast (2 ms against 2.09 ms, batch 1, "
        "1 thread)",
        "  batch 8: 2.00 times as fast (8 ms against 16 ms)",
        "  reason: it is small",
        "  to do: take batches",
    ]
    assert slow.to_dict()["times"][1] == {"batch": 8, "engine_ms": 8.0, "float_ms": 16.0, "ratio": 2.0}
    assert (slow.to_dict()["faster"], Speed(2, skipped="x").to_dict()["faster"]) == (False, None)
    busy = speed_words(Speed(2, fast.times, load=5.94))
    assert busy[0] == speed_words(fast)[0]
    assert "other programs were busy meanwhile (load 5.9)" in busy[1]
    gpu = Speed(None, (FloatTimes(1, 1.0, 1.05),))
    assert speed_words(gpu)[0].endswith("(1 ms against 1.05 ms, batch 1, on the GPU)")
