"""Folders of Hugging Face models: read without their library, refused in one line, downloaded from a hub."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file

from repq_deploy.calib_data.preprocess import Preprocess
from repq_deploy.errors import BadInput
from repq_deploy.models import hub
from repq_deploy.models.checkpoints import CheckpointFile
from repq_deploy.models.libraries.sources import find_weights
from repq_deploy.models.loading import load_model
from repq_deploy.models.zoo import resolve
from tests.models.libraries.hf_models import make, outputs
from tests.models.loopback_hub import serving

pytest.importorskip("transformers")

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "do_resize": True,
    "size": {"shortest_edge": 37},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.2, 0.3],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mine"
    make("vit").save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A folder of its own, for a test that changes it."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder: Path, name: str, **entries: object) -> None:
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**data, **entries}))


def test_a_folder(saved):
    found = load_model(saved)
    with torch.no_grad():
        assert torch.equal(found.network(IMAGES), load_model(make("vit")).network(IMAGES))
    assert found.classes == ("cat", "dog", "an owl")
    assert (found.spec.name, found.spec.weights) == ("mine", "checkpoint")
    preprocess = found.preprocess
    assert (preprocess.size, preprocess.crop_mode, preprocess.interpolation) == ((32, 32), "center", "bicubic")
    assert (preprocess.mean, preprocess.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))


def test_images_are_prepared_as_its_own_processor_does(saved):
    import transformers

    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    image = Image.fromarray(pixels).resize((200, 150))
    processor = transformers.BitImageProcessorPil.from_pretrained(saved)
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(load_model(saved).preprocess(image), expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["safetensors in parts", "pickled"])
def test_other_layouts_of_weights(copy, layout):
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    if layout == "pickled":
        torch.save(tensors, copy / "pytorch_model.bin")
    else:
        names = sorted(tensors)
        parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        for part, listed in parts.items():
            save_file({name: tensors[name] for name in listed}, copy / part)
        where = {name: part for part, listed in parts.items() for name in listed}
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with torch.no_grad():
        assert torch.equal(load_model(copy).network(IMAGES), load_model(make("vit")).network(IMAGES))


def test_random_weights_need_a_configuration_alone(copy):
    (copy / "model.safetensors").unlink()
    assert load_model(copy, pretrained=False).spec.weights == "random"
    with pytest.raises(BadInput, match=r"no weights in .*; expected model.safetensors or"):
        load_model(copy)


def test_a_folder_without_a_processor_is_said(copy):
    (copy / "preprocessor_config.json").unlink()
    notes: list[str] = []
    assert load_model(copy, note=notes.append).preprocess == Preprocess(
        (32, 32), 1.0, "squash", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    assert notes == [f"model {copy.name}: no preprocessor_config.json: took mean and standard deviation 0.5"]


def test_weights_of_another_model(copy):
    change(copy, "config.json", hidden_size=48)
    with pytest.raises(BadInput, match=r"is \[1, 1, 32\], the model has \[1, 1, 48\]"):
        load_model(copy)
    change(copy, "config.json", hidden_size=32, num_hidden_layers=3)
    with pytest.raises(BadInput, match=r"lacks encoder\.layer\.2"):
        load_model(copy)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": "../x.safetensors"}, "no index of weights"),
        ({}, "no index of weights"),
        ({"a": 1}, "no index of weights"),
    ],
)
def test_an_index_names_files_beside_it_only(copy, parts, message):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(BadInput, match=message):
        load_model(copy)


def test_folders_that_are_no_models(tmp_path, saved):
    with pytest.raises(BadInput, match=r"no config.json in that folder"):
        find_weights(str(tmp_path))
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(BadInput, match="not readable JSON"):
        load_model(tmp_path)
    with pytest.raises(BadInput, match=r"has its own weights; leave out --checkpoint w\.pt"):
        find_weights(str(saved), CheckpointFile(Path("w.pt")))
    with pytest.raises(BadInput, match="has 3 classes, --num-classes says 5"):
        load_model(saved, num_classes=5)


def test_names_of_timm_are_left_alone():
    assert find_weights("deit_s") is None
    assert find_weights("deit_s", CheckpointFile(Path("w.pt"))) == CheckpointFile(Path("w.pt"))


@pytest.mark.parametrize(
    "processor", [{"size": "big"}, {"resample": 17}, {"image_mean": [1, 2, 3, 4]}, {"image_std": 5}]
)
def test_a_processor_that_makes_no_sense(copy, processor):
    change(copy, "preprocessor_config.json", **processor)
    with pytest.raises(BadInput):
        load_model(copy)


def test_the_images_decide_the_size_of_a_dinov2(tmp_path):
    theirs = make("dinov2")
    theirs.save_pretrained(tmp_path)
    crop = {**PROCESSOR, "crop_size": {"height": 48, "width": 48}, "size": {"shortest_edge": 56}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(crop))
    larger = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    found = load_model(tmp_path)
    expected = outputs("dinov2", theirs, larger)
    with torch.no_grad():
        torch.testing.assert_close(found.network(larger), expected, rtol=1e-4, atol=1e-4)
    assert found.preprocess.size == (48, 48)


class TestHub:
    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch, tmp_path):
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "SECONDS", 2.0)

    def point_to(self, server, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    @pytest.mark.parametrize("name", ["mine/vit", "hf:mine/vit"])
    def test_downloaded_then_out_of_the_cache(self, saved, monkeypatch, name):
        notes: list[str] = []
        with serving({f"mine/vit/{file.name}": file.read_bytes() for file in saved.iterdir()}) as server:
            self.point_to(server, monkeypatch)
            found = load_model(name, note=notes.append)
        with torch.no_grad():
            assert torch.equal(found.network(IMAGES), load_model(saved).network(IMAGES))
        assert found.spec == resolve("", checkpoint=find_weights(name)) and found.spec.name == "mine/vit"
        assert found.preprocess == load_model(saved).preprocess
        assert notes == []
        load_model(name, note=notes.append)  # the server is gone
        assert len(notes) == 1 and "took the weights that the cache holds" in notes[0]

    def test_one_that_is_not_there(self, monkeypatch):
        with serving({}) as server:
            self.point_to(server, monkeypatch)
            with pytest.raises(BadInput, match=r"model mine/vit: cannot be downloaded \(.* has no config.json"):
                load_model("mine/vit")
