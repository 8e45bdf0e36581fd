"""``repq-eval`` of served models, in process, against a small server of the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repq_deploy.calib_data import Preprocess
from repq_deploy.cli import evaluate
from repq_deploy.engines.api import BuildSettings, build_engine
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.runner import open_runner
from tests.engines.graphs import CLASSES, SIDE, write_tiny
from tests.remote.stand_in import StandIn, serving

PREPROCESS = Preprocess((SIDE, SIDE), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to_json()
SCHEMES = ("http", "grpc")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine, and images with labels."""
    folder = tmp_path_factory.mktemp("work")
    file = write_tiny(folder).path
    model = onnx.load(file)
    next(entry for entry in model.metadata_props if entry.key == "repq.preprocess").value = PREPROCESS
    onnx.save(model, file)
    build_engine(file, "onnxruntime", settings=BuildSettings(profile=Profile(1, 4, 8)))
    images = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(20) % CLASSES)
    return folder


@pytest.fixture
def engine(work: Path) -> Path:
    return work / "tiny.onnxruntime.engine"


@pytest.fixture
def served(engine: Path) -> Iterator[StandIn]:
    runner, _ = open_runner(engine)
    model = StandIn(lambda images: {"logits": runner(images)}, (3, SIDE, SIDE), {"logits": (CLASSES,)})
    model.parameters, model.largest = {"repq.preprocess": PREPROCESS}, 8
    with serving(model):
        yield model


@pytest.fixture
def run(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: call(evaluate.main, *arguments)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_numbers_as_the_file(run: Callable[..., Any], served: StandIn, work: Path, engine: Path, scheme: str):
    data = ("--data", work / "data.npz", "--json")
    alone = json.loads(run(engine, *data).out)
    done = run(served.urls[scheme], *data, "--against", engine)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["kind"], found["images"]) == (f"served model ({scheme})", 20)
    assert (found["top1"], found["top5"]) == (alone["top1"], alone["top5"])
    assert (found["agreement"], found["largest_difference"], found["equal"]) == (100, 0, True)
    proof = found["proof"]
    assert (proof["validation"]["verdict"], proof["equal_to_engine"]) == ("PASSED", True)
    assert proof["validation"]["rows"] == {"batches": [1, 4, 8], "max_difference": 0}
    assert max(served.batches) == 8  # as the server says, though 32 are evaluated at a time


@pytest.mark.parametrize("scheme", SCHEMES)
def test_our_own_server(run: Callable[..., Any], work: Path, engine: Path, scheme: str):
    """Which says the preprocessing by itself."""
    pytest.importorskip("uvicorn")
    from repq_deploy.serve.settings import ServeSettings
    from tests.serve.running import running

    with running(ServeSettings(engines={"tiny": engine})) as live:
        port = live.serving.port if scheme == "http" else live.serving.grpc_port
        done = run(f"{scheme}://127.0.0.1:{port}/tiny", "--data", work / "data.npz", "--against", engine, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["proof"]["validation"]["verdict"], found["equal"], found["images"]) == ("PASSED", True, 20)


def test_what_it_prints(run: Callable[..., Any], served: StandIn, work: Path, engine: Path):
    done = run(served.urls["http"], "--data", work / "data.npz", "--against", engine)
    lines = done.out.splitlines()
    assert lines[0].startswith(f"reference of {engine}, 6 images: SQNR ")
    assert lines[1:3] == [
        "equal images in other rows, in batches of 1, 4, 8: outputs are equal",
        "equal to the engine run here, to the bit: yes",
    ]
    assert lines[3].startswith("PASSED: SQNR ")
    assert lines[-1].endswith("; all outputs equal to the bit")


def test_an_engine_that_need_not_run_and_no_data(
    run: Callable[..., Any], served: StandIn, engine: Path, tmp_path: Path
):
    """Its manifest and its reference are enough."""
    for file in (engine.with_suffix(".json"), engine.with_name("tiny.reference.npz")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    served.parameters = None  # a server that says nothing: the manifest knows the preprocessing
    done = run(served.urls["grpc"], "--reference", tmp_path / engine.name)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == f"{served.urls['grpc']}: served model (grpc)"
    assert done.out.splitlines()[-1].startswith("PASSED: SQNR ")
    assert "to the bit" not in done.out
    planned = run(served.urls["grpc"], "--reference", tmp_path / engine.name, "--dry-run")
    assert planned.out.splitlines()[-1] == "would evaluate on an engine's reference"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda rows: -rows, "FAILED: SQNR"),
        (lambda rows: np.concatenate([rows[:5], -rows[5:]]), "FAILED: in other rows of a batch of 8: SQNR"),
    ],
)
def test_a_server_that_computes_something_else(
    run: Callable[..., Any], served: StandIn, engine: Path, wrong: Callable[[Any], Any], said: str
):
    right = served.predict
    served.predict = lambda images: {"logits": wrong(right(images)["logits"])}
    done = run(served.urls["http"], "--reference", engine)
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith(said)


def test_small_differences_are_said(run: Callable[..., Any], served: StandIn, work: Path, engine: Path):
    right = served.predict
    served.predict = lambda images: {"logits": right(images)["logits"] * np.float32(1.0001)}
    done = run(served.urls["http"], "--data", work / "data.npz", "--against", engine)
    assert done.code == 0
    assert "equal to the engine run here, to the bit: no" in done.out.splitlines()
    assert "; outputs differ by up to " in done.out.splitlines()[-1]


def test_bytes_are_what_a_server_that_takes_them_gets(run: Callable[..., Any], work: Path, engine: Path):
    runner, _ = open_runner(engine)
    preprocess = Preprocess.from_json(PREPROCESS)
    model = StandIn(
        lambda images: {"logits": runner(preprocess.normalized(images))},
        (SIDE, SIDE, 3),
        {"logits": (CLASSES,)},
        datatype="UINT8",
        parameters={"repq.preprocess": PREPROCESS},
    )
    with serving(model):
        done = run(model.urls["http"], "--data", work / "data.npz", "--against", engine, "--json")
        assert done.code == 2
        assert "takes uint8 [N, 8, 8, 3] and gives 10 numbers" in done.err
        done = run(model.urls["http"], "--data", work / "data.npz", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["top1"] == json.loads(run(engine, "--data", work / "data.npz", "--json").out)["top1"]


def test_what_is_said_where_something_is_missing(
    run: Callable[..., Any], served: StandIn, work: Path, engine: Path, tmp_path: Path
):
    url, data = served.urls["http"], ("--data", work / "data.npz")
    for arguments, said in (
        ((url,), "--data: is missing; name the images to evaluate on, or, for a served model, an engine"),
        ((engine, "--reference", engine, *data), "--reference "),
        ((url, "--reference", tmp_path / "x.onnx"), "expected an engine's name, which ends in .engine"),
        ((url, "--reference", tmp_path / "x.engine"), "manifest "),
        ((url.replace("tiny", "huge"), *data), "no such model"),
        (("ftp://127.0.0.1:1/tiny", *data), "scheme 'ftp'"),
        ((url, *data, "--num-classes", "3"), "are for a model's name"),
    ):
        done = run(*arguments)
        assert done.code == 2
        assert said in done.err
    served.parameters = None
    assert "does not say its preprocessing; name a file that does: --preprocess-from" in run(url, *data).err
    assert run(url, *data, "--preprocess-from", engine).code == 0
    served.parameters, served.shape = {"repq.preprocess": PREPROCESS}, (3, SIDE)
    assert "expected one, images [batch, 3, H, W] in FP32, or in UINT8" in run(url, *data).err
