"""An engine of bytes with named classes, asked as the guide says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.api import build_engine
from repq_deploy.engines.runner import open_engine
from repq_deploy.export import names
from repq_deploy.serve.settings import ServeSettings
from tests.engines.graphs import CLASSES, SIDE
from tests.engines.test_pixels import write_pixels
from tests.serve.running import Live, running

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "serving.md"
NAMES = tuple(f"class {number}" for number in range(CLASSES))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_pixels(tmp_path_factory.mktemp("pixels"), **{names.CLASSES: json.dumps(NAMES)})
    return build_engine(source.path, "onnxruntime").engine


@pytest.fixture(scope="module")
def live(pixels: Path) -> Iterator[Live]:
    with running(ServeSettings(engines={"tiny": pixels})) as found:
        yield found


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_leading_classes_by_name_for_json_and_for_raw_bytes(live: Live, pixels: Path):
    batch = photos(3)
    logits = open_engine(pixels)[0](batch)
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(batch.shape), "data": batch.ravel().tolist()}
    wanted = [{"name": "logits", "parameters": {"classification": 1}}]
    (output,) = live.infer({"inputs": [tensor], "outputs": wanted}).json()["outputs"]
    assert output["data"] == [f"{row.max():f}:{row.argmax()}:{NAMES[row.argmax()]}" for row in logits]
    raw = live.infer(batch.tobytes(), {"Inference-Header-Content-Length": "0"}).json()["outputs"][0]
    np.testing.assert_array_equal(np.array(raw["data"], np.float32).reshape(raw["shape"]), logits)
    for data in ([256] * 192, [-1] * 192, [0.5] * 192):
        refused = live.infer({"inputs": [{**tensor, "shape": [1, SIDE, SIDE, 3], "data": data}]})
        assert (refused.status, "no numbers of UINT8" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_client_of_the_guide(live: Live, pixels: Path, tmp_path, monkeypatch, capsys, protocol: str):
    pytest.importorskip(f"tritonclient.{protocol}", reason="the extra `client` is not installed")
    batch = photos(2)
    monkeypatch.chdir(tmp_path)
    batch.tofile("images.raw")
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    port = live.serving.port if protocol == "http" else live.serving.grpc_port
    for shown, here in (
        ("28, 28", f"{SIDE}, {SIDE}"),
        ("demo", "tiny"),
        ("8000", str(port)),
        (".http", f".{protocol}"),
    ):
        assert shown in code
        code = code.replace(shown, here)
    exec(code, {})  # noqa: S102 - of a page of ours
    assert capsys.readouterr().out.strip() == str(open_engine(pixels)[0](batch).argmax(axis=1))
