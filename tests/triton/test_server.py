"""The real Triton runs the repository: logits equal to the bit, batched, at concurrency 16, over HTTP and gRPC."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tritonclient import http

from repq_deploy.calib_data import Preprocess
from repq_deploy.cli import build_engine, evaluate
from repq_deploy.engines.runner import open_runner
from repq_deploy.remote.model import Refused, open_remote
from tests.conftest import exported, images_for
from tests.triton.server import SCRIPT, Server, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.exists(), reason="no Triton here: run `make triton-env`, 24 s and 314 MB"),
]
SCHEMES = ("http", "grpc")
NAMES = ["ape", "bee", "cat", "dog", "eel"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    model = exported("vit")
    recorded = Preprocess((32, 32), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to_json()
    told = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, told | {"repq.classes": json.dumps(NAMES), "repq.preprocess": recorded})
    (folder / "vit.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[Server]:
    command = [work / "vit.onnx", "--backend", "onnxruntime", "--triton-repository", work / "models"]
    command += ["--triton-backend", "python", "--max-batch", "16", "--no-speed-check", "-q"]
    parser = build_engine.main.parser()
    parser(args=[str(word) for word in command], standalone_mode=False)
    with serving(work / "models", work / "log") as found:
        yield found


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return images_for("vit", 64).numpy()


@pytest.fixture(scope="module")
def expected(work: Path, images: np.ndarray) -> np.ndarray:
    return open_runner(work / "vit.onnxruntime.engine")[0](images)


def test_it_was_proven_and_warmed_up_before_it_was_ready(server: Server):
    log = server.log.read_text(errors="replace")
    assert "reference outputs: SQNR" in log
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http}/v2/models/vit/stats") as answer:
        (found,) = json.load(answer)["model_stats"]
    assert {one["batch_size"] for one in found["batch_stats"]} >= {1, 8}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_batches(server: Server, images: np.ndarray, expected: np.ndarray, scheme: str):
    with open_remote(server.url(scheme, "vit")) as model:
        assert model.largest_batch == 16
        assert json.loads(model.parameters["repq.classes"]) == NAMES
        for size in (1, 3, 8, 16):
            assert model.infer(images[:size])["logits"].tobytes() == expected[:size].tobytes()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sixteen_at_once(server: Server, images: np.ndarray, expected: np.ndarray, scheme: str):
    def ask(first: int) -> bytes:
        with open_remote(server.url(scheme, "vit")) as model:
            return b"".join(model.infer(images[one : one + 1])["logits"].tobytes() for one in range(first, 64, 16))

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    assert found == [expected[first::16].tobytes() for first in range(16)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_verdict_at_the_end_of_the_wire(
    server: Server, work: Path, images: np.ndarray, scheme: str, capsys: pytest.CaptureFixture[str]
):
    """``repq-eval``, as for a file: the reference, other rows and batches, and images of its own."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    np.savez(work / "data.npz", images=pixels)
    arguments = [server.url(scheme, "vit"), "--data", work / "data.npz", "--against", work / "vit.onnxruntime.engine"]
    evaluate.main.parser()(args=[*map(str, arguments), "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert (found["agreement"], found["largest_difference"], found["equal"]) == (100, 0, True)
    proof = found["proof"]
    assert (proof["validation"]["verdict"], proof["equal_to_engine"]) == ("PASSED", True)
    assert proof["validation"]["rows"] == {"batches": [1, 8, 16], "max_difference": 0}


def test_labels(server: Server, images: np.ndarray, expected: np.ndarray):
    """Triton's own classification: value, index and name of the best classes."""
    client: Any = http.InferenceServerClient(f"127.0.0.1:{server.http}")
    sent = http.InferInput("images", [1, 3, 32, 32], "FP32")
    sent.set_data_from_numpy(images[:1])
    answer = client.infer("vit", [sent], outputs=[http.InferRequestedOutput("logits", class_count=2)])
    best = np.argsort(-expected[0])[:2]
    assert [text.decode().split(":")[1:] for text in answer.as_numpy("logits")[0]] == [
        [str(index), NAMES[index]] for index in best
    ]
    client.close()


def test_what_is_refused(server: Server, images: np.ndarray, expected: np.ndarray):
    with open_remote(server.url("http", "vit")) as model:
        for wrong, said in (
            (np.full_like(images[:1], np.nan), "NaN or infinite"),
            (images[:17], "batch-size must be <= 16"),
            (images[:1, :, :5], "unexpected shape"),
            (images[:1].astype(np.uint8), "data-type is 'UINT8'"),
        ):
            with pytest.raises(Refused, match=said):
                model.infer(wrong)
        assert model.infer(images[:1])["logits"].tobytes() == expected[:1].tobytes()
