"""The GPU harness with a stand-in for the GPU: comparison, verdicts, timing, errors, the table, and no GPU."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.backends import onnxruntime as ort
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.build import build_planned, plan_build
from repq_deploy.engines.reference import make_reference
from tests.engines.graphs import oracle, write_tiny

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPT.parent))  # as ``python run.py`` has it
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture
def engine(tmp_path: Path) -> tuple[Path, Any]:
    """An engine with its files, and the model that it is of."""
    source = write_tiny(tmp_path, bits="w8a6", levels=31)
    plan = plan_build(source, ort.BACKEND, stem=tmp_path / "tiny", profile=Profile(1, 8, 32))
    return build_planned(plan, make_reference(source, data=None, seed=0)).engine, source.model


class FakeRunner:
    """Computes what the model says, plus noise; a batch of n takes n milliseconds, and every hundredth ten times."""

    def __init__(self, model: Any, *, noise: float = 0.0, calls: list[tuple[int, ...]] | None = None) -> None:
        self.model, self.noise, self.calls = model, noise, calls if calls is not None else []

    def __call__(self, engine: bytes, backend: str) -> FakeRunner:
        assert engine
        assert backend == "onnxruntime"
        return self

    def run(self, images: np.ndarray) -> np.ndarray:
        self.calls.append(images.shape)
        logits = oracle(self.model, images).astype(np.float32)
        return logits + self.noise * np.random.default_rng(0).standard_normal(logits.shape).astype(np.float32)

    def milliseconds(self, images: np.ndarray, runs: int) -> list[float]:
        return [len(images) * (10.0 if index % 50 == 0 else 1.0) for index in range(runs)]

    def layers(self) -> list[dict[str, Any]]:
        return [
            {"Name": "__myl_Mha_1", "LayerType": "kgen", "Outputs": [{"Datatype": "Int8"}]},
            {"Name": "fc1", "LayerType": "gemm", "Outputs": [{"Format/Datatype": "Half"}]},
        ]


def test_a_right_engine_passes_and_is_timed(script: ModuleType, engine: tuple[Path, Any]) -> None:
    path, model = engine
    calls: list[tuple[int, ...]] = []
    result = script.measure(path, FakeRunner(model, calls=calls))
    assert result["verdict"] == "PASSED", result
    assert [shape[0] for shape in calls] == [1, 5]
    assert result["sqnr_db"] > 100
    assert result["top1_agreement"] == 1
    assert list(result["latency_ms"]) == ["1", "8", "32"]  # 64 is beyond the engine's profile
    assert result["latency_ms"]["8"] == {"median": 8.0, "p99": 80.0, "images_per_s": 1000.0}
    assert result["layers"]["kinds"] == {"kgen Int8": 1, "gemm Half": 1}
    assert result["layers"]["attention"] == ["__myl_Mha_1"]


def test_a_wrong_engine_fails_and_is_still_timed(script: ModuleType, engine: tuple[Path, Any]) -> None:
    path, model = engine
    result = script.measure(path, FakeRunner(model, noise=1.0))
    assert result["verdict"] == "FAILED"
    assert result["sqnr_db"] < result["required_sqnr_db"]
    assert result["latency_ms"]


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (np.ones((3, 2)), "PASSED"),
        (np.array([[1, 1], [1, 1], [1, np.nan]]), "FAILED"),
        (np.ones((2, 2)), "FAILED"),
        (np.array([[1, 1], [1, 1], [-1, -1]]), "FAILED"),
    ],
)
def test_comparison(script: ModuleType, found: np.ndarray, verdict: str) -> None:
    assert script.compare(np.ones((3, 2)), found, 20.0)["verdict"] == verdict


def test_one_bad_image_among_many_fails(script: ModuleType) -> None:
    expected = np.ones((100, 10))
    found = expected.copy()
    found[7] = 0
    figures = script.compare(expected, found, 15.0)
    assert figures["sqnr_db"] > 15
    assert figures["verdict"] == "FAILED"


def test_errors_are_results_in_the_runtimes_words(script: ModuleType, engine: tuple[Path, Any]) -> None:
    path, _ = engine

    def refuse(engine: bytes, backend: str) -> Any:
        raise RuntimeError("deserialize_cuda_engine: no kernel image for sm90")

    result = script.measure(path, refuse)
    assert (result["verdict"], result["latency_ms"]) == ("ERROR", {})
    assert "no kernel image for sm90" in result["reason"]
    path.write_bytes(path.read_bytes() + b"x")
    assert "not the one its manifest describes" in script.measure(path, refuse)["reason"]


def test_an_engine_without_its_manifest_is_a_result(script: ModuleType, engine: tuple[Path, Any]) -> None:
    path, model = engine
    path.with_suffix(".json").unlink()
    result = script.measure(path, FakeRunner(model))
    assert (result["verdict"], "FileNotFoundError" in result["reason"]) == ("ERROR", True)
    table = script.table({"engines": [{**result, "sqnr_db": 50.0}]})
    assert "| ERROR | 50.0 FileNotFoundError" in table


def test_the_table_is_against_fp16_of_the_same_model_that_passed(script: ModuleType) -> None:
    def one(bits: str, ms: float, verdict: str = "PASSED", **more: Any) -> dict[str, Any]:
        times = {"1": {"median": ms, "p99": 2 * ms, "images_per_s": 1000 / ms}} if ms else {}
        row = {"model": "deit_s", "bits": bits, "attention": "uniform", "compute": "int8", "target": "sm89"}
        return {**row, "verdict": verdict, "latency_ms": times, **more}

    engines = [
        one("float", 1.0, "FAILED", sqnr_db=1.0),
        one("float", 2.0, sqnr_db=60.0),
        one("w8a8", 0.5, sqnr_db=40.0),
        one("w4a4", 0, "ERROR", reason="a | b"),
    ]
    lines = script.table({"engines": engines}).splitlines()
    assert lines[4] == "| deit_s | w8a8 | uniform | int8 | sm89 | PASSED | 40.0 | 1: 0.500 (1.000) 4.00x |"
    assert lines[5].endswith("| ERROR | a / b |  |")
    assert "x |" not in "".join(script.table({"engines": engines[2:]}).splitlines()[2:])  # no baseline, no speed-up


def test_a_run_resumes_and_its_exit_status_is_the_verdict(
    script: ModuleType, engine: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = engine
    monkeypatch.setattr(script, "machine", lambda: {"gpu": "a fake"})
    assert script.main([str(path.parent)]) == 1  # a child of its own, where there is no such GPU
    results = json.loads((path.parent / "results.json").read_text())
    (result,) = results["engines"]
    assert result["verdict"] == "ERROR"
    results["engines"][0].update(verdict="PASSED", sqnr_db=50.0)
    (path.parent / "results.json").write_text(json.dumps(results))
    assert script.main([str(path.parent)]) == 0
    assert "| PASSED | 50.0 |" in (path.parent / "results.md").read_text()


def test_without_a_gpu_it_says_so_and_writes_nothing(
    script: ModuleType, engine: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("a GPU is here")
    path, _ = engine
    assert script.main([str(path.parent)]) == 3
    assert "no GPU" in capsys.readouterr().err
    assert not (path.parent / "results.json").exists()


def test_it_imports_nothing_of_the_project() -> None:
    assert "repq_deploy" not in [line.split()[1].split(".")[0] for line in _imports()]


def _imports() -> list[str]:
    return [line for line in SCRIPT.read_text().splitlines() if line.startswith(("import ", "from "))]
