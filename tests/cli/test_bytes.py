"""From class folders to an engine of bytes that says which class an image is of, by the commands."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from repq_deploy.calib_data import open_images
from repq_deploy.cli import build_engine, evaluate, export, inspect

NAMES = tuple(f"class {letter}" for letter in "abcdefghij")


@pytest.mark.slow
def test_images_in_class_folders_become_an_engine_of_bytes_with_names(call, tmp_path):
    folder, demo = tmp_path / "images", open_images("demo:calib")
    for name in NAMES:
        (folder / name).mkdir(parents=True)
    for index in range(60):
        image: Image.Image = demo.read(index)
        image.save(folder / NAMES[demo.labels[index]] / f"{index}.png")
    file, options = tmp_path / "demo.onnx", ("--method", "minmax", "--num-calib", 48, "--calib-data", folder)
    done = call(export.main, "demo", "--input", "uint8", "-o", file, *options)
    assert (done.code, "names of classes: the 10 folders" in " ".join(done.err.split())) == (0, True), done.err
    built = call(build_engine.main, file, "--backend", "onnxruntime", "--json", "--reference-data", folder)
    assert built.code == 0, built.err
    engine = json.loads(built.out)["engines"][0]["engine"]
    shown = json.loads(call(inspect.main, engine, "--json").out)
    assert (shown["input"], shown["input_dtype"]) == (["batch", 28, 28, 3], "uint8")
    assert tuple(shown["class_names"]) == NAMES
    assert "takes images uint8 [batch, 28, 28, 3]" in call(inspect.main, file).out
    scored = json.loads(call(evaluate.main, engine, "--data", folder, "--against", file, "--json").out)
    assert scored["class_order"] == f"recorded in {engine}"
    assert {one["name"] for one in scored["classes"]} == set(NAMES)
    assert scored["top1"] >= 85
    assert scored["agreement"] >= 95
    assert "least accurate classes: class " in call(evaluate.main, engine, "--data", folder).out
