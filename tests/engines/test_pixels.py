"""A model of bytes from its file to its engines: proven, validated, and refused what it cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from repq_deploy.calib_data import Preprocess
from repq_deploy.engines.backends import backend_named
from repq_deploy.engines.build import build_planned, plan_build, validate_engine
from repq_deploy.engines.float_twin import float_twin
from repq_deploy.engines.prove_engine import NOT_RUN, PASSED
from repq_deploy.engines.reference import IMAGES, make_reference, read_reference
from repq_deploy.engines.runner import open_engine
from repq_deploy.engines.source import SourceModel, read_source
from repq_deploy.errors import BadInput
from repq_deploy.export import names
from repq_deploy.export.onnx_session import reference_session
from repq_deploy.export.passes.base import run_passes
from repq_deploy.export.passes.pixel_input import pixel_passes
from repq_deploy.inputs import ImageInput
from tests.engines.graphs import SIDE, oracle, tiny

PREPROCESS = Preprocess((SIDE, SIDE), 1.0, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_pixels(folder: Path, layout: str = "nhwc", **changes: str) -> SourceModel:
    """``tests.engines.graphs.tiny`` for bytes; ``changes`` are of its metadata."""
    form = ImageInput((SIDE, SIDE), "uint8", layout)
    model = tiny()
    onnx.helper.set_model_props(
        model,
        names.recorded(model) | {names.PREPROCESS: PREPROCESS.to_json()} | names.input_entry(form) | changes,
    )
    model, _ = run_passes(model, pixel_passes(form, PREPROCESS.to_json()))
    path = folder / "tiny.onnx"
    path.write_bytes(model.SerializeToString())
    return read_source(path)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_engine_of_bytes_is_proven_and_computes_what_the_float_one_does(tmp_path, backend, layout):
    if not backend_named(backend).is_installed():
        pytest.skip(f"{backend} is not installed")
    source = write_pixels(tmp_path, layout)
    reference = make_reference(source, data=None, seed=0)
    assert (reference.images.dtype, reference.images.shape[1:]) == (np.uint8, source.input.shape)
    built = build_planned(plan_build(source, backend_named(backend), stem=tmp_path / "tiny"), reference)
    assert built.manifest.validation.verdict == PASSED
    assert built.manifest.kernel_codes is not None
    assert built.manifest.kernel_codes.unexplained == 0
    assert validate_engine(built.engine).validation.verdict == PASSED
    run, manifest = open_engine(built.engine)
    assert (manifest.input, manifest.image_shape) == (source.input, source.input.shape)
    pixels = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)
    expected = oracle(tiny(), PREPROCESS.normalized(pixels))
    np.testing.assert_allclose(run(source.input.of_pixels(pixels)), expected, atol=0.05)
    with pytest.raises(BadInput, match="this engine takes uint8"):
        run(PREPROCESS.normalized(pixels))


@pytest.mark.slow
def test_tensorrt_rtx_takes_bytes_in_either_layout(tmp_path):
    backend = backend_named("tensorrt-rtx")
    if not backend.is_installed():
        pytest.skip("TensorRT-RTX is not installed")
    for layout in ("nhwc", "nchw"):
        source = write_pixels(tmp_path, layout)
        built = build_planned(
            plan_build(source, backend, stem=tmp_path / layout), make_reference(source, data=None, seed=0)
        )
        assert built.manifest.validation.verdict in (NOT_RUN, PASSED)


def test_the_float_twin_takes_the_same_bytes(tmp_path):
    source = write_pixels(tmp_path)
    twin = float_twin(source.model)
    assert names.recorded_input(names.recorded(twin), source.input.shape) == source.input
    pixels = source.input.random(4)
    (found,) = reference_session(twin).run(None, {"images": pixels})
    (quantized,) = reference_session(source.model).run(None, {"images": pixels})
    assert found.shape == quantized.shape
    assert np.abs(found - quantized).max() < 0.1


def test_reference_images_are_bytes_of_files_of_folders_and_of_noise(tmp_path):
    source = write_pixels(tmp_path)
    pixels = source.input.random(7)
    np.save(tmp_path / "images.npy", pixels)
    np.testing.assert_array_equal(
        make_reference(source, data=str(tmp_path / "images.npy"), seed=0).images, pixels[:IMAGES]
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, image in enumerate(pixels[:IMAGES]):
        Image.fromarray(image).save(folder / f"{index}.png")
    reference = make_reference(source, data=str(folder), seed=0)
    assert sorted(map(bytes, reference.images)) == sorted(map(bytes, pixels[:IMAGES]))
    (tmp_path / "r.npz").write_bytes(reference.to_bytes())
    assert read_reference(tmp_path / "r.npz").images.dtype == np.uint8
    noise = make_reference(source, data=None, seed=0).images
    assert abs(PREPROCESS.normalized(noise).mean()) < 0.1
    np.save(tmp_path / "numbers.npy", PREPROCESS.normalized(pixels))
    with pytest.raises(BadInput, match="expected RGB images in uint8"):
        make_reference(source, data=str(tmp_path / "numbers.npy"), seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({names.INPUT_FORM: '{"dtype": "uint8", "layout": "nchw"}'}, r"expected \[3, H, W\]"),
        ({names.INPUT_FORM: '{"dtype": "float32", "layout": "nhwc"}'}, "float32 images in the layout nhwc"),
        ({names.INPUT_FORM: '{"dtype": "uint8"}'}, "expected dtype and layout"),
    ],
)
def test_a_file_whose_record_is_not_of_its_input_is_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        write_pixels(tmp_path, **changes)


def test_a_file_of_bytes_without_a_record_is_refused(tmp_path):
    source = write_pixels(tmp_path)
    metadata = {key: value for key, value in source.metadata.items() if key != names.INPUT_FORM}
    onnx.helper.set_model_props(source.model, metadata)
    source.path.write_bytes(source.model.SerializeToString())
    with pytest.raises(BadInput, match="'images' must be float32 of rank 4"):
        read_source(source.path)
