"""A model repository on disk: versions, what lies in them, and nothing half written or of another model."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.batching import Profile
from repq_deploy.engines.manifest import read_manifest
from repq_deploy.engines.prove_engine import FAILED, Tolerance, Validation
from repq_deploy.errors import BadInput
from repq_deploy.triton import repository as repository_module
from repq_deploy.triton.repository import plan_repository, write_version
from tests.triton.engines import SIDE, write_engine


def put(folder: Path, content: bytes = b"engine", *, triton: str | None = None, force: bool = False, **fields: Any):
    engine, manifest = write_engine(folder, content, **fields)
    repository = plan_repository(
        folder / "models", engine, backend_named(manifest.backend), manifest.profile, triton=triton, force=force
    )
    return write_version(repository, engine, manifest)


def tree(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_what_a_version_holds(tmp_path):
    version = put(tmp_path)
    assert version == tmp_path / "models" / "vit" / "1"
    files = ["1/manifest.json", "1/model.onnx", "1/reference.npz", "config.pbtxt", "labels.txt", "warmup/reference_0"]
    assert tree(tmp_path / "models" / "vit") == files
    assert (version / "model.onnx").read_bytes() == b"engine"
    assert (version.parent / "labels.txt").read_text() == 'ape\nbee "b"\ncat\ndog\n'
    with np.load(version / "reference.npz") as reference:
        image = reference["images"][0]
    assert image.nbytes == 4 * 3 * SIDE * SIDE
    assert (version.parent / "warmup" / "reference_0").read_bytes() == image.tobytes()
    assert stat.S_IMODE(version.stat().st_mode) & 0o055  # who runs the server may be somebody else


def test_pythons_backend_has_its_model(tmp_path):
    version = put(tmp_path, triton="python")
    assert {file.name for file in version.iterdir()} == {"engine.onnx", "manifest.json", "model.py", "reference.npz"}
    assert "class TritonPythonModel" in (version / "model.py").read_text()
    assert "repq_deploy" not in (version / "model.py").read_text()


def test_a_rebuild_is_a_new_version_and_the_old_ones_stay(tmp_path):
    for number, content in enumerate((b"one", b"two", b"three"), 1):
        assert put(tmp_path, content).name == str(number)
    models = tmp_path / "models" / "vit"
    assert [(models / str(number) / "model.onnx").read_bytes() for number in (1, 2, 3)] == [b"one", b"two", b"three"]
    assert put(tmp_path, b"three").name == "3"  # the same engine
    assert put(tmp_path, b"one").name == "4"  # back to an older one
    (models / "07").mkdir()  # no version: Triton takes no zeros ahead
    assert put(tmp_path, b"two").name == "5"


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository_module.shutil, "copyfile", fail)
    with pytest.raises(BadInput, match="No space left on device; no version was written"):
        put(tmp_path)
    assert tree(tmp_path / "models") == []
    monkeypatch.undo()
    put(tmp_path)
    monkeypatch.setattr(repository_module.shutil, "copyfile", fail)
    with pytest.raises(BadInput, match="no version was written"):
        put(tmp_path, b"new")
    assert {entry.name for entry in (tmp_path / "models" / "vit").iterdir() if entry.is_dir()} == {"1", "warmup"}


@pytest.mark.parametrize(
    "other",
    [
        {"image_shape": (3, 2 * SIDE, SIDE)},
        {"outputs": 5, "metadata": {}},
        {"backend": "tensorrt"},
        {"triton": "python"},
    ],
)
def test_one_name_is_one_interface(tmp_path, other: dict[str, Any]):
    put(tmp_path)
    with pytest.raises(BadInput, match="its version 1 takes other images, gives other outputs or is for another"):
        put(tmp_path, b"other", **other)
    assert put(tmp_path, b"other", force=True, **other).name == "2"


def test_a_folder_of_somebody_else(tmp_path):
    model = tmp_path / "models" / "vit"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text('name: "vit"\n')
    with pytest.raises(BadInput, match="is there, and not of repq-deploy; name another folder, or --force"):
        put(tmp_path)
    assert put(tmp_path, force=True).name == "1"


def test_an_engine_that_failed_is_not_put_in(tmp_path):
    with pytest.raises(BadInput, match="FAILED: wrong"):
        put(tmp_path, validation=Validation(FAILED, "wrong", Tolerance(25, 30)))
    assert not (tmp_path / "models").exists()


def test_what_cannot_be_planned(tmp_path):
    engine, manifest = write_engine(tmp_path)
    with pytest.raises(BadInput, match="--min-batch 2: Triton also sends batches of 1"):
        plan_repository(tmp_path / "models", engine, backend_named("onnxruntime"), Profile(2, 4, 8))
    with pytest.raises(BadInput, match="expected a folder, found nothing"):
        plan_repository(tmp_path / "no" / "models", engine, backend_named("onnxruntime"), Profile())
    with pytest.raises(BadInput, match="expected a folder, found file"):
        plan_repository(engine, engine, backend_named("onnxruntime"), Profile())
    assert read_manifest(engine) == manifest


def test_the_name_is_what_stands_before_the_backend(tmp_path):
    assert put(tmp_path, name="vit.b16").parent.name == "vit.b16"
