"""The float model beside engines: which engines, in which runtime, and what the figures say."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.bench.float_subjects import check_engines, with_float_models
from repq_deploy.engines.bench.measure import BenchPlan, Measured, measure
from repq_deploy.engines.float_twin import float_twin
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.errors import BadInput
from tests.engines.graphs import write_tiny


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceModel, Path]:
    source = write_tiny(tmp_path_factory.mktemp("float"))
    return source, build_engine(source.path, "onnxruntime").engine


def measured(label: str, batch: int, median: float) -> Measured:
    return Measured(label, batch, 5, median, median, median, 1.0, None, 1.0, 1.0, None)


def test_one_float_model_a_runtime_comes_first(built, tmp_path):
    source, engine = built
    plan = BenchPlan(
        (("a", engine), ("b", engine), ("file", source.path)), batches=(1,), cpus=(0,), rounds=1, seconds=0
    )
    against = check_engines(plan.subjects, source)
    assert list(against.engines) == ["a", "b"]
    whole = with_float_models(plan, against, tmp_path)
    assert [label for label, _ in whole.subjects] == ["float (onnxruntime)", "a", "b", "file"]
    assert whole.opened_like == {"float (onnxruntime)": engine}
    results = measure(whole)
    assert [one.label for one in results] == ["float (onnxruntime)", "a", "b", "file"]
    assert results[0].size_mb > 3 * 192 * 10 / 1e6  # floats
    verdicts = against.verdicts(results, threads=1)
    assert verdicts[0].speed.times[0].ratio == pytest.approx(results[1].speedup)


def test_verdicts_read_their_own_float_model(built):
    source, engine = built
    against = check_engines([("a", engine)], source)
    results = [measured("float (onnxruntime)", n, 10.0 * n) for n in (1, 8)]
    results += [measured("a", 1, 12.5), measured("a", 8, 40.0)]
    (found,) = against.verdicts(results, threads=2)
    assert (found.label, found.float_label, found.speed.threads) == ("a", "float (onnxruntime)", 2)
    assert [one.ratio for one in found.speed.times] == [0.8, 2.0]
    assert found.speed.faster is False
    assert any("at batch 8 it is 2.00 times" in reason.what for reason in found.speed.reasons)  # this CPU's come first


def test_errors(built, tmp_path):
    source, engine = built
    with pytest.raises(BadInput, match="none of the models is an engine"):
        check_engines([("file", source.path)], source)
    other = write_tiny(tmp_path, seed=1)
    with pytest.raises(BadInput, match=r"engine a was built from another file \(tiny.onnx\)"):
        check_engines([("a", engine)], other)
    plan = BenchPlan((("float (onnxruntime)", engine),))
    with pytest.raises(BadInput, match="two have one name"):
        with_float_models(plan, check_engines(plan.subjects, source), tmp_path)


def test_a_float_file_is_taken_for_any_engine(built, tmp_path):
    source, engine = built
    path = tmp_path / "float.onnx"
    onnx.save(float_twin(source.model), path)
    assert check_engines([("a", engine)], read_source(path)).source.bits == ""
