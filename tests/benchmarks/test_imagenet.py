"""The table on ImageNet: its cells, its labels, its page, and the whole command on a small folder in that layout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from repq_deploy.errors import BadInput

#: The first, the third and the last of ImageNet's 1000 classes, by the order of their WordNet ids.
CLASSES = {"n01440764": 0, "n01484850": 2, "n15075141": 999}


@pytest.fixture
def imagenet(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("imagenet")


def write_folder(root: Path, names: list[str], count: int = 2) -> Path:
    generator = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"ILSVRC2012_val_{number:08d}.JPEG", format="JPEG")
    return root


def record(model: str, bits: str, method: str, top1: float, seed: int = 0, images: int = 32) -> dict[str, Any]:
    how = {"interpolation": "bicubic", "crop_pct": 0.875, "size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    cell = {"model": model, "bits": bits, "method": method, "seed": seed, "images": images, "top1": top1}
    return cell | {"weights": "w", "preset": "paper", "standard_error": 0.2, "validation_images": 6, "preprocess": how}


def test_labels_are_places_among_the_thousand(imagenet: ModuleType, tmp_path: Path) -> None:
    source = imagenet.validation(write_folder(tmp_path / "val", list(CLASSES)))
    assert [CLASSES[name.partition("/")[0]] for name in source.names] == source.labels.tolist()
    assert len(source.class_names) == 1000


def test_folders_of_other_names_are_refused(imagenet: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="folder cats is no class of ImageNet-1k's WordNet ids"):
        imagenet.validation(write_folder(tmp_path / "val", ["n01440764", "cats"]))


def test_images_in_no_folders_are_refused(imagenet: ModuleType, tmp_path: Path) -> None:
    write_folder(tmp_path / "val", ["n01440764"])
    with pytest.raises(BadInput, match="in no class folders; expected n01440764"):
        imagenet.validation(tmp_path / "val" / "n01440764")


def test_published_figures_are_whole(imagenet: ModuleType) -> None:
    data = imagenet.published()
    assert len(data["models"]) == 9
    for row in data["rows"]:
        assert row["source"]
        assert row["bits"] in imagenet.BITS
        assert row["ours"] is None or row["ours"] in imagenet.METHODS
        assert set(row["top1"]) <= set(data["models"])
        assert all(0 < top1 < (data["models"][model]["float"] or 100) + 0.5 for model, top1 in row["top1"].items())
    for model in data["models"].values():
        assert timm.models.get_pretrained_cfg(model["timm"]).tag == model["timm"].partition(".")[2]


def test_the_page_puts_ours_beside_the_published(imagenet: ModuleType) -> None:
    records = [
        record("deit_t", "float", "float", 72.0, images=0),
        record("deit_t", "w4a4", "repq", 57.0),
        record("deit_t", "w4a4", "repq", 58.0, seed=1),
    ]
    page = imagenet.report(records, imagenet.published(), ["deit_t", "deit_s"]).splitlines()
    assert "| float | float |  | 72.00 |  | 1 seed |" in page
    assert "| float | float |  | 72.21 | 79.85 | as the papers give it |" in page
    assert "| w4a4 | **ours, `repq`** | 32 | 57.50 |  | 2 seeds |" in page
    assert any(line.startswith("| w4a4 | RepQ-ViT | 32 | 57.43 | 69.03 | its README") for line in page)
    assert not any("| w6a6" in line for line in page)
    assert any(line.startswith("* deit_t: w, resized (bicubic) and cropped to 0.875") for line in page)


def test_a_line_that_was_cut_is_passed_over(imagenet: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps({"key": "a", "top1": 1.0}) + '\n{"key": "b", "to')
    assert list(imagenet.read_records(file)) == ["a"]


def test_a_record_is_of_what_it_was_made_of(imagenet: ModuleType, tmp_path: Path) -> None:
    val, calib = (str(write_folder(tmp_path / name, ["n01440764"])) for name in ("val", "calib"))
    rest = {"checkpoints": None, "preset": "paper", "batch_size": 2, "devices": ("cpu",), "claims": "", "work": ""}
    setting = imagenet.Setting({"deit_t": "x.y"}, {"deit_t": 0.875}, {"repq": 2}, val, calib, **rest)
    cell = imagenet.Cell("deit_t", "w4a4", "repq", 0)
    images = imagenet.images_of(setting, cell)
    made = imagenet.made_of(setting, cell, images, "digest")
    assert made["images"] == 2
    assert made["weights"] == "x.y"
    others = [
        imagenet.made_of(setting, imagenet.Cell("deit_t", "w4a4", "repq", 1), images, "digest"),
        imagenet.made_of(setting, cell, images.select([0]), "digest"),
        imagenet.made_of(imagenet.Setting(**asdict(setting) | {"preset": "deploy"}), cell, images, "digest"),
        imagenet.made_of(setting, cell, images, "another"),
    ]
    assert len({imagenet.key_of(each) for each in (made, *others)}) == 5


def test_each_process_claims_a_device_of_its_own(imagenet: ModuleType, tmp_path: Path) -> None:
    rest = {"val": "", "calib": "", "checkpoints": None, "preset": "paper", "batch_size": 2, "work": ""}
    setting = imagenet.Setting({}, {}, {}, devices=("cuda:0", "cuda:1"), claims=str(tmp_path), **rest)
    claimed = imagenet.imagenet_cells._claimed
    assert [claimed(setting), claimed(setting)] == ["cuda:0", "cuda:1"]


@pytest.mark.slow
def test_over_ray(imagenet: ModuleType, tmp_path: Path) -> None:
    """Whose workers know nothing of this folder of scripts."""
    pytest.importorskip("ray")
    val = str(write_folder(tmp_path / "val", list(CLASSES)))
    (tmp_path / "weights").mkdir()
    save_file(timm.create_model("deit_tiny_patch16_224").state_dict(), tmp_path / "weights" / "deit_t.safetensors")
    command = [sys.executable, imagenet.__file__, "--val", val, "--calib", val, "--output", str(tmp_path / "out")]
    command += ["--checkpoints", str(tmp_path / "weights"), "--models", "deit_t", "--bits", "w8a8"]
    command += ["--methods", "minmax", "--num-calib", "2", "--ray", "local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 cells" in done.stdout


@pytest.mark.slow
def test_the_whole_command(imagenet: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights; then nothing is left to do, and of another method only its own cell."""
    val, calib = (str(write_folder(tmp_path / name, list(CLASSES))) for name in ("val", "calib"))
    torch.manual_seed(0)
    (tmp_path / "weights").mkdir()
    save_file(timm.create_model("deit_tiny_patch16_224").state_dict(), tmp_path / "weights" / "deit_t.safetensors")
    output = tmp_path / "out"
    command = ["--val", val, "--calib", calib, "--output", str(output), "--checkpoints", str(tmp_path / "weights")]
    command += ["--models", "deit_t", "--bits", "w8a8", "--num-calib", "2"]

    assert imagenet.main([*command, "--methods", "minmax", "--dry-run"]) == 0
    assert "2 of 2 cells to do on 6 images" in capsys.readouterr().out
    assert not output.exists()
    assert imagenet.main([*command, "--methods", "minmax", "--workers", "2"]) == 0
    assert "2 of 2 cells" in capsys.readouterr().out
    first = (output / "results.jsonl").read_text()
    assert {json.loads(line)["validation_images"] for line in first.splitlines()} == {6}
    assert imagenet.main([*command, "--methods", "minmax", "percentile"]) == 0
    assert "[1/1] deit_t w8a8 percentile" in capsys.readouterr().out
    assert (output / "results.jsonl").read_text().startswith(first)
    assert "**ours, `minmax`**" in (output / "imagenet.md").read_text()
    assert imagenet.main([*command, "--methods", "minmax", "--models", "deit_s"]) == 2
    assert "no deit_s.safetensors" in capsys.readouterr().err
