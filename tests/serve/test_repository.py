"""How a new file takes the place of an old one: no request is lost, and what is not proven is not served."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.runner import open_engine
from repq_deploy.errors import BadInput, ValidationFailed
from repq_deploy.serve.metrics import Metrics
from repq_deploy.serve.model import open_model
from repq_deploy.serve.refusals import Reason, Refused
from repq_deploy.serve.repository import Repository
from repq_deploy.serve.settings import ServeSettings
from tests.serve.running import build_tiny, images, infer_json, running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the same name and shapes with other weights."""
    return build_tiny(tmp_path_factory.mktemp("other"), seed=1)


def copied(engine: Path, folder: Path) -> Path:
    """The three files of an engine, put in place as a build does it."""
    for path in engine.parent.iterdir():
        if path.suffix in (".engine", ".json", ".npz"):
            shutil.copy(path, folder / f"{path.name}.new")
            (folder / f"{path.name}.new").replace(folder / path.name)
    return folder / engine.name


def test_a_new_file_takes_the_old_ones_place_without_a_request_lost(engine: Path, other: Path, tmp_path: Path):
    path, batch = copied(engine, tmp_path), images()
    before, after = (open_engine(one)[0](batch).ravel() for one in (engine, other))
    statuses: list[int] = []
    rows: list[np.ndarray] = []
    enough = threading.Event()
    with running(ServeSettings(engines={"tiny": path}), grpc_port=None) as live:

        def ask() -> None:
            while not enough.is_set():
                found = live.infer(infer_json(batch))
                statuses.append(found.status)
                rows.append(np.array(found.json()["outputs"][0]["data"], np.float32))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        old = live.server.repository.model("tiny")
        copied(other, tmp_path)
        assert live.ask("POST", "/v2/repository/models/tiny/load").status == 200
        asked = len(rows)
        while len(rows) < asked + 8:
            pass
        enough.set()
        for thread in threads:
            thread.join()
        new = live.server.repository.model("tiny")
        assert new.version != old.version and live.metric("repq_model") == 1
        missing = live.ask("POST", f"/v2/models/tiny/versions/{old.version}/infer", infer_json(batch))
        assert missing.status == 404 and new.version in missing.json()["error"]
    assert set(statuses) == {200}
    of_new = [bool((row == after).all()) for row in rows]
    assert all(new or (row == before).all() for new, row in zip(of_new, rows, strict=True))
    assert of_new[0] is False and all(of_new[-4:])


def test_a_new_file_that_is_not_proven_is_refused_and_the_old_one_serves_on(engine: Path, other: Path, tmp_path: Path):
    path, batch = copied(engine, tmp_path), images()
    with running(ServeSettings(engines={"tiny": path}), grpc_port=None) as live:
        expected = live.infer(infer_json(batch)).json()
        shutil.copy(other.with_suffix(".json"), path.with_suffix(".json"))  # of another engine
        found = live.ask("POST", "/v2/repository/models/tiny/load")
        assert (found.status, "not what" in found.json()["error"]) == (500, True)
        assert live.ask("GET", "/v2/health/ready").status == 200
        assert live.infer(infer_json(batch)).json() == expected


def test_an_engine_that_does_not_reproduce_its_reference_is_never_ready(engine: Path, tmp_path: Path):
    path = copied(engine, tmp_path)
    reference = tmp_path / "tiny.reference.npz"
    arrays = dict(np.load(reference))
    np.savez(reference, **{**arrays, "logits": np.roll(arrays["logits"], 1, axis=1)})
    with pytest.raises(ValidationFailed, match="does not reproduce its reference on this machine: SQNR"):
        open_model("tiny", path, ServeSettings(engines={"tiny": path}))


@pytest.mark.parametrize("missing", ["tiny.onnxruntime.engine", "tiny.onnxruntime.json", "tiny.reference.npz"])
def test_files_that_are_missing(engine: Path, tmp_path: Path, missing: str):
    path = copied(engine, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(BadInput, match=f"{missing}.*no such file"):
        open_model("tiny", path, ServeSettings(engines={"tiny": path}))


def test_every_worker_has_an_instance_of_its_own(engine: Path):
    model = open_model("tiny", engine, ServeSettings(engines={"tiny": engine}, workers=3, threads=1))
    names = {thread.name for thread in threading.enumerate()}
    assert {"engine-0", "engine-1", "engine-2"} <= names
    model.batcher.close()
    assert not any(thread.name == "engine-2" for thread in threading.enumerate())


def test_before_it_is_loaded_and_once_it_stops_a_model_is_not_ready(engine: Path):
    async def script() -> list[Reason]:
        repository = Repository(ServeSettings(engines={"tiny": engine}), Metrics())
        reasons = []
        assert not repository.ready and repository.index()[0]["state"] == "UNAVAILABLE"
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await repository.infer("tiny", "", [], [])
            reasons.append(refused.value.reason)
            await repository.load_all()
            assert repository.ready
        await repository.close()
        assert not repository.ready
        return reasons

    assert asyncio.run(script()) == [Reason.NOT_READY, Reason.INVALID]


def test_what_sighup_does_loads_what_changed_and_logs_what_cannot_be(engine: Path, other: Path, tmp_path: Path, caplog):
    async def script() -> list[str]:
        repository = Repository(ServeSettings(engines={"tiny": path}), Metrics())
        await repository.load_all()
        versions = [repository.model("tiny").version]
        for change in (lambda: None, lambda: copied(other, tmp_path), lambda: path.with_suffix(".json").unlink()):
            change()
            await repository.load_changed()
            versions.append(repository.model("tiny").version)
        await repository.close()
        return versions

    path = copied(engine, tmp_path)
    first, same, new, kept = asyncio.run(script())
    assert first == same != new == kept
    assert "the new file is not served: manifest" in caplog.messages[-1]
