"""The command lines for Polygraphy and ``trtexec``, word by word, and that their limits are our own."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.prove_engine import PASSED, Tolerance, compare, sqnr_db
from repq_deploy.exchange.commands import polygraphy_run, trtexec_build, trtexec_compare, trtexec_run
from repq_deploy.exchange.tensors import ReferenceTensors

IMAGES = np.zeros((6, 3, 8, 8), np.float32)


def tensors(*names: str) -> ReferenceTensors:
    rng = np.random.default_rng(0)
    return ReferenceTensors(IMAGES, {name: rng.normal(3, 2, size=(6, 5)).astype(np.float32) for name in names})


def options(line: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in shlex.split(line) if word.startswith("--"))


@pytest.mark.parametrize(("version", "typed"), [((10, 3), True), ((10, 16), True), ((11, 0), False)])
def test_building_asks_for_types_as_the_graph_has_them(version: tuple[int, int], typed: bool) -> None:
    line = trtexec_build(
        Path("model.onnx"),
        Path("my engine.plan"),
        image_shape=(3, 8, 8),
        profile=Profile(1, 2, 4),
        timing_cache=Path("timing.cache"),
        version=version,
    )
    found = options(line)
    assert found.pop("--stronglyTyped", None) == ("" if typed else None)
    assert found == {
        "--onnx": "model.onnx",
        "--saveEngine": "my engine.plan",
        "--minShapes": "images:1x3x8x8",
        "--optShapes": "images:2x3x8x8",
        "--maxShapes": "images:4x3x8x8",
        "--noTF32": "",
        "--timingCacheFile": "timing.cache",
        "--skipInference": "",
    }
    assert not {"--int8", "--fp16", "--best"} & set(found)


def test_running_loads_the_images() -> None:
    found = options(trtexec_run(Path("x.plan"), Path("dir"), tensors("logits")))
    assert found == {
        "--loadEngine": "x.plan",
        "--shapes": "images:6x3x8x8",
        "--loadInputs": "images:dir/images.bin",
    }


def test_the_limit_of_one_output_is_its_mean_squared_error() -> None:
    """The largest noise that our validation lets pass is the largest that ``trtexec`` does."""
    one, least = tensors("logits"), 20.0
    found = options(trtexec_compare(Path("x.plan"), Path("dir"), one, min_sqnr_db=least))
    assert found["--loadRefOutputs"] == "logits:dir/logits.bin"
    assert found["--accuracyAlgorithm"] == "l2"
    limit = float(found["--accuracyThreshold"])
    expected = one.outputs["logits"]
    for factor, passes in ((0.99, True), (1.01, False)):
        noise = np.random.default_rng(1).normal(size=expected.shape)
        noise *= np.sqrt(factor * limit / np.square(noise).mean())
        noisy = (expected + noise).astype(np.float32)
        assert (np.square(noisy - expected).mean() < limit) == passes
        assert (sqnr_db(expected, noisy) >= least) == passes
        assert (compare(expected, noisy, Tolerance(least, 60.0)).verdict == PASSED) == passes


def test_several_outputs_have_one_limit_that_no_right_engine_crosses() -> None:
    two, least = tensors("logits", "blocks/2"), 15.0
    found = options(trtexec_compare(Path("x.plan"), Path("dir"), two, min_sqnr_db=least))
    assert found["--loadRefOutputs"] == "logits:dir/logits.bin,blocks/2:dir/blocks_2.bin"
    assert found["--accuracyAlgorithm"] == "cos"
    limit, rng = float(found["--accuracyThreshold"]), np.random.default_rng(1)
    losses = []
    for expected in two.outputs.values():
        for _ in range(50):
            noise = rng.normal(size=expected.shape)
            noise *= np.linalg.norm(expected) / np.linalg.norm(noise) * 10 ** (-least / 20)
            noisy = expected + noise
            cosine = (expected * noisy).sum() / np.linalg.norm(expected) / np.linalg.norm(noisy)
            losses.append(1 - cosine)
    assert 0.5 * limit < max(losses) < limit


def test_polygraphy_compares_by_the_same_ratio() -> None:
    line = polygraphy_run(
        Path("a b.engine"), Path("dir"), runner="trt", kind="engine", min_sqnr_db=25.0, setting="POLYGRAPHY_X=1"
    )
    assert shlex.split(line) == [
        *("POLYGRAPHY_X=1", "polygraphy", "run", "a b.engine", "--trt", "--model-type", "engine"),
        *("--load-inputs", "dir/inputs.json", "--load-outputs", "dir/outputs.json"),
        *("--compare", "snr", "--snr-threshold", "25.00"),
    ]
