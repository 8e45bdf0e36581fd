"""A model over protobuf's limit is two files that run as one; the limit is lowered here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repq_deploy.engines.backends.onnxruntime import BACKEND, open_onnx, open_reference
from repq_deploy.engines.bench.measure import BenchPlan, measure
from repq_deploy.engines.build import plan_build
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.errors import BadInput
from repq_deploy.export.canonical import write_canonical
from repq_deploy.export.float_model import float_onnx
from tests.conftest import float_model, images_for


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The same float model in one file and in two."""
    whole, parted = tmp_path / "whole.onnx", tmp_path / "parted.onnx"
    shape = tuple(images_for("vit").shape[1:])
    write_canonical(float_onnx(float_model("vit"), shape), whole)
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 10_000)
    write_canonical(float_onnx(float_model("vit"), shape), parted)
    return whole, parted


def test_two_files_run_as_one(split: tuple[Path, Path]) -> None:
    whole, parted = split
    weights = parted.with_name("parted.onnx.data")
    assert sorted(path.name for path in whole.parent.iterdir()) == ["parted.onnx", "parted.onnx.data", "whole.onnx"]
    assert parted.stat().st_size + weights.stat().st_size > whole.stat().st_size > weights.stat().st_size
    images = images_for("vit").numpy()
    expected = open_reference(read_source(whole))(images)
    np.testing.assert_array_equal(open_reference(read_source(parted))(images), expected)
    run, *_ = open_onnx(parted, threads=1)
    np.testing.assert_allclose(run(images), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        *[
            np.concatenate([onnx.numpy_helper.to_array(t).ravel() for t in onnx.load(path).graph.initializer])
            for path in split
        ]
    )


def test_its_size_is_that_of_both_files(split: tuple[Path, Path]) -> None:
    _, parted = split
    plan = BenchPlan((("parted", parted),), batches=(1,), cpus=(0,), rounds=1, seconds=0.0, warmup=1)
    (found,) = measure(plan)
    weights = parted.with_name("parted.onnx.data")
    assert found.size_mb == (parted.stat().st_size + weights.stat().st_size) / 1e6


def test_the_hash_is_of_both_files(split: tuple[Path, Path]) -> None:
    _, parted = split
    weights = parted.with_name("parted.onnx.data")
    before = read_source(parted).sha256
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert read_source(parted).sha256 != before


def test_an_engine_needs_one_file(split: tuple[Path, Path]) -> None:
    whole, parted = split

    def plan(source: SourceModel) -> None:
        plan_build(source, BACKEND, stem=parted.with_suffix(""))

    plan(read_source(whole))
    with pytest.raises(BadInput, match=r"keeps its weights in parted\.onnx\.data.*export with --bits"):
        plan(read_source(parted))


def test_weights_that_are_missing_truncated_or_elsewhere(split: tuple[Path, Path]) -> None:
    _, parted = split
    weights = parted.with_name("parted.onnx.data")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"parted\.onnx needs \d+: truncated"):
        read_source(parted)
    weights.unlink()
    with pytest.raises(BadInput, match=r"weights of parted\.onnx .*no such file"):
        read_source(parted)
    parted.rename(parted.with_name("renamed.onnx"))
    with pytest.raises(BadInput, match=r"keeps weights in other files than renamed\.onnx\.data"):
        read_source(parted.with_name("renamed.onnx"))


def test_if_one_cannot_be_written_neither_is_left(split: tuple[Path, Path]) -> None:
    _, parted = split
    model = onnx.load(parted)
    weights = parted.with_name("other.onnx.data")
    weights.mkdir()
    with pytest.raises(BadInput, match=r"output .*other\.onnx"):
        write_canonical(model, parted.with_name("other.onnx"))
    assert not parted.with_name("other.onnx").exists()
    assert not list(parted.parent.glob(".*.part"))
