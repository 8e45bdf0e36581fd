"""The files of the reference tensors, read back by Polygraphy where it is there, and by hand."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest

from repq_deploy.engines.batching import Profile
from repq_deploy.engines.reference import Reference
from repq_deploy.errors import BadInput
from repq_deploy.exchange.folder import prepare_folder, write_together
from repq_deploy.exchange.tensors import raw_file, reference_tensors, tensor_file_names, tensor_files
from repq_deploy.outputs import Outputs

TWO = Outputs({"logits": (4,), "block/2": (2, 3)})


@pytest.fixture
def reference() -> Reference:
    rng = np.random.default_rng(0)
    images, rows = rng.normal(size=(6, 3, 8, 8)), rng.normal(size=(6, 10))
    return Reference(images.astype(np.float32), rows.astype(np.float32), {"fp16": 40.0, "fp32": 80.0}, "0", "noise")


@pytest.mark.parametrize(
    ("profile", "rows"),
    [
        (Profile(), [0, 1, 2, 3, 4, 5]),
        (Profile(1, 2, 4), [0, 1, 2, 3]),
        (Profile(8, 8, 8), [0, 1, 2, 3, 4, 5, 5, 5]),
        (Profile(1, 1, 1), [0]),
    ],
)
def test_one_batch_that_the_engine_takes(reference: Reference, profile: Profile, rows: list[int]) -> None:
    tensors = reference_tensors(reference, TWO, profile)
    assert tensors.batch == len(rows)
    np.testing.assert_array_equal(tensors.images, reference.images[rows])
    np.testing.assert_array_equal(tensors.outputs["logits"], reference.logits[rows, :4])
    np.testing.assert_array_equal(tensors.outputs["block/2"], reference.logits[rows, 4:].reshape(-1, 2, 3))


def test_raw_tensors_are_bytes_in_c_order(reference: Reference, tmp_path: Path) -> None:
    tensors = reference_tensors(reference, TWO, Profile())
    names = ["images.bin", "logits.bin", "block_2.bin", "inputs.json", "outputs.json"]
    assert [path.name for path in write_together(tmp_path, tensor_files(tensors))] == names
    assert tensor_file_names(TWO.names) == tuple(names)
    found = np.fromfile(tmp_path / "block_2.bin", np.float32).reshape(6, 2, 3)
    np.testing.assert_array_equal(found, tensors.outputs["block/2"])
    np.testing.assert_array_equal(np.fromfile(tmp_path / "images.bin", np.float32), reference.images.ravel())
    assert raw_file("a:b,c d") == "a_b_c_d.bin"


def test_the_json_holds_npy_files(reference: Reference, tmp_path: Path) -> None:
    write_together(tmp_path, tensor_files(reference_tensors(reference, TWO, Profile())))
    (feed,) = json.loads((tmp_path / "inputs.json").read_text())
    assert feed["images"]["polygraphy_class"] == "ndarray"
    array = np.load(io.BytesIO(base64.b64decode(feed["images"]["array"])), allow_pickle=False)
    np.testing.assert_array_equal(array, reference.images)


def test_polygraphy_reads_them(reference: Reference, tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason="Polygraphy is not installed")
    from polygraphy.comparator import RunResults
    from polygraphy.json import load_json

    tensors = reference_tensors(reference, TWO, Profile(1, 2, 4))
    write_together(tmp_path, tensor_files(tensors))
    (feed,) = load_json(str(tmp_path / "inputs.json"))
    assert list(feed) == ["images"]
    assert feed["images"].dtype == np.float32
    np.testing.assert_array_equal(feed["images"], tensors.images)
    results = RunResults.load(str(tmp_path / "outputs.json"))
    ((name, (iteration,)),) = list(results.items())
    assert name == "repq-deploy"
    assert list(iteration.keys()) == ["logits", "block/2"]
    np.testing.assert_array_equal(iteration["block/2"], tensors.outputs["block/2"])


def test_polygraphy_writes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason="Polygraphy is not installed")
    from polygraphy.comparator import RunResults
    from polygraphy.json import to_json

    from repq_deploy.exchange.polygraphy import inputs_json, outputs_json

    array = np.arange(6, dtype=np.float32).reshape(1, 6)
    assert json.loads(inputs_json({"images": array})) == json.loads(to_json([{"images": array}]))
    results = RunResults()
    results.add([{"logits": array}], runner_name="repq-deploy")
    assert json.loads(outputs_json({"logits": array}, runner="repq-deploy")) == json.loads(results.to_json())


def test_a_folder_is_ours_by_its_mark_only(tmp_path: Path) -> None:
    def prepare(folder: Path, *, force: bool = False) -> None:
        prepare_folder(folder, ("inputs.json",), mark="outputs.json", what="--exchange", force=force)

    prepare(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInput, match="does not exist; create it first"):
        prepare(tmp_path / "a" / "b")
    (tmp_path / "inputs.json").write_text("mine")
    with pytest.raises(BadInput, match="is there, and not of repq-deploy"):
        prepare(tmp_path)
    prepare(tmp_path, force=True)
    (tmp_path / "outputs.json").write_text("mine too")
    with pytest.raises(BadInput, match="is there, and not of repq-deploy"):
        prepare(tmp_path)
    (tmp_path / "outputs.json").write_text('["repq-deploy"]')
    prepare(tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        prepare(tmp_path / "inputs.json")


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    assert write_together(folder, {"a": b"1", "mark": b"2"}) == (folder / "a", folder / "mark")
    (folder / "b").mkdir()
    with pytest.raises(BadInput, match="nothing was written"):
        write_together(folder, {"a": b"3", "b": b"4", "mark": b"5"})
    assert (folder / "mark").read_bytes() == b"2"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "mark"]
    with pytest.raises(BadInput, match="nothing was written"):
        write_together(folder / "a" / "in", {"a": b""})
